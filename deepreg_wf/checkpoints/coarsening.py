"""Ratio between the coarse grid of a network and the registration grid."""

from __future__ import annotations

from collections.abc import Sequence

from deepreg_wf.errors import InputError

SPACING_TOLERANCE = 0.1
"""Largest relative deviation of the coarse grid from the spacing of the training."""


def coarsening_factor(voxel_size: Sequence[float], spacing: float) -> int:
    """Return the number of voxels along each side of a coarse voxel.

    Parameters
    ----------
    voxel_size : sequence of float
        Voxel size of the registration grid along each axis, in mm.
    spacing : float
        Spacing in mm of the coarse grid on which the network was trained.

    Returns
    -------
    int
        At least 1.

    Raises
    ------
    InputError
        If no integer multiple of the voxel size comes near `spacing`.

    Examples
    --------
    >>> coarsening_factor((2.0, 2.0, 2.0), 4.0)
    2
    """
    factor = max(1, round(spacing / max(voxel_size)))
    if any(abs(factor * size / spacing - 1) > SPACING_TOLERANCE for size in voxel_size):
        sizes = voxel_size[:1] if len(set(voxel_size)) == 1 else voxel_size
        voxels = ' x '.join(f'{size:g}' for size in sizes)
        raise InputError(
            f'the network works on a grid of {spacing:g} mm, which is not a multiple of the '
            f'voxel size of {voxels} mm',
            advice=f'register at {spacing:g} mm (--registration-resolution) or at an integer '
            'fraction of it',
        )
    return factor

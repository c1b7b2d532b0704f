"""Regularity and inverse consistency of maps of points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepreg_wf.errors import InputError
from deepreg_wf.spatial import Transform, TransformChain, VoxelGrid, load_chain

Array = NDArray[np.float64]

_SLAB_VOXELS = 250_000
"""Number of voxels that are processed at once, to bound the memory."""


@dataclass(frozen=True)
class TransformFile:
    """File with a transform.

    Attributes
    ----------
    path : Path
    inverted : bool
        If true, the inverse of the transform is meant, as by ANTs' ``[FILE,1]``.
    """

    path: Path
    inverted: bool = False


def load_map(files: Sequence[TransformFile]) -> TransformChain:
    """Read a chain of transforms, in the order of ``antsApplyTransforms``.

    Parameters
    ----------
    files : sequence of TransformFile
        The last transform is applied to an image first, and the first one to a point. Without
        files, the map is the identity.

    Returns
    -------
    Chain

    Raises
    ------
    InputError
        If a file is not usable, or a displacement field is to be inverted.
    """
    # ITK stacks transforms, also within a file, in the opposite order.
    return TransformChain([link for file in reversed(files) for link in _load(file)])


def _load(file: TransformFile) -> list[Transform]:
    """Read the transforms of one file, inverted if that is asked for."""
    links = list(load_chain(file.path).transforms)
    parts = (part for link in links for part in (link.affine, link.warp) if part is not None)
    if not all(np.isfinite(part).all() for part in parts):
        raise InputError(
            'it has values that are not finite numbers',
            advice='run the registration that made it again',
            path=file.path,
        )
    if not file.inverted:
        return links
    if any(link.warp is not None for link in links):
        raise InputError(
            'only an affine can be inverted by [FILE,1]',
            advice='give the file of the inverse displacement field',
            path=file.path,
        )
    try:
        inverses = [np.linalg.inv(link.affine) for link in reversed(links)]
    except np.linalg.LinAlgError:
        raise InputError(
            'its matrix has no inverse',
            advice='run the registration that made it again',
            path=file.path,
        ) from None
    return [Transform(affine=np.asarray(inverse, dtype=np.float64)) for inverse in inverses]


def jacobian_determinant(mapping: TransformChain, grid: VoxelGrid) -> Array:
    """Compute the Jacobian determinant of a map by finite differences between voxels.

    Differences are central inside the grid and one-sided at its border. The determinant of an
    affine is exact.

    Parameters
    ----------
    mapping : Chain
        Map of points in RAS+ mm.
    grid : VoxelGrid
        Points at which to compute it; at least two voxels along each axis.

    Returns
    -------
    ndarray, shape of the grid
    """
    determinant = np.empty(grid.shape)
    length, *across = grid.shape
    thickness = max(1, _SLAB_VOXELS // (across[0] * across[1]))
    for start in range(0, length, thickness):
        stop = min(start + thickness, length)
        low, high = max(start - 1, 0), min(stop + 1, length)
        voxels = np.mgrid[low:high, : across[0], : across[1]].astype(np.float64)
        # Points and their images are both in voxels of this grid: a determinant does not depend
        # on the coordinates.
        mapped = mapping.map_coordinates(voxels, to_ras=grid.affine, from_ras=grid.inverse_affine)
        along_x, along_y, along_z = np.gradient(mapped, axis=(1, 2, 3))
        volume = (along_x * np.cross(along_y, along_z, axis=0)).sum(axis=0)
        determinant[start:stop] = volume[start - low : stop - low]
    return determinant


def jacobian_measures(determinant: Array) -> dict[str, float | None]:
    """Summarise the Jacobian determinants of a map.

    Parameters
    ----------
    determinant : ndarray
        Any shape.

    Returns
    -------
    dict of str to float or None
        ``min``, ``p1`` (1st percentile), ``max``, ``folded`` (fraction that is not positive) and
        ``logsd`` (standard deviation of the natural logarithm of the positive ones; None if
        there are none).
    """
    positive = determinant[determinant > 0]
    return {
        'min': float(determinant.min()),
        'p1': float(np.percentile(determinant, 1)),
        'max': float(determinant.max()),
        'folded': (determinant.size - positive.size) / determinant.size,
        'logsd': float(np.log(positive).std()) if positive.size else None,
    }


def inverse_error(mapping: TransformChain, inverse: TransformChain, points: Array) -> Array:
    """Compute the distance between points x and ``inverse(mapping(x))``.

    Parameters
    ----------
    mapping, inverse : Chain
        Maps of points in RAS+ mm.
    points : ndarray, shape (N, 3)
        RAS+ mm, in the space from which `mapping` maps.

    Returns
    -------
    ndarray, shape (N,)
        Distances in mm.
    """
    returned = inverse.map_points(mapping.map_points(points))
    return np.asarray(np.linalg.norm(returned - points, axis=1), dtype=np.float64)

"""Resampling of an image onto a grid through a transform."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from deepreg_wf.spatial.grid import VoxelGrid
from deepreg_wf.spatial.transform import Transform, TransformChain, outside

Interpolation = Literal['linear', 'nearest', 'cubic']

_ORDERS = {'nearest': 0, 'linear': 1, 'cubic': 3}

_SLAB_VOXELS = 250_000
"""Voxels that are resampled at a time, to limit the memory."""


def resample(
    data: NDArray[np.floating],
    source: VoxelGrid,
    target: VoxelGrid,
    transform: Transform | TransformChain | None = None,
    *,
    interpolation: Interpolation = 'linear',
    default_value: float = 0.0,
) -> NDArray[np.float32]:
    """Resample an image onto a grid through a transform, with a single interpolation.

    As in ITK, an image is defined up to the outer faces of its voxels; values in the outer half of
    the outermost voxels are extrapolated.

    Parameters
    ----------
    data : ndarray, shape (X, Y, Z)
        The image to read. Its values are finite.
    source : VoxelGrid
        Its grid.
    target : VoxelGrid
        The grid to fill.
    transform : Transform or TransformChain, optional
        Maps points of the target to points of the source; the identity by default.
    interpolation : {'linear', 'nearest', 'cubic'}
        'cubic' is a B-spline through the voxels, which may overshoot at edges.
    default_value : float
        Value of voxels that are mapped outside the source.

    Returns
    -------
    ndarray of float32, shape of the target
        The resampled image.
    """
    transform = Transform() if transform is None else transform
    order = _ORDERS[interpolation]
    values = np.asarray(data, dtype=np.float32)
    if order > 1:
        values = ndimage.spline_filter(values, order, output=np.float32, mode='mirror')
    filled = np.empty(target.shape, dtype=np.float32)
    for slab in _slabs(target.shape):
        axes = [np.arange(slab.start, slab.stop), *map(np.arange, target.shape[1:])]
        voxels = transform.map_grid(
            [axis.astype(np.float64) for axis in axes],
            to_ras=target.affine,
            from_ras=source.inverse_affine,
        )
        ndimage.map_coordinates(
            values,
            voxels,
            output=filled[slab],
            order=order,
            mode='mirror' if order > 1 else 'nearest',
            prefilter=False,
        )
        filled[slab][outside(voxels, source.shape)] = default_value
    return filled


def _slabs(shape: tuple[int, int, int]) -> Iterator[slice]:
    """Yield slices of the first axis that hold about `_SLAB_VOXELS` voxels each."""
    thickness = max(1, _SLAB_VOXELS // (shape[1] * shape[2]))
    for start in range(0, shape[0], thickness):
        yield slice(start, min(start + thickness, shape[0]))

"""Resampling: an image, seen through a transform, on the voxels of a grid."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from deepreg_wf.spatial.grid import VoxelGrid
from deepreg_wf.spatial.transform import Chain, Transform, outside

Interpolation = Literal['linear', 'nearest', 'cubic']

_ORDERS = {'nearest': 0, 'linear': 1, 'cubic': 3}

_SLAB = 250_000
"""Voxels resampled at a time, which bounds the memory."""


def resample(
    data: NDArray[np.floating],
    source: VoxelGrid,
    target: VoxelGrid,
    transform: Transform | Chain | None = None,
    *,
    interpolation: Interpolation = 'linear',
    default_value: float = 0.0,
) -> NDArray[np.float32]:
    """Resample an image onto a grid through a transform, with a single interpolation.

    As in ITK, an image is defined in all of its voxels, to their outer faces; the outer half of
    the outermost ones is extrapolated.

    Parameters
    ----------
    data : ndarray, shape (X, Y, Z)
        The image to read, finite.
    source : VoxelGrid
        Its grid.
    target : VoxelGrid
        The grid to fill.
    transform : Transform or Chain, optional
        Maps points of the target to points of the source; the identity by default.
    interpolation : {'linear', 'nearest', 'cubic'}
        'cubic' is a B-spline through the voxels, which may overshoot at edges.
    default_value : float
        Where a voxel of the target comes from outside the source.

    Returns
    -------
    ndarray of float32, shape of the target
    """
    transform = Transform() if transform is None else transform
    order = _ORDERS[interpolation]
    values = np.asarray(data, dtype=np.float32)
    if order > 1:
        values = ndimage.spline_filter(values, order, output=np.float32, mode='mirror')
    filled = np.empty(target.shape, dtype=np.float32)
    for slab in _slabs(target.shape):
        axes = [np.arange(slab.start, slab.stop), *map(np.arange, target.shape[1:])]
        voxels = transform.map_lattice(
            [axis.astype(np.float64) for axis in axes], start=target.affine, end=source.to_voxels
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
    """Slices of the first axis that hold about as many voxels as a slab may."""
    thickness = max(1, _SLAB // (shape[1] * shape[2]))
    for start in range(0, shape[0], thickness):
        yield slice(start, min(start + thickness, shape[0]))

"""Binary masks: reading, volume, components, holes and bounding boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from deepreg_wf.errors import InputError
from deepreg_wf.spatial import VoxelGrid, load_image

Mask = NDArray[np.bool_]

SAME_PLACE = 1e-3
"""Difference between two affines, in mm, that single precision in headers explains."""


def read_mask(path: str | Path, grid: VoxelGrid) -> Mask:
    """Read the mask of an image.

    Parameters
    ----------
    path : path
    grid : VoxelGrid
        Of the image.

    Returns
    -------
    ndarray of bool, shape (X, Y, Z)
        What is positive.

    Raises
    ------
    InputError
        If it cannot be read, is empty, or lies elsewhere.
    """
    values, own_grid = load_image(path)
    apart = np.abs(own_grid.affine - grid.affine).max()
    if own_grid.shape != grid.shape or apart > SAME_PLACE:
        raise InputError(
            f'{path}: the mask is not on the grid of its image; give the one that belongs to it, '
            'or resample it.'
        )
    mask = values > 0
    if not mask.any():
        raise InputError(f'{path}: the mask is empty; give one that marks the brain.')
    return mask


def volume_ml(mask: Mask, grid: VoxelGrid) -> float:
    """Volume of a mask in mL."""
    voxel = abs(np.linalg.det(grid.affine[:3, :3]))
    return float(np.count_nonzero(mask) * voxel / 1000)


def largest_component(mask: Mask) -> Mask:
    """Largest part of a mask that is connected across the faces of voxels."""
    labels, number = ndimage.label(mask)
    if number < 2:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return labels == sizes.argmax()


def fill_holes(mask: Mask) -> Mask:
    """Add what a mask encloses: the components of its complement that touch no border."""
    # Labelling takes one pass; binary_fill_holes dilates as often as the grid is wide.
    labels, number = ndimage.label(np.pad(~mask, 1, constant_values=True))
    if number < 2:
        return mask
    return labels[1:-1, 1:-1, 1:-1] != labels[0, 0, 0]


def clean(mask: Mask) -> Mask:
    """Keep the largest component, close its cracks of one voxel and fill its holes.

    Parameters
    ----------
    mask : ndarray of bool, shape (X, Y, Z)

    Returns
    -------
    ndarray of bool, shape (X, Y, Z)
    """
    if not mask.any():
        return mask
    box = bounding_box(mask)
    # The margin keeps the closing from eroding what touches the border of the box.
    part = np.pad(largest_component(mask[box]), 2)
    cleaned = np.zeros_like(mask)
    cleaned[box] = fill_holes(ndimage.binary_closing(part))[2:-2, 2:-2, 2:-2]
    return cleaned


def bounding_box(mask: Mask, margin: int = 0) -> tuple[slice, slice, slice]:
    """Slices of the smallest box around a mask, wider by a margin of voxels within the grid."""
    slices = []
    for axis, length in enumerate(mask.shape):
        hit = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
        slices.append(slice(max(0, hit[0] - margin), min(length, hit[-1] + 1 + margin)))
    x, y, z = slices
    return x, y, z

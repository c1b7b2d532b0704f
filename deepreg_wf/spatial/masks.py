"""Binary masks: reading, volume, components, holes and bounding boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from deepreg_wf.errors import InputError
from deepreg_wf.spatial import VoxelGrid, load_image

Mask = NDArray[np.bool_]

AFFINE_TOLERANCE = 1e-3
"""Largest difference between equal affines, in mm; headers are in single precision."""


def load_mask(path: str | Path, grid: VoxelGrid) -> Mask:
    """Read the mask of an image.

    Parameters
    ----------
    path : str or Path
        Image file of the mask.
    grid : VoxelGrid
        Grid of the image.

    Returns
    -------
    ndarray of bool, shape (X, Y, Z)
        True where the values of the file are positive.

    Raises
    ------
    InputError
        If the file cannot be read, is empty, or is on another grid.
    """
    values, own_grid = load_image(path)
    difference = np.abs(own_grid.affine - grid.affine).max()
    if own_grid.shape != grid.shape or difference > AFFINE_TOLERANCE:
        raise InputError(
            'the mask is not on the grid of its image',
            advice='give the one that belongs to it, or resample it',
            path=path,
        )
    mask = values > 0
    if not mask.any():
        raise InputError('the mask is empty', advice='give one that marks the brain', path=path)
    return mask


def volume_ml(mask: Mask, grid: VoxelGrid) -> float:
    """Return the volume of a mask.

    Parameters
    ----------
    mask : ndarray of bool, shape (X, Y, Z)
        The mask.
    grid : VoxelGrid
        Its grid.

    Returns
    -------
    float
        In mL.
    """
    voxel = abs(np.linalg.det(grid.affine[:3, :3]))
    return float(np.count_nonzero(mask) * voxel / 1000)


def largest_component(mask: Mask) -> Mask:
    """Return the largest component of a mask, connected across the faces of voxels.

    Parameters
    ----------
    mask : ndarray of bool, shape (X, Y, Z)
        The mask.

    Returns
    -------
    ndarray of bool, shape (X, Y, Z)
        The component; the mask itself if it has no more than one.
    """
    labels, number = ndimage.label(mask)
    if number < 2:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    largest: Mask = labels == sizes.argmax()
    return largest


def fill_holes(mask: Mask) -> Mask:
    """Fill the holes of a mask: components of its complement that do not touch the border.

    Parameters
    ----------
    mask : ndarray of bool, shape (X, Y, Z)
        The mask.

    Returns
    -------
    ndarray of bool, shape (X, Y, Z)
        The mask without holes.
    """
    # Labelling takes one pass; scipy's binary_fill_holes dilates as often as the grid is wide.
    labels, number = ndimage.label(np.pad(~mask, 1, constant_values=True))
    if number < 2:
        return mask
    filled: Mask = labels[1:-1, 1:-1, 1:-1] != labels[0, 0, 0]
    return filled


def clean_mask(mask: Mask) -> Mask:
    """Keep the largest component of a mask, close its cracks of one voxel and fill its holes.

    Parameters
    ----------
    mask : ndarray of bool, shape (X, Y, Z)
        The mask.

    Returns
    -------
    ndarray of bool, shape (X, Y, Z)
        The cleaned mask.
    """
    if not mask.any():
        return mask
    box = bounding_box(mask)
    # The padding keeps the closing from eroding the mask at the border of the box.
    part = np.pad(largest_component(mask[box]), 2)
    cleaned = np.zeros_like(mask)
    cleaned[box] = fill_holes(ndimage.binary_closing(part))[2:-2, 2:-2, 2:-2]
    return cleaned


def bounding_box(mask: Mask, margin: int = 0) -> tuple[slice, slice, slice]:
    """Return the smallest box around a mask.

    Parameters
    ----------
    mask : ndarray of bool, shape (X, Y, Z)
        The mask, not empty.
    margin : int
        Voxels added on each side, within the grid.

    Returns
    -------
    tuple of 3 slice
        The box.
    """
    slices = []
    for axis, length in enumerate(mask.shape):
        occupied = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
        slices.append(slice(max(0, occupied[0] - margin), min(length, occupied[-1] + 1 + margin)))
    x, y, z = slices
    return x, y, z

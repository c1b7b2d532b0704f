"""Brain masks: cleaning them, and telling whether they can be of a brain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..errors import InputError
from ..spatial import VoxelGrid, load_image, resample

Mask = NDArray[np.bool_]

SAME_PLACE = 1e-3
"""Difference between two affines, in mm, that single precision in headers explains."""

BRAIN_ML = (600.0, 2200.0)
"""Volumes in mL that a brain can have, from a few months of age on.

Brains weigh about 0.4 kg at birth, 0.6 to 0.7 kg at half a year, and 1.3 to 1.45 kg in adults
(Dekaban and Sadowsky, Annals of Neurology 4 (1978) 345-356). A mask holds cerebrospinal fluid
too, up to the 1.9 L that the skull of a large man holds and that the MNI152 brain has.
"""

CONNECTED = 0.9
"""Least share of a mask that hangs together.

In masks that deepbet made of real heads it was 0.99 and more; of noise, next to nothing.
"""

CUT_CM2 = 100.0
"""Area that the brain may have on a face of the field of view.

A field of view that ends at the brain cuts 5 cm^2 of it, the brain stem has 10, the cerebellum up
to 60; from 100 on, 15 mm and more of the top are missing, and the affine draws out the rest.
"""


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


def adopt_mask(path: str | Path, grid: VoxelGrid) -> Mask:
    """Read a mask that another program made of an image, and bring it to the image's grid.

    Programs store an image anew in another orientation or resolution; where things are in the
    world stays the same.

    Parameters
    ----------
    path : path
    grid : VoxelGrid
        Of the image.

    Returns
    -------
    ndarray of bool, shape (X, Y, Z)

    Raises
    ------
    InputError
        If it cannot be read, or what it marks has not the size of a brain in the image or is cut
        off by its end.
    """
    values, own_grid = load_image(path)
    mask = resample((values > 0).astype(np.float32), own_grid, grid) >= 0.5
    try:
        check_volume(mask, grid)
        check_view(mask, grid)
    except InputError as error:
        raise InputError(f'{path}: {error}') from None
    return mask


def volume_ml(mask: Mask, grid: VoxelGrid) -> float:
    """Volume of a mask in mL."""
    voxel = abs(np.linalg.det(grid.affine[:3, :3]))
    return float(np.count_nonzero(mask) * voxel / 1000)


def check_volume(mask: Mask, grid: VoxelGrid, limits: tuple[float, float] = BRAIN_ML) -> None:
    """Refuse a mask that cannot be of a brain.

    Parameters
    ----------
    mask : ndarray of bool, shape (X, Y, Z)
    grid : VoxelGrid
    limits : tuple of float
        Least and largest volume in mL.

    Raises
    ------
    InputError
        If its volume is outside the limits; without the name of a file.
    """
    volume = volume_ml(mask, grid)
    low, high = limits
    if not low <= volume <= high:
        raise InputError(
            f'the brain mask has {volume:.0f} mL, outside the {low:.0f} to {high:.0f} mL that are '
            'plausible; check the image and its voxel size, or extract the brain yourself and '
            'use --skull-strip skip.'
        )


def check_view(mask: Mask, grid: VoxelGrid) -> None:
    """Refuse a mask of a brain that the field of view cuts through.

    Parameters
    ----------
    mask : ndarray of bool, shape (X, Y, Z)
    grid : VoxelGrid

    Raises
    ------
    InputError
        If its area on one face is too large; without the name of a file.
    """
    for axis in range(3):
        one, other = np.delete(grid.affine[:3, :3], axis, axis=1).T
        face = np.linalg.norm(np.cross(one, other)) / 100
        ends = (np.count_nonzero(mask.take(end, axis)) for end in (0, -1))
        area = face * max(ends)
        if area > CUT_CM2:
            raise InputError(
                f'the field of view cuts through the brain, on {area:.0f} cm^2; give an image of '
                'the whole brain, or use --skull-strip skip to take it as it is.'
            )


def check_mask(mask: Mask, grid: VoxelGrid) -> Mask:
    """Clean the mask of a brain and see that it can be one.

    Parameters
    ----------
    mask : ndarray of bool, shape (X, Y, Z)
    grid : VoxelGrid

    Returns
    -------
    ndarray of bool, shape (X, Y, Z)
        In one piece, without holes.

    Raises
    ------
    InputError
        If it is in pieces, its volume that of no brain, or a part cut off; without the name of a
        file.
    """
    share = largest_component(mask).sum() / max(1, mask.sum())
    if mask.any() and share < CONNECTED:
        raise InputError(
            f'the brain mask is in pieces, the largest of which has {share:.0%} of it; check '
            'the image, or extract the brain yourself and use --skull-strip skip.'
        )
    cleaned = clean(mask)
    check_volume(cleaned, grid)
    check_view(cleaned, grid)
    return cleaned


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

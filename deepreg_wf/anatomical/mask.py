"""Plausibility checks of brain masks: volume, connectedness and field of view."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from deepreg_wf.errors import InputError
from deepreg_wf.spatial import VoxelGrid, load_image, resample
from deepreg_wf.spatial.masks import Mask, clean, largest_component, volume_ml

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

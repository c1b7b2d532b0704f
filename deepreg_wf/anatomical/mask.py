"""Plausibility checks of brain masks: volume, connectedness and field of view."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from deepreg_wf.errors import InputError
from deepreg_wf.spatial import VoxelGrid, load_image, resample
from deepreg_wf.spatial.masks import Mask, clean_mask, largest_component, volume_ml

BRAIN_VOLUME_ML = (600.0, 2200.0)
"""Limits of the volume of a brain mask in mL, from an age of a few months on.

Brains weigh about 0.4 kg at birth, 0.6 to 0.7 kg at half a year, and 1.3 to 1.45 kg in adults
(Dekaban and Sadowsky, Annals of Neurology 4 (1978) 345-356). A mask also holds cerebrospinal
fluid, up to the 1.9 L of a large skull and of the MNI152 brain.
"""

MINIMUM_CONNECTED = 0.9
"""Least share of a mask in its largest component.

Masks of deepbet on real heads had 0.99 and more, masks on noise almost nothing.
"""

MAXIMUM_CUT_CM2 = 100.0
"""Largest area of the brain on a face of the field of view, in cm^2.

A field of view that ends at the brain cuts 5 cm^2, through the brain stem 10, and through the
cerebellum up to 60. From 100 on, 15 mm and more of the top are missing, and the affine would
stretch the rest over the whole template.
"""

_OWN_EXTRACTION = 'extract the brain yourself and use --skull-strip skip'


def read_precomputed_mask(path: str | Path, grid: VoxelGrid) -> Mask:
    """Read a brain mask of other software and resample it to the grid of the image.

    Other software may store images in another orientation or resolution; positions in the world
    are the same.

    Parameters
    ----------
    path : path-like
        Mask file.
    grid : VoxelGrid
        Grid of the image.

    Returns
    -------
    ndarray of bool, shape (X, Y, Z)
        Mask on the grid of the image.

    Raises
    ------
    InputError
        If it cannot be read, its volume in the image is not that of a brain, or the field of view
        cuts through it.
    """
    values, own_grid = load_image(path)
    mask = resample((values > 0).astype(np.float32), own_grid, grid) >= 0.5
    try:
        check_volume(mask, grid)
        check_field_of_view(mask, grid)
    except InputError as error:
        raise error.at(path) from None
    return mask


def check_volume(
    mask: Mask, grid: VoxelGrid, limits: tuple[float, float | None] = BRAIN_VOLUME_ML
) -> None:
    """Check that the volume of a mask is plausible.

    Parameters
    ----------
    mask : ndarray of bool, shape (X, Y, Z)
        Brain mask.
    grid : VoxelGrid
        Grid of the mask.
    limits : tuple of (float, float or None)
        Least and largest volume in mL; None for no upper limit.

    Raises
    ------
    InputError
        If the volume is outside the limits; without a path.
    """
    volume = volume_ml(mask, grid)
    low, high = limits
    if volume >= low and (high is None or volume <= high):
        return
    plausible = f'less than {low:.0f} mL'
    if high is not None:
        plausible = f'outside the {low:.0f} to {high:.0f} mL that are plausible'
    raise InputError(
        f'the brain mask has {volume:.0f} mL, {plausible}',
        advice=f'check the image and its voxel size, or {_OWN_EXTRACTION}',
    )


def check_field_of_view(mask: Mask, grid: VoxelGrid) -> None:
    """Check that the field of view does not cut through the brain.

    Parameters
    ----------
    mask : ndarray of bool, shape (X, Y, Z)
        Brain mask.
    grid : VoxelGrid
        Grid of the mask.

    Raises
    ------
    InputError
        If the area of the mask on one face of the grid is too large; without a path.
    """
    for axis in range(3):
        one, other = np.delete(grid.affine[:3, :3], axis, axis=1).T
        voxel_cm2 = np.linalg.norm(np.cross(one, other)) / 100
        counts = (np.count_nonzero(mask.take(end, axis)) for end in (0, -1))
        area = voxel_cm2 * max(counts)
        if area > MAXIMUM_CUT_CM2:
            raise InputError(
                f'the field of view cuts through the brain, on {area:.0f} cm^2',
                advice='give an image of the whole brain, or use --skull-strip skip to take the '
                'image as it is',
            )


def clean_and_check_mask(mask: Mask, grid: VoxelGrid) -> Mask:
    """Clean a brain mask and check that it is plausible.

    Parameters
    ----------
    mask : ndarray of bool, shape (X, Y, Z)
        Brain mask.
    grid : VoxelGrid
        Grid of the mask.

    Returns
    -------
    ndarray of bool, shape (X, Y, Z)
        Mask in one component, without holes.

    Raises
    ------
    InputError
        If it is in pieces, its volume is not that of a brain, or the field of view cuts through
        it; without a path.
    """
    share = largest_component(mask).sum() / max(1, mask.sum())
    if mask.any() and share < MINIMUM_CONNECTED:
        raise InputError(
            f'the brain mask is in pieces, the largest of which has {share:.0%} of it',
            advice=f'check the image, or {_OWN_EXTRACTION}',
        )
    cleaned = clean_mask(mask)
    check_volume(cleaned, grid)
    check_field_of_view(cleaned, grid)
    return cleaned

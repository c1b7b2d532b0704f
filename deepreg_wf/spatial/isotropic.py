"""Isotropic grids along the axes of RAS space, and resampling of brains onto them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, ndimage

from deepreg_wf.spatial import Transform, VoxelGrid, resample
from deepreg_wf.spatial.masks import Mask, bounding_box

FWHM_TO_SIGMA = 1 / np.sqrt(8 * np.log(2))
"""Standard deviation of a Gaussian over its full width at half maximum."""


def isotropic_ras_grid(mask: Mask, grid: VoxelGrid, spacing: float, margin: float) -> VoxelGrid:
    """Return a grid of isotropic voxels along R, A and S around a mask.

    Voxel centres lie at multiples of the spacing, so that small changes of the mask leave the grid
    as it is.

    Parameters
    ----------
    mask : ndarray of bool, shape (X, Y, Z)
        Not empty.
    grid : VoxelGrid
        Grid of the mask; it may be oblique or sheared.
    spacing : float
        Voxel size in mm.
    margin : float
        Least distance in mm between the mask and the centres of the outermost voxels.

    Returns
    -------
    VoxelGrid
        The grid.
    """
    points = grid.to_mm(_line_ends(mask))
    first = np.floor((points.min(axis=0) - margin) / spacing)
    last = np.ceil((points.max(axis=0) + margin) / spacing)
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = first * spacing
    return VoxelGrid((last - first + 1).astype(int).tolist(), affine)


def undo_rotation(grid: VoxelGrid, affine: NDArray[np.float64]) -> VoxelGrid:
    """Rotate a grid so that its brain has the orientation of a template.

    It corrects a header that states a wrong orientation.

    Parameters
    ----------
    grid : VoxelGrid
        Grid of the image.
    affine : ndarray, shape (4, 4)
        RAS mm of the template to RAS mm of the brain.

    Returns
    -------
    VoxelGrid
        The same voxels, rotated about the origin.
    """
    # The polar decomposition A = R P splits the affine into a rotation and a stretch.
    inverse_rotation = np.eye(4)
    inverse_rotation[:3, :3] = linalg.polar(affine[:3, :3])[0].T
    return VoxelGrid(grid.shape, inverse_rotation @ grid.affine)


def _line_ends(mask: Mask) -> NDArray[np.intp]:
    """Return the first and last voxel of a mask on each line along the first axis, shape (n, 3).

    The extreme voxels in every direction are among them.
    """
    lines = np.argwhere(mask.any(axis=0))
    first, last = mask.argmax(axis=0), len(mask) - 1 - mask[::-1].argmax(axis=0)
    ends = [np.column_stack([end[tuple(lines.T)], lines]) for end in (first, last)]
    return np.concatenate(ends)


def low_pass(data: NDArray[np.floating], grid: VoxelGrid, spacing: float) -> NDArray[np.floating]:
    """Smooth an image before it is resampled to larger voxels, against aliasing.

    The point spread function of a voxel is modelled as a Gaussian whose full width at half
    maximum is the voxel size. The image is convolved with a Gaussian that widens that of the old
    voxels to that of the new ones: ``sigma^2 = sigma_new^2 - sigma_old^2``.

    Parameters
    ----------
    data : ndarray, shape (X, Y, Z)
        The image.
    grid : VoxelGrid
        Its grid.
    spacing : float
        New voxel size in mm. Axes with larger voxels are not smoothed.

    Returns
    -------
    ndarray, shape (X, Y, Z)
        The smoothed image.
    """
    ratio = spacing / np.asarray(grid.spacing)
    sigmas = FWHM_TO_SIGMA * np.sqrt(np.maximum(ratio**2 - 1, 0))
    smooth: NDArray[np.floating] = ndimage.gaussian_filter(data, sigmas, mode='constant')
    return smooth


def resample_brain(
    data: NDArray[np.floating],
    mask: Mask,
    source: VoxelGrid,
    target: VoxelGrid,
    affine: NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.float32], Mask]:
    """Resample a brain and its mask onto another grid, without aliasing.

    Parameters
    ----------
    data : ndarray, shape (X, Y, Z)
        The image. Values outside the mask are ignored.
    mask : ndarray of bool, shape (X, Y, Z)
        Mask of the brain, not empty.
    source : VoxelGrid
        Grid of both.
    target : VoxelGrid
        Grid to resample to.
    affine : ndarray, shape (4, 4), optional
        RAS mm of the target to RAS mm of the source; the identity by default.

    Returns
    -------
    brain : ndarray of float32, shape of the target
        Zero outside the mask.
    mask : ndarray of bool, shape of the target
        Voxels of which at least half lies in the mask.
    """
    transform = Transform() if affine is None else Transform(affine=affine)
    scale = abs(np.linalg.det(transform.affine[:3, :3])) ** (1 / 3)
    spacing = scale * max(target.spacing)
    box = bounding_box(mask, margin=int(np.ceil(2 * spacing / min(source.spacing))))
    corner = np.eye(4)
    corner[:3, 3] = [part.start for part in box]
    cropped = VoxelGrid(mask[box].shape, source.affine @ corner)
    brain, fraction = (
        resample(low_pass(part.astype(np.float32), cropped, spacing), cropped, target, transform)
        for part in (np.where(mask[box], data[box], 0), mask[box])
    )
    inside = fraction >= 0.5
    return np.where(inside, brain, 0).astype(np.float32), inside

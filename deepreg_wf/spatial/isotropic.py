"""Brains on grids whose axes are those of the world, whatever grid they come from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, ndimage

from deepreg_wf.spatial import Transform, VoxelGrid, resample
from deepreg_wf.spatial.masks import Mask, bounding_box

WIDTH = 1 / np.sqrt(8 * np.log(2))
"""Standard deviation of the Gaussian whose full width at half maximum is 1."""


def upright_grid(mask: Mask, grid: VoxelGrid, spacing: float, margin: float) -> VoxelGrid:
    """Grid of isotropic voxels along R, A and S around a mask.

    Voxel centres lie at multiples of the spacing, so that the grid depends on the mask no more
    than it must.

    Parameters
    ----------
    mask : ndarray of bool, shape (X, Y, Z)
        Not empty.
    grid : VoxelGrid
        Of the mask; oblique or sheared if it likes.
    spacing : float
        In mm.
    margin : float
        Least distance in mm between the mask and the centres of the outermost voxels.

    Returns
    -------
    VoxelGrid
    """
    points = grid.to_mm(_ends(mask))
    first = np.floor((points.min(axis=0) - margin) / spacing)
    last = np.ceil((points.max(axis=0) + margin) / spacing)
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = first * spacing
    return VoxelGrid((last - first + 1).astype(int).tolist(), affine)


def righted(grid: VoxelGrid, affine: NDArray[np.float64]) -> VoxelGrid:
    """Take a rotation that a brain turned out to have out of the header.

    Parameters
    ----------
    grid : VoxelGrid
        Of the image.
    affine : ndarray, shape (4, 4)
        RAS mm of a template to RAS mm of the brain.

    Returns
    -------
    VoxelGrid
        The same voxels, about as the template is turned.
    """
    back = np.eye(4)
    back[:3, :3] = linalg.polar(affine[:3, :3])[0].T
    return VoxelGrid(grid.shape, back @ grid.affine)


def _ends(mask: Mask) -> NDArray[np.intp]:
    """First and last voxel of a mask on each line along the first axis, shape (n, 3).

    The voxels that reach furthest, in whatever direction, are among them.
    """
    lines = np.argwhere(mask.any(axis=0))
    first, last = mask.argmax(axis=0), len(mask) - 1 - mask[::-1].argmax(axis=0)
    ends = [np.column_stack([end[tuple(lines.T)], lines]) for end in (first, last)]
    return np.concatenate(ends)


def low_pass(data: NDArray[np.floating], grid: VoxelGrid, spacing: float) -> NDArray[np.floating]:
    """Smooth an image to what voxels of a larger spacing can hold, against aliasing.

    A voxel is taken for a Gaussian whose full width at half maximum is its size, and the
    Gaussian of the image is widened to that of the new spacing.

    Parameters
    ----------
    data : ndarray, shape (X, Y, Z)
    grid : VoxelGrid
    spacing : float
        Of the grid that the image is going to be resampled to, in mm. Along axes that are coarser
        already nothing is done.

    Returns
    -------
    ndarray, shape (X, Y, Z)
    """
    ratio = spacing / np.asarray(grid.spacing)
    sigmas = WIDTH * np.sqrt(np.maximum(ratio**2 - 1, 0))
    return ndimage.gaussian_filter(data, sigmas, mode='constant')


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
        What lies outside of the mask does not count.
    mask : ndarray of bool, shape (X, Y, Z)
        Not empty.
    source : VoxelGrid
        On which both lie.
    target : VoxelGrid
    affine : ndarray, shape (4, 4), optional
        RAS mm of the target to RAS mm of the source; the identity by default.

    Returns
    -------
    brain : ndarray of float32, shape of the target
        Zero outside of the mask.
    mask : ndarray of bool, shape of the target
        Voxels of which at least half are in the mask.
    """
    transform = Transform() if affine is None else Transform(affine=affine)
    scale = abs(np.linalg.det(transform.affine[:3, :3])) ** (1 / 3)
    spacing = scale * max(target.spacing)
    box = bounding_box(mask, margin=int(np.ceil(2 * spacing / min(source.spacing))))
    corner = np.eye(4)
    corner[:3, 3] = [part.start for part in box]
    cropped = VoxelGrid(mask[box].shape, source.affine @ corner)
    brain, share = (
        resample(low_pass(part.astype(np.float32), cropped, spacing), cropped, target, transform)
        for part in (np.where(mask[box], data[box], 0), mask[box])
    )
    inside = share >= 0.5
    return np.where(inside, brain, 0).astype(np.float32), inside

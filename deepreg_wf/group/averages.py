"""Mean and standard deviation of images that are read one at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepreg_wf.errors import InputError
from deepreg_wf.spatial import VoxelGrid, load_image

Image = NDArray[np.float32]
"""Scalar image, shape (X, Y, Z)."""


class RunningMoments:
    """Running mean and standard deviation of images, voxel by voxel.

    Welford's recurrence (Technometrics 4 (1962) 419-420): with n images that have a finite value
    at a voxel, ``mean += (x - mean_old) / n`` and ``sum of squares += (x - mean_old)(x -
    mean_new)``. Memory does not grow with the number of images. Values that are not finite, such
    as the log-Jacobian of a fold, do not count.

    Parameters
    ----------
    grid : VoxelGrid
        Grid of all images.
    """

    def __init__(self, grid: VoxelGrid) -> None:
        self.grid = grid
        self._count = np.zeros(grid.shape, np.int32)
        self._mean, self._squares = np.zeros(grid.shape), np.zeros(grid.shape)

    def add(self, image: Image) -> None:
        """Add an image, shape (X, Y, Z)."""
        finite = np.isfinite(image)
        self._count += finite
        change = np.where(finite, image - self._mean, 0)
        self._mean += change / np.maximum(self._count, 1)
        self._squares += change * np.where(finite, image - self._mean, 0)

    @property
    def mean(self) -> Image:
        """Mean, shape (X, Y, Z); NaN at voxels that are finite in no image."""
        return np.where(self._count > 0, self._mean, np.nan).astype(np.float32)

    @property
    def std(self) -> Image:
        """Sample standard deviation, shape (X, Y, Z); NaN at voxels with fewer than two values."""
        variance = self._squares / np.maximum(self._count - 1, 1)
        return np.where(self._count > 1, np.sqrt(variance), np.nan).astype(np.float32)


def check_same_grid(grid: VoxelGrid, expected: VoxelGrid, path: Path) -> None:
    """Check that the file at `path` is on the expected grid.

    Raises
    ------
    InputError
        If it is on another grid.
    """
    if grid.shape != expected.shape or not np.allclose(grid.affine, expected.affine, atol=1e-4):
        raise InputError(
            'lies on another grid than the files of the images before it',
            advice='register all with the same resolutions',
            path=path,
        )


def load_median_scaled(path: Path, mask_path: Path) -> tuple[Image, VoxelGrid]:
    """Read an image and divide it by the median of its brain, as intensities have no unit.

    Parameters
    ----------
    path, mask_path : Path
        Image and brain mask, on the same grid.

    Returns
    -------
    image : ndarray, shape (X, Y, Z)
    grid : VoxelGrid

    Raises
    ------
    InputError
        If a file cannot be read, or the brain is empty.
    """
    image, grid = load_image(path)
    mask, _ = load_image(mask_path)
    brain = image[mask > 0] if mask.shape == image.shape else image[:0]
    median = float(np.median(brain)) if brain.size else 0.0
    if not median > 0:
        raise InputError('its brain is empty', advice='run this image again', path=path)
    return image / np.float32(median), grid

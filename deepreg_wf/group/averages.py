"""Mean and standard deviation of images that are read one at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepreg_wf.errors import InputError
from deepreg_wf.spatial import VoxelGrid, load_image

Field = NDArray[np.float32]


class Moments:
    """Mean and standard deviation, voxel by voxel, by Welford's recurrence (Technometrics 1962).

    Memory does not grow with the number of images. What is not finite, such as the log-Jacobian
    of a fold, is left out where it stands.

    Parameters
    ----------
    grid : VoxelGrid
        Of all images.
    """

    def __init__(self, grid: VoxelGrid) -> None:
        self.grid = grid
        self._count = np.zeros(grid.shape, np.int32)
        self._mean, self._squares = np.zeros(grid.shape), np.zeros(grid.shape)

    def add(self, image: Field) -> None:
        """Take an image in, (X, Y, Z)."""
        known = np.isfinite(image)
        self._count += known
        change = np.where(known, image - self._mean, 0)
        self._mean += change / np.maximum(self._count, 1)
        self._squares += change * np.where(known, image - self._mean, 0)

    @property
    def mean(self) -> Field:
        """Shape (X, Y, Z); NaN where no image says anything."""
        return np.where(self._count > 0, self._mean, np.nan).astype(np.float32)

    @property
    def deviation(self) -> Field:
        """Sample standard deviation, shape (X, Y, Z); NaN where fewer than two images count."""
        variance = self._squares / np.maximum(self._count - 1, 1)
        return np.where(self._count > 1, np.sqrt(variance), np.nan).astype(np.float32)


def check_same(grid: VoxelGrid, expected: VoxelGrid, path: Path) -> None:
    """Refuse a file on another grid.

    Raises
    ------
    InputError
        If it is another.
    """
    if grid.shape != expected.shape or not np.allclose(grid.affine, expected.affine, atol=1e-4):
        raise InputError(
            f'{path}: lies on another grid than the files of the images before it; '
            'register all with the same resolutions.'
        )


def evened(path: Path, mask: Path) -> tuple[Field, VoxelGrid]:
    """Read an image and divide it by the median of its brain: brightness has no unit.

    Raises
    ------
    InputError
        If an image cannot be read, or the mask is empty.
    """
    image, grid = load_image(path)
    brain, _ = load_image(mask)
    inside = image[brain > 0] if brain.shape == image.shape else image[:0]
    middle = float(np.median(inside)) if inside.size else 0.0
    if not middle > 0:
        raise InputError(f'{path}: its brain is empty; run this image again.')
    return image / np.float32(middle), grid

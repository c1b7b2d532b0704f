"""A brain, its mask and its grid, as the affine registration handles them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..brain import resample_brain, upright_grid
from ..brain.mask import Mask
from ..spatial import VoxelGrid

MARGIN_MM = 10.0
"""Room around the brain, for the smoothing of the coarse levels."""

ROBUST_MAXIMUM = 99.0
"""Percentile of the brain's intensities that becomes 1: vessels and noise lie above it."""


@dataclass(frozen=True, kw_only=True)
class Brain:
    """A brain on an upright grid.

    Attributes
    ----------
    data : ndarray of float32, shape (X, Y, Z)
        From 0 to 1, zero outside of the mask.
    mask : ndarray of bool, shape (X, Y, Z)
    grid : VoxelGrid
        Isotropic, with axes along R, A and S.
    """

    data: NDArray[np.float32]
    mask: Mask
    grid: VoxelGrid

    @classmethod
    def from_image(
        cls, data: NDArray[np.floating], mask: Mask, grid: VoxelGrid, spacing: float
    ) -> Brain:
        """Take the brain out of an image on any grid.

        Parameters
        ----------
        data : ndarray, shape (X, Y, Z)
        mask : ndarray of bool, shape (X, Y, Z)
            Not empty.
        grid : VoxelGrid
            Oblique or sheared if it likes.
        spacing : float
            Of the grid of the brain, in mm.
        """
        target = upright_grid(mask, grid, spacing, MARGIN_MM)
        brain, inside = resample_brain(data, mask, grid, target)
        top = max(float(np.percentile(brain[inside], ROBUST_MAXIMUM)), 1e-6)
        return cls(data=np.clip(brain / top, 0, 1), mask=inside, grid=target)

    @property
    def centre(self) -> NDArray[np.float64]:
        """Centre of mass of the mask, in RAS mm, shape (3,)."""
        return self.grid.to_mm(np.argwhere(self.mask).mean(axis=0))

    @property
    def volume(self) -> float:
        """Volume of the mask, in mm^3."""
        return float(np.count_nonzero(self.mask) * np.prod(self.grid.spacing))

"""A brain, its mask and its grid, as the affine registration handles them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from deepreg_wf.spatial import VoxelGrid
from deepreg_wf.spatial.isotropic import resample_brain, upright_grid
from deepreg_wf.spatial.masks import Mask

MARGIN_MM = 12.0
"""Room around the brain, for the smoothing of the coarse levels and the surface of another one."""

ROBUST_MINIMUM, ROBUST_MAXIMUM = 0.1, 99.0
"""Percentiles of the brain's intensities that become 0, if negative, and 1: noise lies beyond."""

SURROUNDINGS_MM = 10.0
"""Standard deviation of the Gaussian within which intensities are compared with their like.

Wide enough for grey and white matter to be in it, narrow against the bias fields of coils.
"""

MIDDLE, SPREAD = 0.6, 0.25
"""Mean and standard deviation of evened intensities; the ground is zero, as the edge matters."""

FLAT = 1e-4
"""Variance below which there is nothing to even out."""


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
            If the brain has negative intensities, all are raised.
        mask : ndarray of bool, shape (X, Y, Z)
            Not empty.
        grid : VoxelGrid
            Oblique or sheared if it likes.
        spacing : float
            Of the grid of the brain, in mm.
        """
        target = upright_grid(mask, grid, spacing, MARGIN_MM)
        # Standardised intensities are negative, too.
        ground = min(0.0, float(np.percentile(data[mask], ROBUST_MINIMUM)))
        brain, inside = resample_brain(data - np.float32(ground), mask, grid, target)
        top = max(float(np.percentile(brain[inside], ROBUST_MAXIMUM)), 1e-6)
        return cls(data=np.clip(brain / top, 0, 1), mask=inside, grid=target)

    def coarsened(self, spacing: float) -> Brain:
        """Return the same brain on larger voxels."""
        return Brain.from_image(self.data, self.mask, self.grid, spacing)

    @property
    def spacing(self) -> float:
        """Of the grid, in mm."""
        return self.grid.spacing[0]

    @property
    def centre(self) -> NDArray[np.float64]:
        """Centre of mass of the mask, in RAS mm, shape (3,)."""
        return self.grid.to_mm(np.argwhere(self.mask).mean(axis=0))

    @property
    def volume(self) -> float:
        """Volume of the mask, in mm^3."""
        return float(np.count_nonzero(self.mask) * np.prod(self.grid.spacing))

    @cached_property
    def even(self) -> NDArray[np.float32]:
        """Intensities relative to their surroundings, zero outside of the mask.

        Bias fields and differences of contrast between scanners go; what is brighter or darker
        than what is around it, and the edge of the brain, stay.
        """
        sigma = SURROUNDINGS_MM / self.spacing
        share, total, squares = (
            ndimage.gaussian_filter(part.astype(np.float32), sigma, mode='constant')
            for part in (self.mask, self.data, self.data**2)
        )
        share = np.maximum(share, 1e-3)
        mean = total / share
        deviation = np.sqrt(np.maximum(squares / share - mean**2, FLAT))
        values = MIDDLE + SPREAD * (self.data - mean) / deviation
        return np.where(self.mask, values.clip(0, 2 * MIDDLE), 0).astype(np.float32)

    @cached_property
    def texture(self) -> NDArray[np.float32]:
        """The same about zero, so that neither size nor outline of the brain is in it."""
        return np.where(self.mask, self.even - np.float32(MIDDLE), np.float32(0))

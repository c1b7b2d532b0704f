"""Brain image with mask and grid, as the affine registration uses it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from deepreg_wf.spatial import VoxelGrid
from deepreg_wf.spatial.isotropic import isotropic_ras_grid, resample_brain
from deepreg_wf.spatial.masks import Mask

MARGIN_MM = 12.0
"""Margin of the grid around the mask, for the smoothing at coarse levels."""

MINIMUM_PERCENTILE, MAXIMUM_PERCENTILE = 0.1, 99.0
"""Percentiles of the brain's intensities that are mapped to 0 (if negative) and to 1."""

NORMALISATION_MM = 10.0
"""Standard deviation of the Gaussian window of the local normalisation.

It is wide enough to hold grey and white matter, and narrow against the bias fields of coils.
"""

NORMALISED_MEAN, NORMALISED_SD = 0.6, 0.25
"""Local mean and standard deviation after the local normalisation.

The mean is not zero, so that the edge of the brain stands out against the background of zero.
"""

MINIMUM_VARIANCE = 1e-4
"""Lower bound of the local variance: noise in flat regions is not amplified."""


@dataclass(frozen=True, kw_only=True)
class Brain:
    """Brain on an isotropic grid.

    Attributes
    ----------
    data : ndarray of float32, shape (X, Y, Z)
        Intensities from 0 to 1, zero outside of the mask.
    mask : ndarray of bool, shape (X, Y, Z)
        Brain mask.
    grid : VoxelGrid
        Isotropic grid with axes along R, A and S.
    """

    data: NDArray[np.float32]
    mask: Mask
    grid: VoxelGrid

    @classmethod
    def from_image(
        cls, data: NDArray[np.floating], mask: Mask, grid: VoxelGrid, spacing: float
    ) -> Brain:
        """Resample and scale the brain of an image.

        Parameters
        ----------
        data : ndarray, shape (X, Y, Z)
            Intensities. If the brain has negative ones, all are raised by the same amount.
        mask : ndarray of bool, shape (X, Y, Z)
            Brain mask, not empty.
        grid : VoxelGrid
            Grid of the image, of any orientation, also sheared.
        spacing : float
            Voxel size of the result, in mm.

        Returns
        -------
        Brain
            The brain on an isotropic grid around the mask.
        """
        target = isotropic_ras_grid(mask, grid, spacing, MARGIN_MM)
        # Standardised images (mean 0) have negative intensities within the brain.
        minimum = min(0.0, float(np.percentile(data[mask], MINIMUM_PERCENTILE)))
        brain, inside = resample_brain(data - np.float32(minimum), mask, grid, target)
        maximum = max(float(np.percentile(brain[inside], MAXIMUM_PERCENTILE)), 1e-6)
        return cls(data=np.clip(brain / maximum, 0, 1), mask=inside, grid=target)

    def coarsened(self, spacing: float) -> Brain:
        """Return the same brain on larger voxels, of a size in mm."""
        return Brain.from_image(self.data, self.mask, self.grid, spacing)

    @property
    def spacing(self) -> float:
        """Voxel size in mm."""
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
    def locally_normalised(self) -> NDArray[np.float32]:
        """Intensities normalised by local mean and deviation, zero outside of the mask.

        With G a Gaussian filter of `NORMALISATION_MM` and M the mask, the local moments over the
        brain are ``mean = G(I) / G(M)`` and ``var = G(I^2) / G(M) - mean^2`` (normalised
        convolution). The normalisation removes bias fields and differences of contrast between
        scanners; local contrast and the edge of the brain remain.
        """
        sigma = NORMALISATION_MM / self.spacing
        weight, total, squares = (
            ndimage.gaussian_filter(part.astype(np.float32), sigma, mode='constant')
            for part in (self.mask, self.data, self.data**2)
        )
        weight = np.maximum(weight, 1e-3)
        mean = total / weight
        deviation = np.sqrt(np.maximum(squares / weight - mean**2, MINIMUM_VARIANCE))
        values = NORMALISED_MEAN + NORMALISED_SD * (self.data - mean) / deviation
        return np.where(self.mask, values.clip(0, 2 * NORMALISED_MEAN), 0).astype(np.float32)

    @cached_property
    def zero_mean(self) -> NDArray[np.float32]:
        """Locally normalised intensities about zero, which hold no outline of the brain."""
        return np.where(
            self.mask, self.locally_normalised - np.float32(NORMALISED_MEAN), np.float32(0)
        )

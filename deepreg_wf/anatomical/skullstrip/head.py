"""Head on an isotropic grid, as the template-based brain extraction uses it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepreg_wf.errors import InputError
from deepreg_wf.spatial import VoxelGrid, resample
from deepreg_wf.spatial.isotropic import isotropic_ras_grid, low_pass
from deepreg_wf.spatial.masks import Mask, bounding_box

OUTLINE_SPACING_MM = 2.0
"""Voxel size of the grid on which the brain is outlined, in mm."""

AIR_THRESHOLD = 0.1
"""Intensity, as a share of the range of the image, below which a voxel is air."""

BRIGHT_PERCENTILE = 90
"""Percentile of the intensities of the head that is scaled to 1."""

CLIPPED_INTENSITY = 1.3
"""Intensity, relative to the bright parts of the head, at which fat is clipped for the search."""


def no_brain_error() -> InputError:
    """Return the error for an image in which the template finds no brain; without a path."""
    return InputError(
        'nothing in it is like the brain of the template',
        advice='check that it is a T1-weighted image of a whole head',
    )


@dataclass(frozen=True, kw_only=True)
class Head:
    """Head on an isotropic grid.

    Attributes
    ----------
    data : ndarray of float32, shape (X, Y, Z)
        Intensities, 1 in the bright parts of the head.
    view : ndarray of bool, shape (X, Y, Z)
        Voxels within the field of view of the image.
    grid : VoxelGrid
        Isotropic grid with axes along R, A and S.
    """

    data: NDArray[np.float32]
    view: Mask
    grid: VoxelGrid

    @classmethod
    def from_image(
        cls, data: NDArray[np.floating], grid: VoxelGrid, spacing: float = OUTLINE_SPACING_MM
    ) -> Head:
        """Resample an image to an isotropic grid, crop the air and scale the intensities.

        Parameters
        ----------
        data : ndarray, shape (X, Y, Z)
            T1-weighted image, finite.
        grid : VoxelGrid
            Grid of the image.
        spacing : float
            Voxel size of the result, in mm.

        Returns
        -------
        Head
            The head on its own grid.

        Raises
        ------
        InputError
            If the image is constant or holds only air; without a path.
        """
        ones = np.ones(grid.shape, dtype=np.float32)
        target = isotropic_ras_grid(ones > 0, grid, spacing, 0)
        values = resample(low_pass(data.astype(np.float32), grid, spacing), grid, target)
        view = resample(ones, grid, target) > 0
        low, high = (float(end) for end in np.percentile(values[view], [0.5, 99.5]))
        head = view & (values - low > AIR_THRESHOLD * (high - low))
        if not high > low or not head.any():
            raise no_brain_error()
        bright = max(float(np.percentile(values[head], BRIGHT_PERCENTILE)) - low, 1e-6)
        box = bounding_box(head)
        corner = np.eye(4)
        corner[:3, 3] = [part.start for part in box]
        cropped = VoxelGrid(head[box].shape, target.affine @ corner)
        scaled = np.where(view, (values - low) / bright, 0)[box]
        return cls(data=scaled.clip(0, None).astype(np.float32), view=view[box], grid=cropped)

    def coarsened(self, spacing: float) -> Head:
        """Return the same head on larger voxels, of a size in mm, with fat clipped."""
        target = isotropic_ras_grid(np.ones(self.grid.shape, dtype=bool), self.grid, spacing, 0)
        values, share = (
            resample(low_pass(part.astype(np.float32), self.grid, spacing), self.grid, target)
            for part in (self.data.clip(0, CLIPPED_INTENSITY), self.view)
        )
        return Head(data=values, view=share >= 0.5, grid=target)

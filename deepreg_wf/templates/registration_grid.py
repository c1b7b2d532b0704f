"""Grid on which brains are registered with a template."""

from __future__ import annotations

from scipy.fft import next_fast_len

from deepreg_wf.spatial import VoxelGrid
from deepreg_wf.spatial.isotropic import isotropic_ras_grid
from deepreg_wf.spatial.masks import Mask

MARGIN_MM = 12.0
"""Margin around the template, because the metric is periodic and subjects may be larger."""


def registration_grid(mask: Mask, grid: VoxelGrid, spacing: float) -> VoxelGrid:
    """Make a grid of isotropic voxels around a template, of a size for fast Fourier transforms.

    Parameters
    ----------
    mask : ndarray of bool, shape (X, Y, Z)
        Brain mask of the template, not empty.
    grid : VoxelGrid
        Grid of the mask.
    spacing : float
        Voxel size in mm.

    Returns
    -------
    VoxelGrid
        Axes along R, A and S; the number of voxels along each is even, as coarser grids halve it.
    """
    around = isotropic_ras_grid(mask, grid, spacing, MARGIN_MM)
    return VoxelGrid([2 * next_fast_len((n + 1) // 2) for n in around.shape], around.affine)

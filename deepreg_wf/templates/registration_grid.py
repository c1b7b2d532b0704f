"""The grid on which brains are registered with a template."""

from __future__ import annotations

from scipy.fft import next_fast_len

from deepreg_wf.spatial import VoxelGrid
from deepreg_wf.spatial.isotropic import upright_grid
from deepreg_wf.spatial.masks import Mask

MARGIN_MM = 12.0
"""Room around the template: the metric is periodic, and subjects may be larger."""


def registration_grid(mask: Mask, grid: VoxelGrid, spacing: float) -> VoxelGrid:
    """Grid of isotropic voxels around a template, of a size that Fourier transforms like.

    Parameters
    ----------
    mask : ndarray of bool, shape (X, Y, Z)
        Of the template's brain, not empty.
    grid : VoxelGrid
        Of the mask.
    spacing : float
        In mm.

    Returns
    -------
    VoxelGrid
        Axes along R, A and S, and an even number of voxels along each: coarser grids halve it.
    """
    around = upright_grid(mask, grid, spacing, MARGIN_MM)
    return VoxelGrid([2 * next_fast_len((n + 1) // 2) for n in around.shape], around.affine)

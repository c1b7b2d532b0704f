"""How alike two aligned brains are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from deepreg_wf.affine.brain import Brain
from deepreg_wf.spatial import Transform, resample

SMOOTHING_MM = 4.0
"""Standard deviation of the Gaussian that makes the folds of different people comparable.

With it, right alignments of real brains had correlations of 0.77 to 0.88 with the template,
alignments that turn the brain the wrong way round 0.11 to 0.43, a brain without any structure at
most 0.45 and one of inverted contrast less than 0.
"""


def similarity(moving: Brain, fixed: Brain, affine: NDArray[np.float64]) -> float:
    """Correlation of the textures of two smoothed brains over all voxels that are in one of them.

    Parameters
    ----------
    moving, fixed : Brain
    affine : ndarray, shape (4, 4)
        RAS mm of the fixed brain to RAS mm of the moving one.

    Returns
    -------
    float
        1 for brains that are the same; 0 where one of them is constant.
    """
    moved = resample(moving.texture, moving.grid, fixed.grid, Transform(affine=affine))
    voxels = fixed.mask | (moved != 0)
    sigma = SMOOTHING_MM / fixed.spacing
    smooth = [ndimage.gaussian_filter(data, sigma)[voxels] for data in (fixed.texture, moved)]
    values = np.stack(smooth).astype(np.float64)
    values -= values.mean(axis=1, keepdims=True)
    # Not by BLAS, whose sums depend on the number of its threads.
    norms = np.sqrt((values**2).sum(axis=1))
    return float((values[0] * values[1]).sum() / norms.prod()) if norms.all() else 0.0


def overlap(moving: Brain, fixed: Brain, affine: NDArray[np.float64]) -> float:
    """Dice coefficient of the masks of two brains.

    Parameters
    ----------
    moving, fixed : Brain
    affine : ndarray, shape (4, 4)
        RAS mm of the fixed brain to RAS mm of the moving one.

    Returns
    -------
    float
    """
    mask = moving.mask.astype(np.float32)
    moved = resample(mask, moving.grid, fixed.grid, Transform(affine=affine)) >= 0.5
    # What lies beyond the grid of the fixed brain counts, too.
    volume = moving.volume / np.linalg.det(affine[:3, :3]) / fixed.spacing**3
    return float(
        2 * np.count_nonzero(moved & fixed.mask) / (volume + np.count_nonzero(fixed.mask))
    )

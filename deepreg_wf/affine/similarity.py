"""How alike two aligned brains are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..spatial import Transform, resample
from .brain import Brain

SMOOTHING_MM = 4.0
"""Standard deviation of the Gaussian that makes the folds of different people comparable.

With it, right alignments of the real brains that were tried had correlations of 0.87 to 0.95 with
the template, and alignments that turn the brain the wrong way round 0.39 to 0.68.
"""


def similarity(moving: Brain, fixed: Brain, affine: NDArray[np.float64]) -> float:
    """Correlation of two smoothed brains over all voxels that are in one of them.

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
    moved = resample(moving.data, moving.grid, fixed.grid, Transform(affine=affine))
    voxels = fixed.mask | (moved > 0)
    sigma = SMOOTHING_MM / fixed.grid.spacing[0]
    smooth = [ndimage.gaussian_filter(data, sigma)[voxels] for data in (fixed.data, moved)]
    values = np.stack(smooth).astype(np.float64)
    values -= values.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(values, axis=1)
    return float(values[0] @ values[1] / norms.prod()) if norms.all() else 0.0

"""Measures of registration quality, computed from maps and images on one grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepreg_wf.lddmm import diagnostics, fields

Mask = NDArray[np.bool_]


def map_measures(
    warp: Tensor, inverse_warp: Tensor, brain: Mask, spacing: Sequence[float]
) -> dict[str, float]:
    """Measure folding, inverse error and displacement of a deformable map in the brain.

    Parameters
    ----------
    warp, inverse_warp : Tensor, shape (3, X, Y, Z)
        Displacements in voxels of the map from the template to the image, and of its inverse.
    brain : ndarray of bool, shape (X, Y, Z)
        Brain mask of the template; voxels to measure.
    spacing : sequence of 3 float
        Voxel size in mm.

    Returns
    -------
    dict of str to float
        Jacobian determinants (smallest and largest of the map; fraction that is not positive,
        over the map and its inverse), inverse error and length of the displacement in mm.
    """
    determinant = fields.jacobian_determinant(warp)[brain]
    both_ways = torch.cat([determinant, fields.jacobian_determinant(inverse_warp)[brain]])
    # Distance between x and inverse(warp(x)), for x in the brain of the template.
    error = diagnostics.inverse_error(inverse_warp, warp, spacing).numpy()[brain]
    distance = diagnostics.magnitude_mm(warp, spacing).numpy()[brain]
    return {
        'jacobian_min': float(determinant.min()),
        'jacobian_max': float(determinant.max()),
        'nonpositive_jacobian_fraction': diagnostics.nonpositive_fraction(both_ways),
        'inverse_error_median_mm': float(np.median(error)),
        'inverse_error_p99_mm': float(np.percentile(error, 99)),
        'displacement_median_mm': float(np.median(distance)),
        'displacement_max_mm': float(distance.max()),
    }


def similarity_measures(
    image: Tensor, mask: Tensor, template: Tensor, template_mask: Tensor, stage: str
) -> dict[str, float]:
    """Compare an image with the template, on the grid of the template.

    Parameters
    ----------
    image, mask : Tensor, shape (X, Y, Z)
        Resampled image and its brain mask.
    template, template_mask : Tensor, shape (X, Y, Z)
    stage : str
        Stage of the registration (``affine`` or ``final``), which ends the names of the measures.

    Returns
    -------
    dict of str to float
        Correlation of the intensities within the brain of the template, and Dice coefficient of
        the masks.
    """
    inside = template_mask > 0
    return {
        f'correlation_{stage}': diagnostics.correlation(image[inside], template[inside]),
        f'mask_dice_{stage}': diagnostics.dice(mask, template_mask),
    }


def affine_determinant(affine: NDArray[np.float64]) -> float:
    """Return the determinant of the linear part of an affine, shape (4, 4)."""
    return float(np.linalg.det(affine[:3, :3]))

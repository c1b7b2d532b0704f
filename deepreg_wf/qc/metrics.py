"""Measures of registration quality, computed from maps and images on one grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from deepreg_wf.lddmm import diagnostics, fields

Mask = NDArray[np.bool_]
Affine = NDArray[np.float64]

CLIPPED_FRACTION = 0.005
"""Fraction of a brain's intensities that is clipped at each end before they are correlated."""

COVERAGE_MM = 10.0
"""Standard deviation of the Gaussian window in which the coverage of a template is measured."""

SYMMETRIC_TEMPLATE = 0.99
"""Correlation with its own mirror image from which a template cannot tell left from right.

Measured: MNI152NLin2009aSym 1.000, MNI152NLin2009cAsym 0.95, single brains 0.89 to 0.93.
"""


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
        Correlation of the intensities within the brain of the template, clipped at both ends, and
        Dice coefficient of the masks.
    """
    inside = template_mask > 0
    correlation = diagnostics.correlation(_clip(image[inside]), _clip(template[inside]))
    return {
        f'correlation_{stage}': correlation,
        f'mask_dice_{stage}': diagnostics.dice(mask, template_mask),
    }


def _clip(values: Tensor) -> Tensor:
    """Clip the extreme values of a set, so that single voxels do not determine a correlation."""
    # torch.quantile refuses more than 16 million values; kthvalue does not.
    rank = 1 + int(CLIPPED_FRACTION * values.numel())
    low, high = values.kthvalue(rank).values, values.kthvalue(values.numel() + 1 - rank).values
    return values.clamp(low, high)


def affine_measures(
    affine: Affine, template_mask: Mask, template_affine: Affine
) -> dict[str, float]:
    """Measure what an affine changes, and the shape of the brain that follows from it.

    With ``L = R P`` the polar decomposition of the linear part, and ``C`` the covariance of the
    points of the template's brain, the points of the image's brain have the covariance ``P C P``
    along the axes of the template. The roots of its diagonal are proportional to the breadth,
    length and height of the brain, whatever the size and shape of the template.

    Parameters
    ----------
    affine : ndarray, shape (4, 4)
        RAS mm of the template to RAS mm of the image.
    template_mask : ndarray of bool, shape (X, Y, Z)
        Brain mask of the template.
    template_affine : ndarray, shape (4, 4)
        Voxel indices of the mask to RAS mm.

    Returns
    -------
    dict of str to float
        Determinant, angle of the rotation in degrees, and ratios of the lengths of the brain:
        height to the geometric mean of breadth and length, and breadth to length.
    """
    linear = affine[:3, :3]
    left, scales, right = np.linalg.svd(linear)
    rotation, stretch = left @ right, right.T @ np.diag(scales) @ right
    points = np.argwhere(template_mask) @ template_affine[:3, :3].T
    covariance = stretch @ np.cov(points.T) @ stretch
    breadth, length, height = np.sqrt(np.diag(covariance))
    angle = np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1))
    return {
        'affine_determinant': float(np.linalg.det(linear)),
        'affine_rotation_deg': float(np.rad2deg(angle)),
        'brain_height_ratio': float(height / np.sqrt(breadth * length)),
        'brain_breadth_ratio': float(breadth / length),
    }


def template_coverage(mask: Mask, template_mask: Mask, spacing: Sequence[float]) -> float:
    """Return the smallest fraction of the template's brain that a mask covers anywhere.

    Parameters
    ----------
    mask, template_mask : ndarray of bool, shape (X, Y, Z)
        Aligned brain mask and brain mask of the template.
    spacing : sequence of 3 float
        Voxel size in mm.

    Returns
    -------
    float
        Smallest local fraction, from 0 to 1. The surroundings of each voxel of the template's
        brain are weighted by a Gaussian window of `COVERAGE_MM`.
    """
    sigma = [COVERAGE_MM / size for size in spacing]
    covered, brain = (
        ndimage.gaussian_filter(part.astype(np.float32), sigma)
        for part in (mask & template_mask, template_mask)
    )
    return float((covered[template_mask] / brain[template_mask]).min())


def mirror_gain(similarity: float, mirrored: float, template_symmetry: float) -> float | None:
    """Return the gain in correlation if left and right of a brain were exchanged.

    Parameters
    ----------
    similarity, mirrored : float
        Correlation of the brain, and of the mirrored brain, with the template.
    template_symmetry : float
        Correlation of the template with its own mirror image.

    Returns
    -------
    float or None
        None if the template is symmetric, and so cannot tell left from right.
    """
    return None if template_symmetry >= SYMMETRIC_TEMPLATE else mirrored - similarity

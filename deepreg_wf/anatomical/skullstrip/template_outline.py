"""Outline of the brain around the aligned template's mask, by the intensities of the head."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from deepreg_wf.anatomical.skullstrip.head import OUTLINE_SPACING_MM, Head, no_brain_error
from deepreg_wf.anatomical.skullstrip.template_search import template_brain
from deepreg_wf.spatial import Transform, resample
from deepreg_wf.spatial.masks import Mask, bounding_box, fill_holes, largest_component

BAND_MM = (-8.0, 4.0)
"""Depths at the template's edge between which intensities decide; deeper voxels are all brain."""

WHITE_MINIMUM = 0.86
"""Least intensity of white matter in the template, relative to its brightest parts."""

GREY_RANGE = (0.6, 0.8)
"""Intensities of grey matter in the template, relative to its brightest parts."""

WHITE_TOLERANCE = 0.4
"""Largest relative difference of white matter to its median; other voxels are left out."""

WHITE_LEVEL_MM = 20.0
"""Standard deviation of the Gaussian by which the local level of white matter is estimated."""

DARKEST_TISSUE, BRIGHTEST_TISSUE = 0.6, 1.3
"""Bounds of tissue: the lower relative to grey matter, the upper relative to white matter."""

BRIDGE_MM = 3.0
"""Radius below which a connection of tissue is cut: dura, vessels and nerves."""

SULCUS_MM = 6.0
"""Radius below which a gap is closed."""

RIM_MM = 2.0
"""Rim that is added around tissue: partial volume and fluid, which brain masks include."""

AffineMatrix = NDArray[np.float64]


def outline_brain(head: Head, affine: AffineMatrix) -> Mask:
    """Outline the brain: tissue in one component near the template, with gaps closed.

    Voxels deep in the template are brain. In the band around its edge tissue counts. An opening by
    `BRIDGE_MM` cuts the connections to scalp and dura, a closing by `SULCUS_MM` fills sulci, and a
    dilation by `RIM_MM` adds the rim.

    Parameters
    ----------
    head : Head
        Head.
    affine : ndarray, shape (4, 4)
        RAS mm of the template to RAS mm of the head.

    Returns
    -------
    ndarray of bool, shape (X, Y, Z)
        Brain mask on the grid of the head.

    Raises
    ------
    InputError
        If the template lies outside of the head; without a path.
    """
    depth = template_depth(head, affine)
    core, reach = depth <= BAND_MM[0], depth <= BAND_MM[1]
    if not core.any():
        raise no_brain_error()
    box = bounding_box(reach, margin=int(SULCUS_MM / OUTLINE_SPACING_MM) + 1)
    core, reach = core[box], reach[box]
    tissue = core | (reach & _tissue(head, affine, depth)[box])
    thick = largest_component(core | ~_dilate(~tissue, BRIDGE_MM))
    # The dilation grows back less of a bridge than its length.
    brain = _dilate(thick, BRIDGE_MM + OUTLINE_SPACING_MM / 2) & tissue
    pad = int(np.ceil(2 * SULCUS_MM / OUTLINE_SPACING_MM))
    closed = ~_dilate(~_dilate(np.pad(brain, pad), SULCUS_MM), SULCUS_MM)
    whole = _dilate(fill_holes(closed), RIM_MM)[(slice(pad, -pad),) * 3]
    mask = np.zeros(head.grid.shape, dtype=bool)
    mask[box] = whole & head.view[box]
    return mask


def template_depth(head: Head, affine: AffineMatrix) -> NDArray[np.float32]:
    """Compute the signed distance from the edge of the aligned template, negative inside.

    Parameters
    ----------
    head : Head
        Head.
    affine : ndarray, shape (4, 4)
        RAS mm of the template to RAS mm of the head.

    Returns
    -------
    ndarray of float32, shape (X, Y, Z)
        Distance in mm of the template, infinite outside of the field of view.
    """
    inverse = Transform(affine=_inverse(affine))
    grid = template_brain().grid
    depth = resample(_signed_distance(), grid, head.grid, inverse, default_value=np.inf)
    return np.where(head.view, depth, np.inf).astype(np.float32)


@lru_cache(maxsize=1)
def _signed_distance() -> NDArray[np.float32]:
    """Return the distance from the edge of the template's mask in mm, negative inside."""
    mask = template_brain().mask
    return OUTLINE_SPACING_MM * (_distance(mask) - _distance(~mask))


def _distance(mask: Mask) -> NDArray[np.float32]:
    """Return the distance from the faces of a mask's voxels, in voxels."""
    distance = ndimage.distance_transform_edt(~mask)
    return np.where(mask, 0, distance - 0.5).astype(np.float32)


def _tissue(head: Head, affine: AffineMatrix, depth: NDArray[np.float32]) -> Mask:
    """Find the voxels that are neither darker than grey matter nor brighter than white matter.

    The local level of white matter is a normalised convolution, G(W I) / G(W), over the voxels W
    where the aligned template has white matter, so that a bias of the intensities does not count.
    """
    template = template_brain()
    inverse = Transform(affine=_inverse(affine))
    aligned = resample(template.data, template.grid, head.grid, inverse)
    deep = depth <= BAND_MM[0] / 2
    white = (aligned > WHITE_MINIMUM) & deep
    grey = (aligned > GREY_RANGE[0]) & (aligned < GREY_RANGE[1]) & deep
    if not white.any() or not grey.any():
        raise no_brain_error()
    level = float(np.median(head.data[white]))
    # Leave out voxels where the aligned template is wrong about white matter.
    white &= np.abs(head.data - level) < WHITE_TOLERANCE * level
    sigma = WHITE_LEVEL_MM / OUTLINE_SPACING_MM
    total, weight = (
        ndimage.gaussian_filter(part.astype(np.float32), sigma, mode='constant')
        for part in (np.where(white, head.data, 0), white)
    )
    local_level = np.maximum((total + 1e-3 * level) / (weight + 1e-3), 1e-6)
    relative = head.data / local_level
    darkest = DARKEST_TISSUE * np.median(relative[grey])
    return np.asarray((relative > darkest) & (relative < BRIGHTEST_TISSUE))


def _inverse(affine: AffineMatrix) -> AffineMatrix:
    return np.asarray(np.linalg.inv(affine), dtype=np.float64)


def _dilate(mask: Mask, radius_mm: float) -> Mask:
    """Dilate a mask by a ball."""
    if not mask.any():
        return mask
    return np.asarray(ndimage.distance_transform_edt(~mask) * OUTLINE_SPACING_MM <= radius_mm)

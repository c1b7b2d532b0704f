"""Measures of a T1-weighted image and of its brain mask, in the space of the image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]
Image = NDArray[np.float32]

OUTSIDE_MM = 3.0
"""Width of the shell around the mask whose intensities are compared with the brain, in mm."""

INSIDE_MM = (3.0, 10.0)
"""Depth below the surface of the mask of the tissue that the shell is compared with, in mm.

Cerebrospinal fluid that a mask includes lies above it.
"""

BACKGROUND_PERCENTILE = 1.0
"""Percentile of an image that is taken as its background."""

CLIPPED_PERCENTILES = (0.5, 99.5)
"""Percentiles of the brain's intensities at which they are clipped, so that no voxel dominates."""

MINIMUM_SLICES = 8
"""Least number of slices of a brain whose order is measured."""


def mask_edge(image: Image, mask: Mask, spacing: Sequence[float]) -> float | None:
    """Compare the intensities outside a brain mask with those inside.

    A brain ends at fluid, bone or an empty background, all of which are dark. Where a mask ends
    within the brain, it is as bright outside as inside.

    Parameters
    ----------
    image : ndarray, shape (X, Y, Z)
        T1-weighted image.
    mask : ndarray of bool, shape (X, Y, Z)
        Brain mask.
    spacing : sequence of 3 float
        Voxel size in mm.

    Returns
    -------
    float or None
        Median intensity within `OUTSIDE_MM` of the mask over that at a depth of `INSIDE_MM`, both
        above the background: 0 for an extracted brain, 1 for a mask without an edge. None if the
        mask has no outside in the image or its inside is as dark as the background.
    """
    box = _box_around(mask, [int(np.ceil(OUTSIDE_MM / size)) + 1 for size in spacing])
    brain = mask[box]
    # Distances are to the centre of the nearest voxel on the other side.
    depth = ndimage.distance_transform_edt(brain, sampling=spacing)
    height = ndimage.distance_transform_edt(~brain, sampling=spacing)
    outside = (height > 0) & (height <= max(OUTSIDE_MM, *spacing))
    inside = (depth > INSIDE_MM[0]) & (depth <= max(INSIDE_MM[1], 2 * max(spacing)))
    if brain.all() or not inside.any():
        return None
    background = float(np.percentile(image, BACKGROUND_PERCENTILE))
    tissue = float(np.median(image[box][inside])) - background
    if tissue <= 0:
        return None
    return (float(np.median(image[box][outside])) - background) / tissue


def slice_order(image: Image, mask: Mask) -> float | None:
    """Compare the two halves of the differences between neighbouring slices.

    With slices ``I_k`` in the right order, the mean of ``|I_2k - I_2k+1|`` over the brain equals
    that of ``|I_2k+1 - I_2k+2|``. If odd and even slices are exchanged, neighbours in the file are
    one and three slices apart in turn, and the means differ.

    Parameters
    ----------
    image : ndarray, shape (X, Y, Z)
        T1-weighted image.
    mask : ndarray of bool, shape (X, Y, Z)
        Brain mask.

    Returns
    -------
    float or None
        The larger mean over the smaller, for the axis where this ratio is the largest; 1 for the
        right order. None if the brain has less than `MINIMUM_SLICES` slices along each axis.
    """
    box = _box_around(mask, [0, 0, 0])
    clipped = np.clip(image[box], *np.percentile(image[mask], CLIPPED_PERCENTILES))
    ratios = [
        _parity_ratio(np.moveaxis(clipped, axis, 0), np.moveaxis(mask[box], axis, 0))
        for axis in range(3)
        if clipped.shape[axis] >= MINIMUM_SLICES
    ]
    return max(ratios, default=None)


def _parity_ratio(slices: Image, mask: Mask) -> float:
    """Divide the larger by the smaller mean difference of slices that begin even and odd."""
    both = mask[1:] & mask[:-1]
    # Smoothing within the slices suppresses noise, which would hide the difference.
    difference = np.abs(np.diff(ndimage.gaussian_filter(slices, (0, 1, 1)), axis=0))
    means = [
        float(difference[start::2][both[start::2]].mean()) if both[start::2].any() else 0.0
        for start in (0, 1)
    ]
    return max(means) / min(means) if min(means) > 0 else 1.0


def _box_around(mask: Mask, margin: Sequence[int]) -> tuple[slice, slice, slice]:
    """Return the box of a mask that is not empty, with a margin in voxels along each axis."""
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    x, y, z = (
        slice(max(0, part.start - voxels), part.stop + voxels)
        for part, voxels in zip(box, margin, strict=True)
    )
    return x, y, z

"""Brain extraction by the bundled template, without networks, weights or other programs.

A correlation search places the template's brain in the head, and an affine registration aligns the
two. The brain is then outlined around the template's mask by the intensities. The method is slower
and less exact than networks, but fails on other images than they do.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepreg_wf.affine.brain import Brain
from deepreg_wf.affine.gauss_newton import COARSE, FINE, refine
from deepreg_wf.affine.similarity import similarity
from deepreg_wf.anatomical.skullstrip.head import Head, no_brain_error
from deepreg_wf.anatomical.skullstrip.template_outline import outline_brain, template_depth
from deepreg_wf.anatomical.skullstrip.template_search import (
    SEARCH_SPACING_MM,
    TemplateSearch,
    candidate_placements,
    template_brain,
)
from deepreg_wf.errors import InputError
from deepreg_wf.spatial import VoxelGrid, resample
from deepreg_wf.spatial.masks import Mask

ALIGNMENT_SPACING_MM = 3.0
"""Voxel size of the affine registration, in mm."""

MINIMUM_SIMILARITY = 0.6
"""Least correlation of the outlined brain with the template; see `similarity`."""

REACHES_MM = (6.0, 4.0)
"""Distances from the template's mask up to which intensities count, one for each alignment."""

N_OUTLINES = 2
"""Number of times that the brain is outlined and the template aligned with it."""


def extract(
    data: NDArray[np.floating],
    grid: VoxelGrid,
    *,
    num_threads: int = 1,
    device: str = 'cpu',
    model: Path | None = None,
) -> Mask:
    """Extract the brain of a head.

    Parameters
    ----------
    data : ndarray, shape (X, Y, Z)
        T1-weighted image, finite.
    grid : VoxelGrid
        Grid of the image.
    num_threads : int
        Not used: the method has one thread.
    device : str
        Not used: the method runs on the CPU.
    model : Path, optional
        Not used.

    Returns
    -------
    ndarray of bool, shape (X, Y, Z)
        Brain mask.

    Raises
    ------
    InputError
        If nothing in the image is like the template; without a path.
    """
    head = Head.from_image(data, grid)
    search = TemplateSearch(head.coarsened(SEARCH_SPACING_MM))
    for placement in candidate_placements(search):
        correlation, mask = _align_and_outline(head, placement.affine)
        if correlation >= MINIMUM_SIMILARITY:
            return resample(mask.astype(np.float32), head.grid, grid) >= 0.5
    raise no_brain_error()


def _align_and_outline(head: Head, affine: NDArray[np.float64]) -> tuple[float, Mask]:
    """Align the template from a placement and outline the brain.

    The outline follows the tissue of the head and is no copy of the template's mask. Without a
    brain in the head, its content is therefore unlike the template.

    Parameters
    ----------
    head : Head
        Head.
    affine : ndarray, shape (4, 4)
        Initial affine, RAS mm of the template to RAS mm of the head.

    Returns
    -------
    correlation : float
        Similarity of the outlined brain to the template, 0 if there is none.
    mask : ndarray of bool, shape (X, Y, Z)
        Brain mask on the grid of the head.
    """
    template, levels = template_brain(), COARSE[1:] + FINE[:1]
    try:
        for reach, first in zip(REACHES_MM, (COARSE, levels), strict=True):
            region = template_depth(head, affine) <= reach
            affine = refine(_brain_within(head, region), template, affine, first)
        for _ in range(N_OUTLINES):
            mask = outline_brain(head, affine)
            brain = _brain_within(head, mask)
            affine = refine(brain, template, affine, levels)
    except InputError:
        return 0.0, np.zeros(head.grid.shape, dtype=bool)
    return similarity(brain, template, affine), mask


def _brain_within(head: Head, mask: Mask) -> Brain:
    """Return the part of a head within a mask, as a brain."""
    if not mask.any():
        raise no_brain_error()
    return Brain.from_image(head.data, mask, head.grid, ALIGNMENT_SPACING_MM)

"""Affine registration of a brain with the template, from any start."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..brain.mask import Mask
from ..spatial import VoxelGrid
from .brain import Brain
from .refine import COARSE, FULL, SLOPPY, refine
from .similarity import similarity
from .start import SEARCH_SPACING, centred_start, search_starts

SPACING = 2.0
"""Of the grids that are registered, in mm, unless the template's is coarser."""

CONFIDENT = 0.83
"""Correlation from which the header is believed without a search."""

CANDIDATES = 4
"""Number of rotations that are refined where the header is not believed."""

Array = NDArray[np.float64]
Image = tuple[NDArray[np.floating], Mask, VoxelGrid]


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """An affine and what is known of it.

    Attributes
    ----------
    affine : ndarray, shape (4, 4)
        RAS mm of the template to RAS mm of the brain.
    start : {'header', 'search'}
        Whether the orientation that the header gives led there, or another one.
    similarity_before, similarity : float
        Correlation of the brains with centres and volumes brought together, and at the end.
    """

    affine: Array
    start: str
    similarity_before: float
    similarity: float


def align(
    moving: Image, fixed: Image, *, seed: int = 0, num_threads: int = 1, sloppy: bool = False
) -> Alignment:
    """Find the affine between the template and a brain.

    It starts from the orientation of the header, with centres and volumes brought together. If
    the brains are not alike then, rotations all around are searched.

    Parameters
    ----------
    moving : tuple
        Intensities, mask and grid of the brain; any orientation, also sheared.
    fixed : tuple
        The same of the template.
    seed : int
        Of the voxels that are compared. The result has the same bits for the same seed, and does
        not depend on `num_threads`.
    num_threads : int
        Starts that are refined at the same time.
    sloppy : bool
        Few iterations, for tests.

    Returns
    -------
    Alignment
        The best that was found, however bad.
    """
    spacing = max(SPACING, *fixed[2].spacing)
    brains = Brain.from_image(*moving, spacing), Brain.from_image(*fixed, spacing)
    levels = SLOPPY if sloppy else FULL
    start = centred_start(*brains)
    before = similarity(*brains, start)
    affine = refine(*brains, start, seed=seed, levels=levels)
    best, origin = similarity(*brains, affine), 'header'
    if best < CONFIDENT:
        coarse = [Brain.from_image(*image, SEARCH_SPACING) for image in (moving, fixed)]
        starts = search_starts(*coarse, CANDIDATES)
        start = _best(brains, starts, seed=seed, num_threads=num_threads)
        searched = refine(*brains, start, seed=seed, levels=levels)
        found = similarity(*brains, searched)
        if found > best:
            affine, best, origin = searched, found, 'search'
    return Alignment(affine=affine, start=origin, similarity_before=before, similarity=best)


def _best(
    brains: tuple[Brain, Brain], starts: Sequence[Array], *, seed: int, num_threads: int
) -> Array:
    """Refine several starts roughly; return the result under which the brains are most alike."""

    def refined(start: Array) -> Array:
        return refine(*brains, start, seed=seed, levels=COARSE)

    with ThreadPoolExecutor(num_threads) as pool:
        results = list(pool.map(refined, starts))
    return max(results, key=lambda result: similarity(*brains, result))

"""Affine registration of a brain with the template, from any start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from scipy.spatial.transform import Rotation

from deepreg_wf.affine.brain import Brain
from deepreg_wf.affine.gauss_newton import COARSE, FINE, SLOPPY, refine
from deepreg_wf.affine.initialise import centred_start, search
from deepreg_wf.affine.network_start import learned_start
from deepreg_wf.affine.similarity import overlap, similarity
from deepreg_wf.spatial import VoxelGrid
from deepreg_wf.spatial.masks import Mask

SPACING = 3.0
"""Of the grids that are registered, in mm, unless the template's is coarser."""

CONFIDENT = 0.65
"""Correlation from which a start is believed and no other one tried."""

LADDERS = {
    'auto': (('header', 'network'), ('search',)),
    'classical': (('header',), ('search',)),
    'icstn': (('network',), ('header',), ('search',)),
}
"""What ``--affine-method`` can name: the starts it compares, and the next where there is doubt."""

Array = NDArray[np.float64]
Image = tuple[NDArray[np.floating], Mask, VoxelGrid]

STARTS: dict[str, Callable[[Brain, Brain], Array]] = {
    'header': centred_start,
    'network': learned_start,
    'search': search,
}


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """An affine and what is known of it.

    Attributes
    ----------
    affine : ndarray, shape (4, 4)
        RAS mm of the template to RAS mm of the brain; its determinant is positive.
    start : {'header', 'network', 'search'}
        What led there: the orientation that the header gives, the one that the network sees, or
        one of many that were tried.
    offset : float
        Distance of the centres of the two brains as the headers give them, in mm.
    similarity_before, similarity : float
        Correlation of the brains with centres and volumes brought together, and at the end.
    overlap : float
        Dice coefficient of the masks of the aligned brains.
    mirrored : float
        Correlation that the mirrored brain reaches, left taken for right. A template that is
        symmetric cannot tell the two apart, and people are nearly symmetric. Not a number where
        it was not asked for.
    """

    affine: Array
    start: str
    offset: float
    similarity_before: float
    similarity: float
    overlap: float
    mirrored: float

    @property
    def turn(self) -> float:
        """Angle between the brain and the template as the headers turn them, in degrees."""
        rotation = Rotation.from_matrix(linalg.polar(self.affine[:3, :3])[0])
        return float(np.rad2deg(rotation.magnitude()))


def align(
    moving: Image,
    fixed: Image,
    *,
    method: str = 'auto',
    polish: bool = True,
    mirror: bool = False,
    sloppy: bool = False,
) -> Alignment:
    """Find the affine between the template and a brain.

    Several starts are refined by Gauss and Newton's method and compared; others are tried until
    the brains are as alike as two brains are. Left and right are those of the header in all.

    Parameters
    ----------
    moving : tuple
        Intensities, mask and grid of the brain; any orientation, also sheared.
    fixed : tuple
        The same of the template.
    method : str
        A key of `LADDERS`: which starts.
    polish : bool
        Refine what the network finds; the other starts always are.
    mirror : bool
        Try the mirrored brain, too, and tell how well it fits; nothing is ever mirrored.
    sloppy : bool
        Few iterations.

    Returns
    -------
    Alignment
        The best that was found, however bad; the same bits for the same input.

    Raises
    ------
    ValueError
        If there is no such method.
    """
    if method not in LADDERS:
        raise ValueError(f'method must be one of {", ".join(LADDERS)}, not {method!r}')
    spacing = max(SPACING, *fixed[2].spacing)
    brains = Brain.from_image(*moving, spacing), Brain.from_image(*fixed, spacing)
    levels = SLOPPY if sloppy else FINE
    tried: list[tuple[float, str, Array]] = []
    for origins in LADDERS[method]:
        rough = [(_begin(brains, origin, polish), origin) for origin in origins]
        affine, origin = max(rough, key=lambda start: similarity(*brains, start[0]))
        if polish or origin != 'network':
            affine = refine(*brains, affine, levels)
        tried.append((similarity(*brains, affine), origin, affine))
        if tried[-1][0] >= CONFIDENT:
            break
    best, origin, affine = max(tried, key=lambda trial: trial[0])
    mirrored = float('nan')
    if mirror:
        flipped = refine(*brains, affine @ _mirror(brains[1].centre), levels)
        mirrored = similarity(*brains, flipped)
    return Alignment(
        affine=affine,
        start=origin,
        offset=float(np.linalg.norm(brains[0].centre - brains[1].centre)),
        similarity_before=similarity(*brains, centred_start(*brains)),
        similarity=best,
        overlap=overlap(*brains, affine),
        mirrored=mirrored,
    )


def _begin(brains: tuple[Brain, Brain], origin: str, polish: bool) -> Array:
    """Refine a start as far as it takes to compare it with others."""
    start = STARTS[origin](*brains)
    return refine(*brains, start, COARSE) if polish or origin != 'network' else start


def _mirror(centre: Array) -> Array:
    """Affine that exchanges left and right about a point."""
    affine = np.diag([-1.0, 1.0, 1.0, 1.0])
    affine[0, 3] = 2 * centre[0]
    return affine

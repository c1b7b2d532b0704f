"""Affine registration of a brain with the template, from several initial affines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from scipy.spatial.transform import Rotation

from deepreg_wf.affine.brain import Brain
from deepreg_wf.affine.gauss_newton import COARSE, FINE, SLOPPY, refine
from deepreg_wf.affine.initialise import centred_start, network_start, search_start
from deepreg_wf.affine.similarity import overlap, similarity
from deepreg_wf.spatial import VoxelGrid
from deepreg_wf.spatial.masks import Mask

REGISTRATION_SPACING_MM = 3.0
"""Voxel size of the registration in mm, unless the template is coarser."""

ACCEPTED_SIMILARITY = 0.65
"""Correlation from which a result is accepted and no further initialisation is tried."""

START_SEQUENCES = {
    'auto': (('header', 'network'), ('search',)),
    'classical': (('header',), ('search',)),
    'icstn': (('network',), ('header',), ('search',)),
}
"""Initialisations of each ``--affine-method``.

The initialisations of a group are compared and the best is refined; the next group is tried only
where the result stays below `ACCEPTED_SIMILARITY`.
"""

AffineMatrix = NDArray[np.float64]
Image = tuple[NDArray[np.floating], Mask, VoxelGrid]

STARTS: dict[str, Callable[[Brain, Brain], AffineMatrix]] = {
    'header': centred_start,
    'network': network_start,
    'search': search_start,
}
"""Functions that compute an initial affine, by name."""


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """Result of the affine registration.

    Attributes
    ----------
    affine : ndarray, shape (4, 4)
        RAS mm of the template to RAS mm of the brain; its determinant is positive.
    start : {'header', 'network', 'search'}
        Initialisation that led to it: the orientation of the header, the estimate of the
        network, or the best of many rotations.
    offset : float
        Distance between the centres of the two brains by their headers, in mm.
    similarity_before, similarity : float
        Correlation of the brains with centres and volumes matched, and with the affine.
    overlap : float
        Dice coefficient of the masks of the aligned brains.
    mirrored : float or None
        Correlation of the mirrored brain after refinement, None if it was not computed. Brains are
        nearly symmetric: with a symmetric template the two correlations are equal.
    template_symmetry : float or None
        Correlation of the template with its own mirror image, None if it was not computed.
    """

    affine: AffineMatrix
    start: str
    offset: float
    similarity_before: float
    similarity: float
    overlap: float
    mirrored: float | None = None
    template_symmetry: float | None = None

    @property
    def rotation_deg(self) -> float:
        """Angle of the rotation between brain and template by their headers, in degrees."""
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
    weights: Path | None = None,
) -> Alignment:
    """Find the affine between the template and a brain.

    Several initial affines are refined by the Gauss-Newton method and compared. Further ones are
    tried until the similarity reaches that of two brains. Left and right of the header are kept.

    Parameters
    ----------
    moving : tuple
        Intensities, mask and grid of the brain; any orientation, also sheared.
    fixed : tuple
        Intensities, mask and grid of the template.
    method : str
        Sequence of initialisations, a key of `START_SEQUENCES`.
    polish : bool
        Refine the estimate of the network; other initialisations are always refined.
    mirror : bool
        Compute the similarity of the mirrored brain and the symmetry of the template too. The
        result is never mirrored.
    sloppy : bool
        Use few iterations, for tests.
    weights : Path, optional
        Weights file of the network; that of the package by default.

    Returns
    -------
    Alignment
        The most similar result, whether plausible or not; identical for identical input.

    Raises
    ------
    ValueError
        If the method is unknown.
    InputError
        If the weights file is missing, damaged or of another kind of network.
    """
    if method not in START_SEQUENCES:
        raise ValueError(f'method must be one of {", ".join(START_SEQUENCES)}, not {method!r}')
    spacing = max(REGISTRATION_SPACING_MM, *fixed[2].spacing)
    brains = Brain.from_image(*moving, spacing), Brain.from_image(*fixed, spacing)
    levels = SLOPPY if sloppy else FINE
    starts = STARTS | {'network': partial(network_start, weights=weights)}
    results: list[tuple[float, str, AffineMatrix]] = []
    for start_names in START_SEQUENCES[method]:
        candidates = []
        for name in start_names:
            start = starts[name](*brains)
            is_refined = polish or name != 'network'
            candidates.append((refine(*brains, start, COARSE) if is_refined else start, name))
        affine, start_name = max(candidates, key=lambda pair: similarity(*brains, pair[0]))
        if polish or start_name != 'network':
            affine = refine(*brains, affine, levels)
        results.append((similarity(*brains, affine), start_name, affine))
        if results[-1][0] >= ACCEPTED_SIMILARITY:
            break
    best, start_name, affine = max(results, key=lambda result: result[0])
    mirrored = symmetry = None
    if mirror:
        reflection = _reflection(brains[1].centre)
        mirrored = similarity(*brains, refine(*brains, affine @ reflection, levels))
        symmetry = _symmetry(brains[1], reflection)
    return Alignment(
        affine=affine,
        start=start_name,
        offset=float(np.linalg.norm(brains[0].centre - brains[1].centre)),
        similarity_before=similarity(*brains, centred_start(*brains)),
        similarity=best,
        overlap=overlap(*brains, affine),
        mirrored=mirrored,
        template_symmetry=symmetry,
    )


def _symmetry(brain: Brain, reflection: AffineMatrix) -> float:
    """Compute the correlation of a brain with its mirror image, about the best plane."""
    return similarity(brain, brain, refine(brain, brain, reflection, SLOPPY))


def _reflection(centre: NDArray[np.float64]) -> AffineMatrix:
    """Return the affine that exchanges left and right about a point in RAS mm."""
    affine = np.diag([-1.0, 1.0, 1.0, 1.0])
    affine[0, 3] = 2 * centre[0]
    return affine

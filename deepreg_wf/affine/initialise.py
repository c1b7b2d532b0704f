"""Where the affine registration starts from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from deepreg_wf.affine.brain import Brain
from deepreg_wf.affine.gauss_newton import COARSE, refine
from deepreg_wf.affine.similarity import similarity

SEARCH_SPACING = 8.0
"""Of the grid on which rotations are tried, in mm."""

ROTATIONS = 480
"""Number of rotations tried: no rotation is further than about 25 degrees from one of them."""

CANDIDATES = 4
"""Number of them that are refined."""

SPREAD = np.deg2rad(40)
"""Two candidates are at least this far apart, in radians: refining reaches as far."""

Array = NDArray[np.float64]


def centred_start(moving: Brain, fixed: Brain, rotation: Array | None = None) -> Array:
    """Affine that brings the centres and the volumes of two brains together.

    Parameters
    ----------
    moving, fixed : Brain
    rotation : ndarray, shape (3, 3), optional
        Of the fixed brain about its centre; by default the header is right.

    Returns
    -------
    ndarray, shape (4, 4)
        RAS mm of the fixed brain to RAS mm of the moving one.
    """
    scale = (moving.volume / fixed.volume) ** (1 / 3)
    affine = np.eye(4)
    affine[:3, :3] = scale * (np.eye(3) if rotation is None else rotation)
    affine[:3, 3] = moving.centre - affine[:3, :3] @ fixed.centre
    return affine


def search(moving: Brain, fixed: Brain) -> Array:
    """Find how a brain is turned, whatever the header says.

    Rotations all around are compared; of those from which the brains look most alike, none of
    them close to another, the one that leads furthest is taken.

    Parameters
    ----------
    moving, fixed : Brain

    Returns
    -------
    ndarray, shape (4, 4)
        RAS mm of the fixed brain to RAS mm of the moving one.
    """
    rotations = even_rotations(ROTATIONS)
    coarse = moving.coarsened(SEARCH_SPACING), fixed.coarsened(SEARCH_SPACING)
    starts = [centred_start(moving, fixed, matrix) for matrix in rotations.as_matrix()]
    scores = [similarity(*coarse, start) for start in starts]
    chosen: list[int] = []
    for index in np.argsort(scores)[::-1]:
        apart = [(rotations[index] * rotations[other].inv()).magnitude() for other in chosen]
        if all(angle > SPREAD for angle in apart):
            chosen.append(int(index))
        if len(chosen) == CANDIDATES:
            break
    refined = [refine(moving, fixed, starts[index], COARSE) for index in chosen]
    return max(refined, key=lambda affine: similarity(moving, fixed, affine))


def even_rotations(number: int) -> Rotation:
    """Rotations spread evenly over all there are (Alexa, CVPR 2022, super-Fibonacci spirals)."""
    phi, psi = np.sqrt(2), 1.533751168755204288118041
    steps = np.arange(number) + 0.5
    inner, outer = np.sqrt(steps / number), np.sqrt(1 - steps / number)
    alpha, beta = 2 * np.pi * steps / phi, 2 * np.pi * steps / psi
    parts = (
        inner * np.sin(alpha),
        inner * np.cos(alpha),
        outer * np.sin(beta),
        outer * np.cos(beta),
    )
    return Rotation.from_quat(np.stack(parts, axis=-1))

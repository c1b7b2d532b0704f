"""Initial affines: from the header, from the localisation network, or by a search of rotations."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from deepreg_wf.affine.brain import Brain
from deepreg_wf.affine.gauss_newton import COARSE, refine
from deepreg_wf.affine.similarity import similarity
from deepreg_wf.checkpoints.locate import find_affine_network

if TYPE_CHECKING:
    from deepreg_wf.affine.localisation_net import LocalisationNet

SEARCH_SPACING_MM = 8.0
"""Voxel size of the search of rotations, in mm."""

N_ROTATIONS = 480
"""Number of rotations compared: any rotation is within about 25 degrees of one of them."""

N_CANDIDATES = 4
"""Number of rotations that are refined."""

MINIMUM_SEPARATION = np.deg2rad(40)
"""Least angle between two candidates, in radians: the refinement covers smaller ones."""

NETWORK_STEPS = 4
"""Steps of the recurrence of the network."""

NETWORK_SPACING_MM = 4.0
"""Voxel size of the brains that are resampled for the network, as in its training, in mm."""

AffineMatrix = NDArray[np.float64]


def centred_start(
    moving: Brain, fixed: Brain, rotation: NDArray[np.float64] | None = None
) -> AffineMatrix:
    """Match the centres of mass and the volumes of two brains.

    Parameters
    ----------
    moving, fixed : Brain
        The two brains.
    rotation : ndarray, shape (3, 3), optional
        Rotation of the fixed brain about its centre; none by default, which takes the orientation
        from the headers.

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


def search_start(moving: Brain, fixed: Brain) -> AffineMatrix:
    """Search the orientation of a brain among rotations that cover all orientations.

    The similarities of all rotations are computed at a coarse resolution. The best ones, at least
    `MINIMUM_SEPARATION` apart, are refined, and the most similar result is returned.

    Parameters
    ----------
    moving, fixed : Brain
        The two brains.

    Returns
    -------
    ndarray, shape (4, 4)
        RAS mm of the fixed brain to RAS mm of the moving one.
    """
    rotations = super_fibonacci_rotations(N_ROTATIONS)
    coarse = moving.coarsened(SEARCH_SPACING_MM), fixed.coarsened(SEARCH_SPACING_MM)
    starts = [centred_start(moving, fixed, matrix) for matrix in rotations.as_matrix()]
    scores = [similarity(*coarse, start) for start in starts]
    chosen: list[int] = []
    for index in np.argsort(scores)[::-1]:
        angles = [(rotations[index] * rotations[other].inv()).magnitude() for other in chosen]
        if all(angle > MINIMUM_SEPARATION for angle in angles):
            chosen.append(int(index))
        if len(chosen) == N_CANDIDATES:
            break
    refined = [refine(moving, fixed, starts[index], COARSE) for index in chosen]
    return max(refined, key=lambda affine: similarity(moving, fixed, affine))


def super_fibonacci_rotations(number: int) -> Rotation:
    """Return rotations that cover all rotations evenly, on a super-Fibonacci spiral.

    The unit quaternion of sample i of n, with s = i + 1/2, is

        (r sin a, r cos a, R sin b, R cos b),  r = sqrt(s / n), R = sqrt(1 - s / n),
        a = 2 pi s / phi, b = 2 pi s / psi,

    with phi = sqrt(2) and psi the real root of psi^4 = psi + 4 (Alexa, CVPR 2022, algorithm 1).

    Parameters
    ----------
    number : int
        Number of rotations.

    Returns
    -------
    Rotation
        The rotations, of length `number`.
    """
    phi, psi = np.sqrt(2), 1.533751168755204288118041
    samples = np.arange(number) + 0.5
    inner, outer = np.sqrt(samples / number), np.sqrt(1 - samples / number)
    alpha, beta = 2 * np.pi * samples / phi, 2 * np.pi * samples / psi
    quaternions = (
        inner * np.sin(alpha),
        inner * np.cos(alpha),
        outer * np.sin(beta),
        outer * np.cos(beta),
    )
    return Rotation.from_quat(np.stack(quaternions, axis=-1))


def network_start(
    moving: Brain, fixed: Brain, *, steps: int = NETWORK_STEPS, weights: Path | None = None
) -> AffineMatrix:
    """Estimate the affine by the localisation network, independent of the headers.

    Parameters
    ----------
    moving, fixed : Brain
        The two brains.
    steps : int
        Number of steps of the recurrence.
    weights : Path, optional
        Weights file of the network; that of the package by default.

    Returns
    -------
    ndarray, shape (4, 4)
        RAS mm of the fixed brain to RAS mm of the moving one.

    Raises
    ------
    InputError
        If the weights file is missing, damaged or of another kind of network.
    """
    import torch

    from deepreg_wf.affine.localisation_net import estimate_affines, resample_to_box

    network = _load_network(weights or find_affine_network())
    coarse = [brain.coarsened(NETWORK_SPACING_MM) for brain in (moving, fixed)]
    frames = [_centred_frame(brain, network.volume) for brain in coarse]
    images = [torch.from_numpy(brain.data) for brain in coarse]
    to_voxels = [
        torch.from_numpy(brain.grid.inverse_affine @ frame).float()
        for brain, frame in zip(coarse, frames, strict=True)
    ]
    threads = torch.get_num_threads()
    # A network this small gains nothing from more threads.
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            fixed_box = resample_to_box(images[1], to_voxels[1], network)
            affine = estimate_affines(network, images[0], to_voxels[0], fixed_box, steps=steps)[-1]
    finally:
        torch.set_num_threads(threads)
    return np.asarray(frames[0] @ affine.double().numpy() @ np.linalg.inv(frames[1]))


def _centred_frame(brain: Brain, volume: float) -> AffineMatrix:
    """Return the affine from mm about the centre of a brain of a given volume to RAS mm."""
    frame = np.eye(4)
    frame[:3, :3] *= (brain.volume / volume) ** (1 / 3)
    frame[:3, 3] = brain.centre
    return frame


@lru_cache(maxsize=1)
def _load_network(path: Path) -> LocalisationNet:
    from deepreg_wf.affine.localisation_net import load_localisation_net

    return load_localisation_net(path)

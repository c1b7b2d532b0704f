"""Refining an affine with antspyx, the same way each time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._itk import call_isolated
from ..spatial import load_affine, save_affine
from .brain import Brain

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Levels:
    """What the registration does at each level of resolution, the coarsest first.

    Attributes
    ----------
    spacing : tuple of float
        Of the voxels that are compared, in mm.
    smoothing : tuple of float
        Standard deviation of the Gaussian before that, in mm.
    iterations : tuple of int
        At most.
    sampling : float
        Share of the voxels that are compared.
    """

    spacing: tuple[float, ...] = (12.0, 6.0, 4.0)
    smoothing: tuple[float, ...] = (4.0, 2.0, 0.0)
    iterations: tuple[int, ...] = (200, 200, 200)
    sampling: float = 0.5


FULL = Levels()
"""On brains moved by known affines, the error of ANTs' own ``AffineFast`` falls to a third."""

COARSE = Levels(spacing=(12.0, 6.0), smoothing=(4.0, 2.0), iterations=(200, 100))
"""Enough to tell which of several starts is right."""

SLOPPY = Levels(iterations=(100, 50, 20), sampling=0.25)


def refine(moving: Brain, fixed: Brain, start: Array, *, seed: int, levels: Levels) -> Array:
    """Refine an affine by mutual information.

    Parameters
    ----------
    moving, fixed : Brain
        On grids of the same spacing.
    start : ndarray, shape (4, 4)
        RAS mm of the fixed brain to RAS mm of the moving one.
    seed : int
        Of the choice of voxels.
    levels : Levels

    Returns
    -------
    ndarray, shape (4, 4)
        RAS mm of the fixed brain to RAS mm of the moving one; the same bits for the same input.
    """
    # One thread and a fixed seed, without which ITK's sums differ from run to run.
    return call_isolated(_register, moving, fixed, start, seed, levels, threads=1)


def _register(moving: Brain, fixed: Brain, start: Array, seed: int, levels: Levels) -> Array:
    import ants

    # A seed of zero is the time of day to ANTs.
    ants.config.set_ants_deterministic(True, seed_value=seed + 1)
    voxel = fixed.grid.spacing[0]
    with TemporaryDirectory() as folder:
        initial = Path(folder) / 'start.txt'
        save_affine(initial, start)
        done = ants.registration(
            fixed=_to_ants(fixed),
            moving=_to_ants(moving),
            type_of_transform='Affine',
            initial_transform=[str(initial)],
            outprefix=f'{folder}/',
            aff_random_sampling_rate=levels.sampling,
            aff_iterations=levels.iterations,
            aff_shrink_factors=tuple(max(1, round(size / voxel)) for size in levels.spacing),
            aff_smoothing_sigmas=tuple(round(sigma / voxel, 3) for sigma in levels.smoothing),
            singleprecision=False,
        )
        return load_affine(done['fwdtransforms'][0])


def _to_ants(brain: Brain) -> Any:
    import ants

    flip = np.diag([-1.0, -1.0, 1.0])
    return ants.from_numpy(
        brain.data,
        origin=(flip @ brain.grid.affine[:3, 3]).tolist(),
        spacing=list(brain.grid.spacing),
        direction=flip @ brain.grid.axes,
    )

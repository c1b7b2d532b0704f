"""Image matching: the initial momentum whose geodesic warps one image onto another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deepreg_wf.lddmm.energy import Energy, EnergyTerms, ImagePair
from deepreg_wf.lddmm.images import block_average, content_box, pad_to_multiple
from deepreg_wf.lddmm.lattice import Lattice, coarsest_spacing
from deepreg_wf.lddmm.lbfgs import MatchingSchedule, Progress, minimise
from deepreg_wf.lddmm.metric import Metric

MATCHING_GAIN_CUTOFF = 1 / 125
"""As `SHOOTING_GAIN_CUTOFF`, for matching: a lattice of 4 mm, which is five times as fast."""

VOXELS_PER_LATTICE_SPACING = 2
"""Least spacing of the lattice of a level, in voxels of that level.

The forces of images are products with their gradients, and contain frequencies that are aliased on
the voxels of the level.
"""


@dataclass(frozen=True)
class Match:
    """Result of a matching.

    Attributes
    ----------
    momentum : Tensor, shape (3, X, Y, Z)
        Initial momentum m_0. Its map does not fold on the lattice of the matching. Shoot it by
        `shoot_invertible`, whose lattice is finer.
    energies : tuple of tuple of float
        Energy before the first and after each iteration, per level, coarsest first; empty for a
        level without iterations.
    spacings : tuple of float
        Largest voxel size of each level, in millimetres.
    """

    momentum: Tensor
    energies: tuple[tuple[float, ...], ...]
    spacings: tuple[float, ...]


def match(
    moving: Tensor,
    fixed: Tensor,
    metric: Metric,
    *,
    terms: EnergyTerms,
    schedule: MatchingSchedule | None = None,
    fixed_mask: Tensor | None = None,
    moving_mask: Tensor | None = None,
    initial_momentum: Tensor | None = None,
    progress: Progress | None = None,
) -> Match:
    """Find the geodesic that warps one image onto another; see `match_pair`.

    Parameters
    ----------
    moving, fixed : Tensor, shape (X, Y, Z)
        I0 and I1, on the grid of `metric`, intensities in [0, 1].
    metric : Metric
        Metric on the voxels of the images.
    terms : EnergyTerms
        Similarity of the images, and bounds of the volume change.
    schedule : MatchingSchedule, optional
        Resolution levels and iterations.
    fixed_mask, moving_mask : Tensor, shape (X, Y, Z), optional
        Weight of each voxel of `fixed` and of `moving`, zero where it is not to be matched: a
        lesion, or tissue that the image lacks.
    initial_momentum : Tensor, shape (3, X, Y, Z), optional
        Momentum to start from; zero by default.
    progress : callable, optional
        Called after each iteration; see `Progress`.

    Returns
    -------
    Match
        The momentum, and the energies of all iterations.
    """
    pair = ImagePair(moving, fixed, moving_mask, fixed_mask)
    return match_pair(pair, metric, terms, schedule, initial_momentum, progress)


def match_pair(
    pair: ImagePair,
    metric: Metric,
    terms: EnergyTerms,
    schedule: MatchingSchedule | None = None,
    initial_momentum: Tensor | None = None,
    progress: Progress | None = None,
    *,
    lattice_spacing: float = 0.0,
) -> Match:
    """Minimise ``1/2 <m0, K m0> + mismatch(I0 o phi^-1, I1) + barrier(phi)``, coarse to fine.

    The method is L-BFGS preconditioned by the operator L, that is, in the Hilbert space of the
    metric, where the Hessian of the regularity term is the identity at every resolution.

    Parameters
    ----------
    pair : ImagePair
        I0 and I1, on the grid of `metric`.
    metric, terms, schedule, initial_momentum, progress
        As for `match`.
    lattice_spacing : float
        Least spacing of the lattice of any level, in mm.

    Returns
    -------
    Match
        The momentum, and the energies of all iterations.
    """
    schedule = schedule or MatchingSchedule()
    halvings = len(schedule.levels(metric.spacing)) - 1
    box = (..., *content_box(torch.maximum(pair.moving, pair.fixed), 2**halvings))
    momentum = pair.moving.new_zeros(3, *pair.moving.shape)
    start = momentum if initial_momentum is None else initial_momentum
    found, energies = _match_levels(
        pair.map(lambda image: image[box]),
        metric,
        terms,
        schedule,
        start[box],
        progress,
        lattice_spacing,
    )
    momentum[box] = found
    spacings = tuple(max(metric.spacing) * 2**level for level in range(halvings, -1, -1))
    return Match(momentum, energies, spacings)


def _match_levels(
    pair: ImagePair,
    metric: Metric,
    terms: EnergyTerms,
    schedule: MatchingSchedule,
    initial_momentum: Tensor,
    progress: Progress | None,
    lattice_spacing: float,
) -> tuple[Tensor, tuple[tuple[float, ...], ...]]:
    """Minimise the energy level by level, coarse to fine.

    Returns
    -------
    momentum : Tensor, shape (3, X, Y, Z)
        On the voxels of the pair.
    energies : tuple of tuple of float
        Energy before the first and after each iteration, per level; empty for a level without
        iterations.
    """
    levels = schedule.levels(metric.spacing)
    coarsest = 2 ** (len(levels) - 1)
    shape = pair.moving.shape
    momentum = pad_to_multiple(initial_momentum, coarsest)
    # A displacement is repeated: zeros beside it would be an impossible change of volume.
    pair = pair.map(lambda image: pad_to_multiple(image, coarsest, repeat=image.ndim == 4))
    grid = metric.with_grid(pair.moving.shape, metric.spacing)
    energies: list[tuple[float, ...]] = []
    for level, iterations in enumerate(levels):
        if not iterations:
            energies.append(())
            continue
        factor = coarsest // 2**level
        level_pair = pair.map(lambda image, factor=factor: block_average(image, factor))  # type: ignore[misc]
        lattice = _lattice_of_level(grid, factor, lattice_spacing)
        energy = Energy.from_pair(level_pair, lattice.coarsened(factor), terms)
        start = lattice.restrict(momentum)
        found, trace = minimise(energy, start, iterations, schedule, progress)
        # Adding the change keeps the frequencies of the momentum that the lattice lacks.
        momentum = momentum + lattice.lift(found - start)
        energies.append(tuple(trace))
    return momentum[:, : shape[0], : shape[1], : shape[2]], tuple(energies)


def _lattice_of_level(grid: Metric, factor: int, least: float) -> Lattice:
    """Return the lattice of the momenta at a level that averages `factor` voxels a side."""
    spacing = VOXELS_PER_LATTICE_SPACING * factor * min(grid.spacing)
    spacing = max(spacing, least, coarsest_spacing(grid, MATCHING_GAIN_CUTOFF))
    return Lattice.around(grid, spacing=spacing)

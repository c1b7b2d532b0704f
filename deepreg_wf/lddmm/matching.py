"""Image matching: the initial momentum whose geodesic carries one image onto another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deepreg_wf.lddmm.energy import Energy, Pair
from deepreg_wf.lddmm.images import block_average, content_box, pad_to_multiple
from deepreg_wf.lddmm.lattice import Lattice, coarsest_spacing
from deepreg_wf.lddmm.lbfgs import Progress, Schedule, minimise
from deepreg_wf.lddmm.metric import Metric
from deepreg_wf.lddmm.similarity import LNCC, SSD

DEFAULT_SIMILARITY = LNCC(width=2.0, weight=0.2)

NEGLIGIBLE_GAIN = 1 / 125
"""As that of `Lattice`, but on the way to a momentum: a lattice of 4 mm, five times as fast."""

VOXELS_PER_POINT = 2
"""Voxels of a level to a point of its lattice, each way.

The forces of images are products with their gradients, and bring frequencies that the images of a
level do not tell apart from those of the next.
"""


@dataclass(frozen=True)
class Match:
    """A matching and the way to it.

    Attributes
    ----------
    momentum : Tensor, shape (3, X, Y, Z)
        Initial momentum m_0; no step of the way led to a fold, and `shoot_invertible` sees to it
        that it does not fold on a finer lattice either.
    energies : tuple of tuple of float
        Energy before and after each iteration, per level, coarsest first.
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
    similarity: SSD | LNCC,
    schedule: Schedule | None = None,
    mask: Tensor | None = None,
    moving_mask: Tensor | None = None,
    start: Tensor | None = None,
    progress: Progress | None = None,
) -> Match:
    """Minimise ``E(m0) = 1/2 <m0, K m0> + mismatch(I0 o phi^-1, I1)``, coarse to fine.

    L-BFGS preconditioned by the operator L, that is, in the Hilbert space of the metric, where
    the regularity term has the identity as its Hessian at every resolution.

    Parameters
    ----------
    moving, fixed : Tensor, shape (X, Y, Z)
        I0 and I1, on the grid of `metric`, intensities in [0, 1].
    metric : Metric
    similarity : SSD or LNCC
    schedule : Schedule, optional
    mask, moving_mask : Tensor, shape (X, Y, Z), optional
        Weight of each voxel of `fixed` and of `moving`, zero where it is not to be matched: a
        lesion, or tissue that the image lacks.
    start : Tensor, shape (3, X, Y, Z), optional
        Momentum to start from; the identity by default.
    progress : callable, optional

    Returns
    -------
    Match
    """
    schedule = schedule or Schedule()
    halvings = len(schedule.levels(metric.spacing)) - 1
    box = (..., *content_box(torch.maximum(moving, fixed), 2**halvings))

    def cut(image: Tensor | None) -> Tensor | None:
        return None if image is None else image[box]

    pair = Pair(moving[box], fixed[box], cut(moving_mask), cut(mask))
    momentum = torch.zeros(3, *moving.shape, dtype=moving.dtype, device=moving.device)
    inside = momentum[box]
    found, energies = _descend(pair, metric, similarity, schedule, cut(start), progress)
    inside.copy_(found)
    spacings = tuple(max(metric.spacing) * 2**level for level in range(halvings, -1, -1))
    return Match(momentum, energies, spacings)


def _descend(
    pair: Pair,
    metric: Metric,
    similarity: SSD | LNCC,
    schedule: Schedule,
    start: Tensor | None,
    progress: Progress | None,
) -> tuple[Tensor, tuple[tuple[float, ...], ...]]:
    """Minimise level by level; the momentum on the voxels of the pair, and the energies."""
    levels = schedule.levels(metric.spacing)
    coarsest = 2 ** (len(levels) - 1)
    shape = pair.moving.shape
    if start is None:
        start = pair.moving.new_zeros(3, *shape)
    momentum = pad_to_multiple(start, coarsest)
    pair = pair.map(lambda image: pad_to_multiple(image, coarsest))
    grid = metric.with_grid(pair.moving.shape, metric.spacing)
    energies = []
    for level, iterations in enumerate(levels):
        factor = coarsest // 2**level
        level_pair = pair.map(lambda image, factor=factor: block_average(image, factor))  # type: ignore[misc]
        lattice = _lattice_of_level(grid, factor)
        problem = Energy.of(level_pair, lattice.coarsened(factor), similarity)
        begin = lattice.restrict(momentum)
        found, trace = minimise(problem, begin, iterations, schedule, progress)
        # What the lattice is too coarse for stays as it was.
        momentum = momentum + lattice.lift(found - begin)
        energies.append(tuple(trace))
    return momentum[:, : shape[0], : shape[1], : shape[2]], tuple(energies)


def _lattice_of_level(grid: Metric, factor: int) -> Lattice:
    """Where the momenta are that match blocks of `factor` voxels a side."""
    spacing = VOXELS_PER_POINT * factor * min(grid.spacing)
    spacing = max(spacing, coarsest_spacing(grid, NEGLIGIBLE_GAIN))
    return Lattice.around(grid, spacing=spacing)

"""Image matching: the initial momentum whose geodesic carries one image onto another."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import EllipsisType

import torch
from torch import Tensor

from . import fields
from .descent import Progress, Schedule, minimise
from .images import block_average, pad_to_multiple
from .lattice import Lattice
from .metric import Metric
from .shooting import Geodesic, follow, shoot, steps_needed
from .similarity import LNCC, SSD, Mismatch

DEFAULT_SIMILARITY = LNCC(width=2.0, weight=0.2)

NEGLIGIBLE_GAIN = 1 / 350
"""As that of `Lattice`, but on the way to a momentum: a lattice of 3 mm, twice as fast."""

MIN_JACOBIAN = 0.1
"""Least local volume change that a step may lead to, either way.

The metric makes folds costly but not impossible on a grid, so a step towards one is not taken.
"""

MAX_STEPS = 40
"""A momentum that needs more time steps than this is no step towards an alignment of brains."""


@dataclass(frozen=True)
class Match:
    """A matching and the way to it.

    Attributes
    ----------
    momentum : Tensor, shape (3, X, Y, Z)
        Initial momentum m_0.
    geodesic : Geodesic
        What the momentum shoots; neither map folds.
    energies : tuple of tuple of float
        Energy before and after each iteration, per level, coarsest first.
    spacings : tuple of float
        Largest voxel size of each level, in millimetres.
    """

    momentum: Tensor
    geodesic: Geodesic
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
    box = _content(torch.maximum(moving, fixed), 2**halvings)

    def cut(image: Tensor | None) -> Tensor | None:
        return None if image is None else image[box]

    pair = _Pair(moving[box], fixed[box], cut(moving_mask), cut(mask))
    momentum = torch.zeros(3, *moving.shape, dtype=moving.dtype, device=moving.device)
    inside = momentum[box]
    found, energies = _descend(pair, metric, similarity, schedule, cut(start), progress)
    inside.copy_(found)
    momentum, geodesic = _unfolded(momentum, metric)
    spacings = tuple(max(metric.spacing) * 2**level for level in range(halvings, -1, -1))
    return Match(momentum, geodesic, energies, spacings)


@dataclass(frozen=True)
class _Pair:
    """The images and their weights."""

    moving: Tensor
    fixed: Tensor
    moving_weight: Tensor | None = None
    fixed_weight: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> _Pair:
        """Change all images alike."""
        images = (self.moving, self.fixed, self.moving_weight, self.fixed_weight)
        changed = (None if image is None else change(image) for image in images)
        return _Pair(*changed)  # type: ignore[arg-type]


def _descend(
    pair: _Pair,
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
        lattice = Lattice.around(grid, factor, negligible=NEGLIGIBLE_GAIN)
        problem = _Problem.of(level_pair, lattice, similarity)
        begin = lattice.restrict(momentum)
        found, trace = minimise(problem, begin, iterations, schedule, progress)
        momentum = lattice.lift(found)
        energies.append(tuple(trace))
    return momentum[:, : shape[0], : shape[1], : shape[2]], tuple(energies)


def _unfolded(momentum: Tensor, metric: Metric) -> tuple[Tensor, Geodesic]:
    """Shorten a momentum until neither of its maps folds anywhere, should one do so at all."""
    geodesic = shoot(momentum, metric)
    while not (_is_invertible(geodesic.phi) and _is_invertible(geodesic.phi_inverse)):
        momentum = 0.95 * momentum
        geodesic = shoot(momentum, metric)
    return momentum, geodesic


def _is_invertible(displacement: Tensor) -> bool:
    return bool(fields.jacobian_determinant(displacement).min() > 0)


@dataclass(frozen=True)
class _Problem:
    """The energy of one level and its gradient."""

    moving: Tensor
    moving_weight: Tensor | None
    lattice: Lattice
    mismatch: Mismatch

    @classmethod
    def of(cls, pair: _Pair, lattice: Lattice, similarity: SSD | LNCC) -> _Problem:
        """The problem of a pair of images of blocks of the lattice's image."""
        size = [h * lattice.factor for h in lattice.image.spacing]
        mismatch = similarity.against(pair.fixed, size, pair.fixed_weight)
        return cls(pair.moving, pair.moving_weight, lattice, mismatch)

    @property
    def metric(self) -> Metric:
        """Metric on the lattice, where the momenta are."""
        return self.lattice.metric

    @property
    def spacing(self) -> float:
        """Largest voxel size of the level, in millimetres."""
        return max(self.lattice.image.spacing) * self.lattice.factor

    def __call__(self, momentum: Tensor) -> tuple[float, Tensor]:
        """Energy and its L2 gradient on the lattice, (3, X, Y, Z); infinite where it folds."""
        steps = steps_needed(momentum, self.lattice)
        if steps > MAX_STEPS:
            return math.inf, torch.zeros_like(momentum)
        variable = momentum.detach().requires_grad_()
        with torch.enable_grad():
            inverse = self.lattice.displacement(follow(variable, self.lattice, steps).inverse)
            if not is_diffeomorphic(inverse.detach()):
                return math.inf, torch.zeros_like(momentum)
            warped = fields.interpolate(self.moving.unsqueeze(0), inverse)[0]
            weight = None
            if self.moving_weight is not None:
                weight = fields.interpolate(self.moving_weight.unsqueeze(0), inverse)[0]
            energy = self.lattice.metric.energy(variable) / 2 + self.mismatch(warped, weight)
            (gradient,) = torch.autograd.grad(energy, variable)
        return float(energy.detach()), gradient


def is_diffeomorphic(displacement: Tensor) -> bool:
    """Whether no voxel of a map shrinks or grows beyond `MIN_JACOBIAN`, let alone folds."""
    determinant = fields.jacobian_determinant(displacement)
    # False for NaN too.
    return bool(determinant.min() > MIN_JACOBIAN and determinant.max() < 1 / MIN_JACOBIAN)


def _content(image: Tensor, room: int) -> tuple[slice | EllipsisType, ...]:
    """Where an image is not empty, with some voxels of room: the last three axes."""
    box: list[slice | EllipsisType] = [...]
    occupied = image > 0
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        (found,) = torch.nonzero(occupied.any(dim=others), as_tuple=True)
        if not len(found):
            return (..., slice(None), slice(None), slice(None))
        first, last = int(found[0]), int(found[-1])
        box.append(slice(max(0, first - room), last + 1 + room))
    return tuple(box)

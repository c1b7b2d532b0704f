"""Descent in the Hilbert space of the metric: L-BFGS with the operator L as preconditioner."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from deepreg_wf.lddmm.metric import Metric

ITERATIONS = (25, 15, 4)
"""Most iterations per level, from 4 mm on, at half the spacing each; the last for all finer."""

COARSEST = 4.0
"""Spacing in mm that the coarsest level does not fall below, unless the images do."""

MAX_CHANGE = 1.0
"""Voxels per unit time by which an iteration may change the velocity of a point.

The first direction has no scale of its own, and the quadratic model that L-BFGS steps by is no
guide over distances at which the images change.
"""

Progress = Callable[[float, int, float], None]
"""Called after each iteration with the spacing of the level (mm), the iteration, the energy."""


@dataclass(frozen=True)
class Schedule:
    """How far to push the matching.

    Attributes
    ----------
    iterations : tuple of int, or int
        Most iterations per level, coarsest first; the last level is the grid of the images and
        each before it halves the resolution. A number: the same at as many levels as lead from
        `COARSEST` to the grid. None: `ITERATIONS` at these.
    tolerance : float
        A level ends when `patience` iterations gain less than this share of what it has gained.
    patience : int
    history : int
        Pairs that L-BFGS keeps.
    """

    iterations: tuple[int, ...] | int | None = None
    tolerance: float = 0.02
    patience: int = 3
    history: int = 5

    def levels(self, spacing: Sequence[float]) -> tuple[int, ...]:
        """Most iterations per level for images of a spacing in mm, coarsest first."""
        if isinstance(self.iterations, tuple):
            return self.iterations
        count = 1 + max(1, round(math.log2(COARSEST / min(spacing))))
        if self.iterations is not None:
            return (self.iterations,) * count
        return (*ITERATIONS, *[ITERATIONS[-1]] * count)[:count]


class Problem(Protocol):
    """An energy of momenta and its gradient."""

    @property
    def metric(self) -> Metric:
        """Metric on the grid of the momenta."""

    @property
    def spacing(self) -> float:
        """Largest voxel size of the images, in millimetres."""

    def __call__(self, momentum: Tensor) -> tuple[float, Tensor]:
        """Energy of a momentum, infinite where it is not feasible, and its L2 gradient."""


def minimise(
    problem: Problem,
    momentum: Tensor,
    iterations: int,
    schedule: Schedule,
    progress: Progress | None,
) -> tuple[Tensor, list[float]]:
    """Lower the energy of a momentum, at most `iterations` times.

    Returns
    -------
    momentum : Tensor, shape (3, X, Y, Z)
    trace : list of float
        Energy before and after each iteration.
    """
    metric = problem.metric
    memory = _Memory(metric, schedule.history)
    momentum, energy, gradient = _feasible(problem, momentum)
    trace = [energy]
    for iteration in range(iterations):
        direction = _bounded(memory.direction(gradient), metric)
        found = _line_search(problem, momentum, energy, gradient, direction)
        if found is None:
            break
        step, energy, new_gradient = found
        memory.add(step, new_gradient - gradient)
        momentum, gradient = momentum + step, new_gradient
        trace.append(energy)
        if progress is not None:
            progress(problem.spacing, iteration + 1, energy)
        if _converged(trace, schedule):
            break
    return momentum, trace


@dataclass
class _Memory:
    """The curvature that L-BFGS has seen, and the direction that follows from it.

    Nocedal and Wright, Numerical Optimization, algorithm 7.4, with L as the initial inverse
    Hessian: pairs are (step of the momentum, change of the L2 gradient).
    """

    metric: Metric
    size: int
    pairs: list[tuple[Tensor, Tensor, float]] = field(default_factory=list)

    def add(self, step: Tensor, change: Tensor) -> None:
        curvature = _dot(step, change)
        if curvature > 0:
            self.pairs = [*self.pairs, (step, change, 1 / curvature)][-self.size :]

    def direction(self, gradient: Tensor) -> Tensor:
        q = gradient.clone()
        weights = []
        for step, change, rho in reversed(self.pairs):
            weights.append(rho * _dot(step, q))
            q -= weights[-1] * change
        q = self.metric.momentum(q)
        if self.pairs:
            step, change, rho = self.pairs[-1]
            q /= rho * _dot(change, self.metric.momentum(change))
        for (step, change, rho), weight in zip(self.pairs, reversed(weights), strict=True):
            q += (weight - rho * _dot(change, q)) * step
        return -q


def _feasible(problem: Problem, momentum: Tensor) -> tuple[Tensor, float, Tensor]:
    """Shorten a start, come from a coarser grid or from elsewhere, until it does not fold here."""
    energy, gradient = problem(momentum)
    while math.isinf(energy):
        momentum = 0.9 * momentum
        energy, gradient = problem(momentum)
    return momentum, energy, gradient


def _bounded(direction: Tensor, metric: Metric) -> Tensor:
    """Shorten a direction that would change the speed of a point by more than `MAX_CHANGE`."""
    speed = metric.velocity(direction).abs().amax() / min(metric.spacing)
    return direction * (MAX_CHANGE / speed).clamp_max(1.0)


def _line_search(
    problem: Problem, momentum: Tensor, energy: float, gradient: Tensor, direction: Tensor
) -> tuple[Tensor, float, Tensor] | None:
    """Halve the step until it keeps a share of the promised decrease (Armijo); None if never."""
    slope = _dot(gradient, direction)
    if slope >= 0:
        return None
    for halvings in range(6):
        step = direction * 0.5**halvings
        trial, trial_gradient = problem(momentum + step)
        if trial <= energy + 1e-4 * slope * 0.5**halvings:
            return step, trial, trial_gradient
    return None


def _converged(trace: Sequence[float], schedule: Schedule) -> bool:
    if len(trace) <= schedule.patience:
        return False
    return trace[-1 - schedule.patience] - trace[-1] <= schedule.tolerance * (trace[0] - trace[-1])


def _dot(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum(dtype=torch.float64))

"""L-BFGS in the Hilbert space of the metric: the operator L is the preconditioner."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from deepreg_wf.lddmm.metric import Metric

DEFAULT_ITERATIONS = (25, 15, 4)
"""Most iterations per level, from 4 mm on, at half the spacing each; the last for all finer."""

COARSEST_LEVEL_MM = 4.0
"""Voxel size of the coarsest level in mm, unless the voxels of the images are larger."""

MAX_VELOCITY_CHANGE = 1.0
"""Largest change of a velocity component by an iteration, in lattice spacings per unit time.

The quadratic model of L-BFGS does not hold over distances at which the images change.
"""

FIRST_VELOCITY_CHANGE = 0.3
"""As `MAX_VELOCITY_CHANGE`, for a first iteration, whose direction has no scale of its own."""

MAX_HALVINGS = 5
"""Times that a line search halves its step before it gives up."""

SUFFICIENT_DECREASE = 1e-4
"""Fraction of the predicted decrease that a step must reach (Nocedal and Wright, section 3.1)."""

SHRINK_START = 0.9
"""Factor by which a start whose map folds is shortened, as often as needed."""

Progress = Callable[[float, int, float], None]
"""Called after each iteration with the spacing of the level (mm), the iteration, the energy."""


@dataclass(frozen=True)
class MatchingSchedule:
    """Resolution levels of a matching, and when each ends.

    Attributes
    ----------
    iterations : tuple of int, or int, or None
        Most iterations per level, coarsest first; the last level is the grid of the images and
        each before it halves the resolution. A number stands for that number at each level from
        `COARSEST_LEVEL_MM` to the grid, None for `DEFAULT_ITERATIONS` at these levels.
    tolerance : float
        A level ends when `patience` iterations have lowered the energy by less than this fraction
        of what the level has lowered it by.
    patience : int
        Iterations over which `tolerance` is tested.
    history : int
        Iterations that L-BFGS remembers.
    """

    iterations: tuple[int, ...] | int | None = None
    tolerance: float = 0.02
    patience: int = 3
    history: int = 5

    def levels(self, spacing: Sequence[float]) -> tuple[int, ...]:
        """Return the most iterations per level.

        Parameters
        ----------
        spacing : sequence of 3 float
            Voxel size of the images in mm.

        Returns
        -------
        tuple of int
            One number for each level, coarsest first.
        """
        if isinstance(self.iterations, tuple):
            return self.iterations
        count = 1 + max(1, round(math.log2(COARSEST_LEVEL_MM / min(spacing))))
        if self.iterations is not None:
            return (self.iterations,) * count
        return (*DEFAULT_ITERATIONS, *[DEFAULT_ITERATIONS[-1]] * count)[:count]


class Objective(Protocol):
    """An energy of momenta and its gradient."""

    @property
    def metric(self) -> Metric:
        """Metric on the grid of the momenta."""

    @property
    def spacing(self) -> float:
        """Largest voxel size of the images, in millimetres."""

    def __call__(self, momentum: Tensor) -> tuple[float, Tensor] | None:
        """Return the energy of a momentum and its L2 gradient, or None if it is not feasible."""


def minimise(
    objective: Objective,
    momentum: Tensor,
    iterations: int,
    schedule: MatchingSchedule,
    progress: Progress | None,
) -> tuple[Tensor, list[float]]:
    """Lower the energy of a momentum.

    Parameters
    ----------
    objective : Objective
        The energy.
    momentum : Tensor, shape (3, X, Y, Z)
        Momentum to start from; it is shortened until it is feasible.
    iterations : int
        Most iterations.
    schedule : MatchingSchedule
        Stopping rule and memory.
    progress : callable or None
        Called after each iteration.

    Returns
    -------
    momentum : Tensor, shape (3, X, Y, Z)
        The momentum found.
    trace : list of float
        Energy before the first and after each iteration.
    """
    metric = objective.metric
    history = _History(metric, schedule.history)
    momentum, energy, gradient = _shrink_to_feasible(objective, momentum)
    trace = [energy]
    for iteration in range(iterations):
        limit = MAX_VELOCITY_CHANGE if history.steps else FIRST_VELOCITY_CHANGE
        direction = _limit_velocity(history.direction(gradient), metric, limit)
        found = _line_search(objective, momentum, energy, gradient, direction)
        if found is None:
            break
        step, energy, new_gradient = found
        history.add(step, new_gradient - gradient)
        momentum, gradient = momentum + step, new_gradient
        trace.append(energy)
        if progress is not None:
            progress(objective.spacing, iteration + 1, energy)
        if _has_converged(trace, schedule):
            break
    return momentum, trace


@dataclass
class _History:
    """The last steps, and the search direction of L-BFGS that follows from them.

    This is the two-loop recursion (Nocedal and Wright, Numerical Optimization, 2nd ed., algorithm
    7.4), with s a step of the momentum, y the change of the L2 gradient and ``rho = 1 / <s, y>``.
    The initial inverse Hessian is ``c L`` in place of ``c I``, since ``1/2 <m, K m>`` has the
    Hessian ``K = L^-1``. As in their equation 7.20, ``c = <s, y> / <y, L y>`` of the last step.

    Attributes
    ----------
    metric : Metric
        Metric on the grid of the momenta.
    size : int
        Most steps that are remembered.
    steps : list of (Tensor, Tensor, float)
        s, y and rho of each step, oldest first.
    """

    metric: Metric
    size: int
    steps: list[tuple[Tensor, Tensor, float]] = field(default_factory=list)

    def add(self, s: Tensor, y: Tensor) -> None:
        """Remember a step, unless the energy curves downwards along it."""
        curvature = _dot(s, y)
        if curvature > 0:
            self.steps = [*self.steps, (s, y, 1 / curvature)][-self.size :]

    def direction(self, gradient: Tensor) -> Tensor:
        """Return the search direction at an L2 gradient, both of shape (3, X, Y, Z)."""
        q = gradient.clone()
        alphas = []
        for s, y, rho in reversed(self.steps):
            alphas.append(rho * _dot(s, q))
            q -= alphas[-1] * y
        r = self.metric.momentum(q)  # L q
        if self.steps:
            _, y, rho = self.steps[-1]
            r /= rho * _dot(y, self.metric.momentum(y))
        for (s, y, rho), alpha in zip(self.steps, reversed(alphas), strict=True):
            r += (alpha - rho * _dot(y, r)) * s
        return -r


def _shrink_to_feasible(objective: Objective, momentum: Tensor) -> tuple[Tensor, float, Tensor]:
    """Shorten a momentum from a coarser level or from elsewhere until its map does not fold."""
    evaluated = objective(momentum)
    while evaluated is None:
        momentum = SHRINK_START * momentum
        evaluated = objective(momentum)
    return momentum, *evaluated


def _limit_velocity(direction: Tensor, metric: Metric, limit: float) -> Tensor:
    """Shorten a direction that would change a velocity by more than a limit."""
    change = metric.velocity(direction).abs().amax() / min(metric.spacing)
    return direction * (limit / change).clamp_max(1.0)


def _line_search(
    objective: Objective, momentum: Tensor, energy: float, gradient: Tensor, direction: Tensor
) -> tuple[Tensor, float, Tensor] | None:
    """Halve a step until it meets the Armijo condition ``E(m + t d) <= E(m) + c t <grad E, d>``.

    Returns
    -------
    tuple of Tensor, float and Tensor, or None
        The step, and energy and gradient at its end; None if no step meets the condition.
    """
    slope = _dot(gradient, direction)
    if slope >= 0:
        return None
    for halvings in range(MAX_HALVINGS + 1):
        step = direction * 0.5**halvings
        evaluated = objective(momentum + step)
        if evaluated is None:
            continue
        new_energy, new_gradient = evaluated
        if new_energy <= energy + SUFFICIENT_DECREASE * slope * 0.5**halvings:
            return step, new_energy, new_gradient
    return None


def _has_converged(trace: Sequence[float], schedule: MatchingSchedule) -> bool:
    """Tell whether the last iterations have lowered the energy too little to go on."""
    if len(trace) <= schedule.patience:
        return False
    return trace[-1 - schedule.patience] - trace[-1] <= schedule.tolerance * (trace[0] - trace[-1])


def _dot(a: Tensor, b: Tensor) -> float:
    """Return the L2 inner product without the voxel volume, summed in double precision."""
    return float((a * b).sum(dtype=torch.float64))

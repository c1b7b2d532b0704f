"""Geodesic shooting: from an initial momentum to a diffeomorphism and its inverse."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from . import fields
from .metric import Metric

MIN_STEPS = 3
"""Fewest time steps; on smooth momenta more of them change the maps by less than 0.01 voxel."""

MAX_COURANT = 1.5
"""Most voxels that a point may travel in a step; RK4 with central differences is stable to 2.8."""


@dataclass(frozen=True)
class Geodesic:
    """End point of a geodesic.

    Attributes
    ----------
    phi : Tensor, shape (3, X, Y, Z)
        Displacement of the forward map, in voxels.
    phi_inverse : Tensor, shape (3, X, Y, Z)
        Displacement of the inverse map, in voxels; an image I0 deforms as ``I0 o phi^-1``.
    energy : Tensor, shape (steps + 1,), float64
        ``<m_t, K m_t>`` along the path; constant but for discretisation.
    """

    phi: Tensor
    phi_inverse: Tensor
    energy: Tensor

    @property
    def energy_drift(self) -> float:
        """Largest relative departure of the energy from its start."""
        if not self.energy[0] > 0:
            return 0.0
        return float((self.energy / self.energy[0] - 1).abs().max())


def shoot(momentum: Tensor, metric: Metric, *, steps: int | None = None) -> Geodesic:
    """Follow the geodesic of an initial momentum for unit time.

    Both maps are integrated together from the identity by RK4: the inverse by transport,
    ``d psi/dt = -(D psi) v``, which needs the Jacobian that the momentum needs anyway,
    ``m_t = |D psi| (D psi)^T (m_0 o psi)``, and the forward map by ``d phi/dt = v o phi``
    (Miller, Trouve and Younes, JMIV 2006; Singh et al., ISBI 2013, eq. 6).

    Parameters
    ----------
    momentum : Tensor, shape (3, X, Y, Z)
        m_0, components along the axes of the metric's grid.
    metric : Metric
    steps : int, optional
        Number of time steps; by default as many as the largest velocity asks for.

    Returns
    -------
    Geodesic
    """
    spacing = _spacing(metric)
    covector = momentum * spacing
    energies: list[Tensor] = []

    def rate(state: Tensor) -> Tensor:
        transport, velocity = _transport(state[:3], covector, metric)
        return torch.cat([transport, fields.interpolate(velocity, state[3:])])

    def energy(inverse: Tensor) -> Tensor:
        matrix = fields.jacobian(inverse)
        transported = _coadjoint(matrix, covector, inverse) / spacing
        return metric.energy(transported)

    with torch.no_grad():
        count = steps or steps_needed(momentum, metric)
        state = torch.cat([torch.zeros_like(momentum)] * 2)
        for _ in range(count):
            energies.append(energy(state[:3]))
            state = _runge_kutta_4(rate, state, 1 / count)
        energies.append(energy(state[:3]))
    return Geodesic(phi=state[3:], phi_inverse=state[:3], energy=torch.stack(energies))


def shoot_inverse(momentum: Tensor, metric: Metric, *, steps: int | None = None) -> Tensor:
    """Inverse map alone, differentiable with respect to the momentum.

    Only the map at each time step is kept for the backward pass; what lies between is computed
    again, so that memory does not grow with the stages of the integrator.

    Parameters
    ----------
    momentum : Tensor, shape (3, X, Y, Z)
    metric : Metric
    steps : int, optional
        Number of time steps; by default as many as the largest velocity asks for.

    Returns
    -------
    Tensor, shape (3, X, Y, Z)
        Displacement of phi^-1, in voxels.
    """
    count = steps or steps_needed(momentum.detach(), metric)
    covector = momentum * _spacing(metric)

    def step(inverse: Tensor, covector: Tensor) -> Tensor:
        def rate(state: Tensor) -> Tensor:
            return _transport(state, covector, metric)[0]

        return _runge_kutta_4(rate, inverse, 1 / count)

    inverse = torch.zeros_like(momentum)
    for _ in range(count):
        if torch.is_grad_enabled():
            inverse = checkpoint(step, inverse, covector, use_reentrant=False)
        else:
            inverse = step(inverse, covector)
    return inverse


def steps_needed(momentum: Tensor, metric: Metric) -> int:
    """Time steps for which no point travels more than `MAX_COURANT` voxels in one."""
    velocity = metric.velocity(momentum) / _spacing(metric)
    fastest = float(velocity.abs().sum(dim=0).max())
    if not math.isfinite(fastest):
        raise ValueError('the momentum has values that are not finite')
    return max(MIN_STEPS, math.ceil(fastest / MAX_COURANT))


def _spacing(metric: Metric) -> Tensor:
    """Voxel size as (3, 1, 1, 1); a covector per mm times it is a covector per voxel."""
    return torch.tensor(metric.spacing, dtype=metric.dtype, device=metric.device).view(3, 1, 1, 1)


def _coadjoint(matrix: Tensor, covector: Tensor, inverse: Tensor) -> Tensor:
    """``|D psi| (D psi)^T (m_0 o psi)`` for the Jacobian `matrix` of psi."""
    return fields.pull_covector(matrix, fields.interpolate(covector, inverse))


def _transport(inverse: Tensor, covector: Tensor, metric: Metric) -> tuple[Tensor, Tensor]:
    """Rate ``-(D psi) v`` of the inverse map, and the velocity v, both in voxels."""
    spacing = _spacing(metric)
    matrix = fields.jacobian(inverse)
    velocity = metric.velocity(_coadjoint(matrix, covector, inverse) / spacing) / spacing
    return -fields.apply(matrix, velocity), velocity


def _runge_kutta_4(rate: Callable[[Tensor], Tensor], state: Tensor, dt: float) -> Tensor:
    k1 = rate(state)
    k2 = rate(state + dt / 2 * k1)
    k3 = rate(state + dt / 2 * k2)
    k4 = rate(state + dt * k3)
    return state + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)

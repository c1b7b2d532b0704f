"""Geodesic shooting: from an initial momentum to a diffeomorphism and its inverse.

The momentum obeys ``dm/dt = -ad*_v m`` with ``v = K m``, the Euler-Poincare equation (Miller,
Trouve and Younes, JMIV 2006), and the inverse map is carried along, ``d psi/dt = -(D psi) v``.
Both are solved on a `Lattice` in the space of its band-limited fields (the idea is that of Zhang
and Fletcher, IPMI 2015). There ``ad*`` is the exact transpose of ``ad``, so that the energy
``<m, K m>`` cannot change but by the time steps, however rough the momentum. No field is
interpolated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .lattice import Lattice
from .metric import Metric
from .spectral import along

MIN_STEPS = 4
"""Fewest time steps; on smooth momenta more of them change the maps by less than 0.01 voxel."""

MAX_COURANT = 0.8
"""Most lattice points that a point may travel in a step; RK4 is stable to 2.8 / pi."""


@dataclass(frozen=True)
class Geodesic:
    """End point of a geodesic.

    Attributes
    ----------
    phi : Tensor, shape (..., 3, X, Y, Z)
        Displacement of the forward map, in voxels.
    phi_inverse : Tensor, shape (..., 3, X, Y, Z)
        Displacement of the inverse map, in voxels; an image I0 deforms as ``I0 o phi^-1``.
    energy : Tensor, shape (steps + 1, ...), float64
        ``<m_t, K m_t>`` along the path; constant but for discretisation.
    """

    phi: Tensor
    phi_inverse: Tensor
    energy: Tensor

    @property
    def energy_drift(self) -> float:
        """Largest relative departure of the energy from its start."""
        start = self.energy[0]
        change = torch.where(start > 0, (self.energy - start) / start, 0.0)
        return float(change.abs().max())


def shoot(momentum: Tensor, metric: Metric, *, steps: int | None = None) -> Geodesic:
    """Follow the geodesic of an initial momentum for unit time, there and back.

    The way back, from minus the momentum at the end, retraces the path; the inverse map of it is
    the forward map.

    Parameters
    ----------
    momentum : Tensor, shape (..., 3, X, Y, Z)
        m_0 per mm^3, components along the axes of the metric's grid; one, or a batch.
    metric : Metric
    steps : int, optional
        Number of time steps; by default as many as the largest velocity asks for.

    Returns
    -------
    Geodesic

    Raises
    ------
    ValueError
        If the momentum has values that are not finite.
    """
    lattice = Lattice.around(metric)
    with torch.no_grad():
        start = lattice.restrict(momentum)
        steps = steps or steps_needed(start, lattice)
        there = follow(start, lattice, steps)
        back = follow(-there.momentum, lattice, steps)
        return Geodesic(
            phi=lattice.displacement(back.inverse),
            phi_inverse=lattice.displacement(there.inverse),
            energy=there.energy,
        )


def shoot_inverse(momentum: Tensor, metric: Metric, *, steps: int | None = None) -> Tensor:
    """Inverse map alone, differentiable with respect to the momentum.

    Parameters
    ----------
    momentum : Tensor, shape (..., 3, X, Y, Z)
    metric : Metric
    steps : int, optional
        Number of time steps; by default as many as the largest velocity asks for.

    Returns
    -------
    Tensor, shape (..., 3, X, Y, Z)
        Displacement of phi^-1, in voxels.
    """
    lattice = Lattice.around(metric)
    start = lattice.restrict(momentum)
    path = follow(start, lattice, steps or steps_needed(start.detach(), lattice))
    return lattice.displacement(path.inverse)


@dataclass(frozen=True)
class Path:
    """End of a geodesic on its lattice.

    Attributes
    ----------
    momentum : Tensor, shape (..., 3, X, Y, Z)
        m_1.
    inverse : Tensor, shape (..., 3, X, Y, Z)
        Displacement of phi^-1, in millimetres.
    energy : Tensor, shape (steps + 1, ...), float64
        ``<m_t, K m_t>``, without a gradient.
    """

    momentum: Tensor
    inverse: Tensor
    energy: Tensor


def follow(momentum: Tensor, lattice: Lattice, steps: int) -> Path:
    """Integrate momentum and inverse map by RK4; differentiable.

    Parameters
    ----------
    momentum : Tensor, shape (..., 3, X, Y, Z)
        m_0 on the lattice.
    lattice : Lattice
    steps : int

    Returns
    -------
    Path
    """
    metric, dt = lattice.metric, 1 / steps
    inverse = torch.zeros_like(momentum)
    energies = []

    def rates(momentum: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        velocity = metric.velocity(momentum)
        return (
            _momentum_rate(velocity, momentum, lattice),
            _inverse_rate(velocity, inverse, lattice),
            velocity,
        )

    for _ in range(steps):
        m1, u1, velocity = rates(momentum, inverse)
        energies.append(metric.energy(momentum.detach(), velocity.detach()))
        m2, u2, _ = rates(momentum + dt / 2 * m1, inverse + dt / 2 * u1)
        m3, u3, _ = rates(momentum + dt / 2 * m2, inverse + dt / 2 * u2)
        m4, u4, _ = rates(momentum + dt * m3, inverse + dt * u3)
        momentum = momentum + dt / 6 * (m1 + 2 * m2 + 2 * m3 + m4)
        inverse = inverse + dt / 6 * (u1 + 2 * u2 + 2 * u3 + u4)
    energies.append(metric.energy(momentum.detach()))
    return Path(momentum, inverse, torch.stack(energies))


def steps_needed(momentum: Tensor, lattice: Lattice) -> int:
    """Time steps for which no point travels more than `MAX_COURANT` lattice points in one.

    Raises
    ------
    ValueError
        If the momentum has values that are not finite.
    """
    spacing = momentum.new_tensor(lattice.metric.spacing).view(3, 1, 1, 1)
    fastest = float((lattice.metric.velocity(momentum) / spacing).abs().sum(dim=-4).max())
    if not math.isfinite(fastest):
        raise ValueError('the momentum has values that are not finite')
    return max(MIN_STEPS, math.ceil(fastest / MAX_COURANT))


def adjoint(v: Tensor, w: Tensor, lattice: Lattice) -> Tensor:
    """``ad_v w = (D v) w - (D w) v`` of velocities, (..., 3, X, Y, Z) each."""
    result = torch.zeros_like(v)
    for axis, matrix in enumerate(lattice.derivatives):
        result.addcmul_(along(v, matrix, axis), _component(w, axis))
        result.addcmul_(along(w, matrix, axis), _component(v, axis), value=-1)
    return result


def coadjoint(v: Tensor, m: Tensor, lattice: Lattice) -> Tensor:
    """``ad*_v m = (D v)^T m + div(m v)``, with ``<ad*_v m, w> = <m, ad_v w>`` for every w.

    Exactly so on the lattice, since its derivatives are skew-symmetric.
    """
    result = torch.zeros_like(m)
    for axis, matrix in enumerate(lattice.derivatives):
        result += along(m * _component(v, axis), matrix, axis)
        _component(result, axis).add_((along(v, matrix, axis) * m).sum(dim=-4, keepdim=True))
    return result


def _component(field: Tensor, axis: int) -> Tensor:
    return field.narrow(-4, axis, 1)


class _MomentumRate(torch.autograd.Function):
    """``-ad*_v m``; what pairs with its variations is again ad and ad*."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, v: Tensor, m: Tensor, lattice: Lattice
    ) -> Tensor:
        ctx.save_for_backward(v, m)
        ctx.lattice = lattice  # type: ignore[attr-defined]
        return coadjoint(v, m, lattice).neg_()

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, grad: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        v, m = ctx.saved_tensors  # type: ignore[attr-defined]
        lattice = ctx.lattice  # type: ignore[attr-defined]
        return coadjoint(grad, m, lattice), adjoint(grad, v, lattice), None


class _InverseRate(torch.autograd.Function):
    """``-v - (D u) v``, the rate of the displacement u of the inverse map."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, v: Tensor, u: Tensor, lattice: Lattice
    ) -> Tensor:
        ctx.save_for_backward(v, u)
        ctx.lattice = lattice  # type: ignore[attr-defined]
        rate = -v
        for axis, matrix in enumerate(lattice.derivatives):
            rate.addcmul_(along(u, matrix, axis), _component(v, axis), value=-1)
        return rate

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, grad: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        v, u = ctx.saved_tensors  # type: ignore[attr-defined]
        of_v, of_u = -grad, torch.zeros_like(u)
        for axis, matrix in enumerate(ctx.lattice.derivatives):  # type: ignore[attr-defined]
            stretched = (along(u, matrix, axis) * grad).sum(dim=-4, keepdim=True)
            _component(of_v, axis).sub_(stretched)
            of_u += along(grad * _component(v, axis), matrix, axis)
        return of_v, of_u, None


def _momentum_rate(v: Tensor, m: Tensor, lattice: Lattice) -> Tensor:
    rate: Tensor = _MomentumRate.apply(v, m, lattice)  # type: ignore[no-untyped-call]
    return rate


def _inverse_rate(v: Tensor, u: Tensor, lattice: Lattice) -> Tensor:
    rate: Tensor = _InverseRate.apply(v, u, lattice)  # type: ignore[no-untyped-call]
    return rate

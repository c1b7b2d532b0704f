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

from deepreg_wf.lddmm import fields
from deepreg_wf.lddmm.lattice import Lattice
from deepreg_wf.lddmm.metric import Metric
from deepreg_wf.lddmm.spectral import along

MIN_STEPS = 4
"""Fewest time steps; on smooth momenta more of them change the maps by less than 0.01 voxel."""

SHORTER = 0.95
"""What is left of a momentum that folds, at each attempt."""

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


def shoot_invertible(momentum: Tensor, metric: Metric) -> tuple[Tensor, Geodesic]:
    """Shoot a momentum, shortened until neither map folds anywhere, should one do so at all.

    Geodesics do not fold, but their samples can: between two points the true map may bend by more
    than a straight line between their displacements tells.

    Parameters
    ----------
    momentum : Tensor, shape (3, X, Y, Z)
    metric : Metric

    Returns
    -------
    momentum : Tensor, shape (3, X, Y, Z)
        The very tensor that was given, where nothing folds.
    geodesic : Geodesic

    Raises
    ------
    ValueError
        If the momentum has values that are not finite, or shooting it diverges.
    """
    geodesic = shoot(momentum, metric)
    while _folds(geodesic.phi) or _folds(geodesic.phi_inverse):
        momentum = SHORTER * momentum
        geodesic = shoot(momentum, metric)
    return momentum, geodesic


def _folds(displacement: Tensor) -> bool:
    smallest = float(fields.jacobian_determinant(displacement).min())
    if not math.isfinite(smallest):
        raise ValueError('shooting the momentum diverges')
    return smallest <= 0


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
        of_momentum, of_inverse = _Rates.apply(velocity, momentum, inverse, lattice)  # type: ignore[no-untyped-call]
        return of_momentum, of_inverse, velocity

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
    if not fastest:
        return 1
    return max(MIN_STEPS, math.ceil(fastest / MAX_COURANT))


def adjoint(v: Tensor, w: Tensor, lattice: Lattice) -> Tensor:
    """``ad_v w = (D v) w - (D w) v`` of velocities, (..., 3, X, Y, Z) each."""
    return _derivative_along(v, w, lattice) - _derivative_along(w, v, lattice)


def coadjoint(v: Tensor, m: Tensor, lattice: Lattice) -> Tensor:
    """``ad*_v m = (D v)^T m + div(m v)``, with ``<ad*_v m, w> = <m, ad_v w>`` for every w.

    Exactly so on the lattice, since its derivatives are skew-symmetric.
    """
    return _transpose_derivative(v, m, lattice) + _divergence(m, v, lattice)


def _derivative_along(field: Tensor, v: Tensor, lattice: Lattice) -> Tensor:
    """``(D f) v``."""
    result = torch.zeros_like(field)
    for axis, matrix in enumerate(lattice.derivatives):
        result.addcmul_(along(field, matrix, axis), v.narrow(-4, axis, 1))
    return result


def _transpose_derivative(field: Tensor, m: Tensor, lattice: Lattice) -> Tensor:
    """``(D f)^T m``."""
    parts = [
        (along(field, matrix, axis) * m).sum(dim=-4)
        for axis, matrix in enumerate(lattice.derivatives)
    ]
    return torch.stack(parts, dim=-4)


def _divergence(m: Tensor, v: Tensor, lattice: Lattice) -> Tensor:
    """``div(m v)``, component by component of m: minus the transpose of ``f -> (D f) v``."""
    result = torch.zeros_like(m)
    for axis, matrix in enumerate(lattice.derivatives):
        result += along(m * v.narrow(-4, axis, 1), matrix, axis)
    return result


class _Rates(torch.autograd.Function):
    """``-ad*_v m`` and ``-v - (D u) v``, the rates of the momentum and of the inverse map.

    What pairs with their variations is again ad, ad* and the transposes of their parts.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, v: Tensor, m: Tensor, u: Tensor, lattice: Lattice
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(v, m, u)
        ctx.lattice = lattice  # type: ignore[attr-defined]
        return coadjoint(v, m, lattice).neg_(), -v - _derivative_along(u, v, lattice)

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, of_m: Tensor, of_u: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, None]:
        v, m, u = ctx.saved_tensors  # type: ignore[attr-defined]
        lattice = ctx.lattice  # type: ignore[attr-defined]
        of_v = coadjoint(of_m, m, lattice) - of_u - _transpose_derivative(u, of_u, lattice)
        return of_v, adjoint(of_m, v, lattice), _divergence(of_u, v, lattice), None

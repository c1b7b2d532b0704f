"""Geodesic shooting: from an initial momentum to a diffeomorphism and its inverse.

The momentum obeys ``dm/dt = -ad*_v m`` with ``v = K m``, the Euler-Poincare equation (Miller,
Trouve and Younes, JMIV 2006), and the inverse map psi is transported, ``d psi/dt = -(D psi) v``.
Both are solved on a `Lattice` in the space of its band-limited fields (Zhang and Fletcher,
IPMI 2015; Zhang et al., IPMI 2017). There ``ad*`` is the exact transpose of ``ad``, so that only
the time discretisation changes the energy ``<m, K m>``, however rough the momentum. No field is
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
from deepreg_wf.lddmm.spectral import multiply_axis

MIN_TIME_STEPS = 4
"""Fewest time steps; more change the maps of smooth momenta by less than 0.01 voxel."""

SHRINK = 0.95
"""Factor by which a momentum whose map folds is shortened, as often as needed."""

MAX_COURANT = 0.8
"""Most lattice spacings that a point may move in a time step; RK4 is stable up to 2.8 / pi."""


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
        ``<m_t, K m_t>`` along the geodesic; constant but for discretisation.
    """

    phi: Tensor
    phi_inverse: Tensor
    energy: Tensor

    @property
    def energy_drift(self) -> float:
        """Largest relative difference of the energy from its value at the start."""
        start = self.energy[0]
        change = torch.where(start > 0, (self.energy - start) / start, 0.0)
        return float(change.abs().max())


def shoot(
    momentum: Tensor,
    metric: Metric,
    *,
    steps: int | None = None,
    min_steps: int = MIN_TIME_STEPS,
) -> Geodesic:
    """Compute both maps of the geodesic of an initial momentum, for unit time.

    Shooting minus the final momentum retraces the geodesic backwards; the inverse map of that
    geodesic is the forward map.

    Parameters
    ----------
    momentum : Tensor, shape (..., 3, X, Y, Z)
        m_0 per mm^3, components along the axes of the metric's grid; one, or a batch.
    metric : Metric
        Metric on the voxels of the momentum.
    steps : int, optional
        Number of time steps; by default `steps_needed`.
    min_steps : int
        Fewest time steps, if their number is not given.

    Returns
    -------
    Geodesic
        End of the geodesic.

    Raises
    ------
    ValueError
        If the momentum has values that are not finite.
    """
    lattice = Lattice.around(metric)
    with torch.no_grad():
        start = lattice.restrict(momentum)
        steps = steps or steps_needed(start, lattice, min_steps)
        end = integrate(start, lattice, steps)
        reverse = integrate(-end.momentum, lattice, steps)
        return Geodesic(
            phi=lattice.displacement(reverse.inverse),
            phi_inverse=lattice.displacement(end.inverse),
            energy=end.energy,
        )


def shoot_invertible(momentum: Tensor, metric: Metric) -> tuple[Tensor, Geodesic]:
    """Shoot a momentum, after shortening it until neither map folds.

    The maps of a geodesic do not fold, but their samples can: between two voxels the true map may
    bend more than a linear interpolation of their displacements.

    Parameters
    ----------
    momentum : Tensor, shape (3, X, Y, Z)
        m_0 per mm^3.
    metric : Metric
        Metric on the voxels of the momentum.

    Returns
    -------
    momentum : Tensor, shape (3, X, Y, Z)
        The shortened momentum; the tensor that was given, if nothing folds.
    geodesic : Geodesic
        End of its geodesic.

    Raises
    ------
    ValueError
        If the momentum has values that are not finite, or shooting it diverges.
    """
    geodesic = shoot(momentum, metric)
    while folds(geodesic.phi) or folds(geodesic.phi_inverse):
        momentum = SHRINK * momentum
        geodesic = shoot(momentum, metric)
    return momentum, geodesic


def folds(displacement: Tensor) -> bool:
    """Tell whether a Jacobian determinant of a map is not positive.

    Parameters
    ----------
    displacement : Tensor, shape (3, X, Y, Z)
        In voxels.

    Returns
    -------
    bool
        True if a sample of the map folds.

    Raises
    ------
    ValueError
        If a value is not finite.
    """
    smallest = float(fields.jacobian_determinant(displacement).min())
    if not math.isfinite(smallest):
        raise ValueError('shooting the momentum diverges')
    return smallest <= 0


def shoot_inverse(momentum: Tensor, metric: Metric, *, steps: int | None = None) -> Tensor:
    """Compute the inverse map alone, differentiable with respect to the momentum.

    Parameters
    ----------
    momentum : Tensor, shape (..., 3, X, Y, Z)
        m_0 per mm^3.
    metric : Metric
        Metric on the voxels of the momentum.
    steps : int, optional
        Number of time steps; by default `steps_needed`.

    Returns
    -------
    Tensor, shape (..., 3, X, Y, Z)
        Displacement of phi^-1, in voxels.
    """
    lattice = Lattice.around(metric)
    start = lattice.restrict(momentum)
    end = integrate(start, lattice, steps or steps_needed(start.detach(), lattice))
    return lattice.displacement(end.inverse)


@dataclass(frozen=True)
class GeodesicEnd:
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


def integrate(momentum: Tensor, lattice: Lattice, steps: int) -> GeodesicEnd:
    """Integrate momentum and inverse map in time by RK4; differentiable.

    Parameters
    ----------
    momentum : Tensor, shape (..., 3, X, Y, Z)
        m_0 on the lattice, per mm^3.
    lattice : Lattice
        The lattice.
    steps : int
        Number of time steps.

    Returns
    -------
    GeodesicEnd
        Momentum and inverse map at time 1, and the energy at each step.
    """
    metric, dt = lattice.metric, 1 / steps
    inverse = torch.zeros_like(momentum)
    energies = []

    def rates(momentum: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        velocity = metric.velocity(momentum)
        d_momentum, d_inverse = _TimeDerivatives.apply(velocity, momentum, inverse, lattice)  # type: ignore[no-untyped-call]
        return d_momentum, d_inverse, velocity

    for _ in range(steps):
        m1, u1, velocity = rates(momentum, inverse)
        energies.append(metric.energy(momentum.detach(), velocity.detach()))
        m2, u2, _ = rates(momentum + dt / 2 * m1, inverse + dt / 2 * u1)
        m3, u3, _ = rates(momentum + dt / 2 * m2, inverse + dt / 2 * u2)
        m4, u4, _ = rates(momentum + dt * m3, inverse + dt * u3)
        momentum = momentum + dt / 6 * (m1 + 2 * m2 + 2 * m3 + m4)
        inverse = inverse + dt / 6 * (u1 + 2 * u2 + 2 * u3 + u4)
    energies.append(metric.energy(momentum.detach()))
    return GeodesicEnd(momentum, inverse, torch.stack(energies))


def steps_needed(momentum: Tensor, lattice: Lattice, least: int = MIN_TIME_STEPS) -> int:
    """Return the number of time steps of a geodesic.

    In one step no point moves by more than `MAX_COURANT` lattice spacings.

    Parameters
    ----------
    momentum : Tensor, shape (..., 3, X, Y, Z)
        m_0 on the lattice, per mm^3.
    lattice : Lattice
        The lattice.
    least : int
        Fewest time steps of a momentum that is not zero.

    Returns
    -------
    int
        1 for a momentum of zero, else at least `least`.

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
    return max(least, math.ceil(fastest / MAX_COURANT))


def adjoint(v: Tensor, w: Tensor, lattice: Lattice) -> Tensor:
    """Return ``ad_v w = (D v) w - (D w) v``.

    Parameters
    ----------
    v, w : Tensor, shape (..., 3, X, Y, Z)
        Velocities on the lattice.
    lattice : Lattice
        The lattice.

    Returns
    -------
    Tensor, shape (..., 3, X, Y, Z)
        A velocity times a velocity gradient.
    """
    return _derivative_along(v, w, lattice) - _derivative_along(w, v, lattice)


def coadjoint(v: Tensor, m: Tensor, lattice: Lattice) -> Tensor:
    """Return ``ad*_v m = (D v)^T m + div(m v)``.

    Here ``div(m v)_i = sum_j d_j (m_i v_j)``, which is ``(D m) v + m div v`` in the literature. In
    this form ``<ad*_v m, w> = <m, ad_v w>`` for every w, exactly, because the derivative matrices
    of the lattice are skew-symmetric.

    Parameters
    ----------
    v : Tensor, shape (..., 3, X, Y, Z)
        Velocity on the lattice.
    m : Tensor, shape (..., 3, X, Y, Z)
        Momentum on the lattice.
    lattice : Lattice
        The lattice.

    Returns
    -------
    Tensor, shape (..., 3, X, Y, Z)
        Minus the time derivative of m where ``v = K m``.
    """
    return _transpose_derivative(v, m, lattice) + _divergence(m, v, lattice)


def _derivative_along(field: Tensor, v: Tensor, lattice: Lattice) -> Tensor:
    """Return ``(D f) v``: component i is ``sum_j (d_j f_i) v_j``."""
    result = torch.zeros_like(field)
    for axis, matrix in enumerate(lattice.derivatives):
        result.addcmul_(multiply_axis(field, matrix, axis), v.narrow(-4, axis, 1))
    return result


def _transpose_derivative(field: Tensor, m: Tensor, lattice: Lattice) -> Tensor:
    """Return ``(D f)^T m``: component j is ``sum_i (d_j f_i) m_i``."""
    parts = [
        (multiply_axis(field, matrix, axis) * m).sum(dim=-4)
        for axis, matrix in enumerate(lattice.derivatives)
    ]
    return torch.stack(parts, dim=-4)


def _divergence(m: Tensor, v: Tensor, lattice: Lattice) -> Tensor:
    """Return ``div(m v)``: component i is ``sum_j d_j (m_i v_j)``.

    As a map of m it is minus the transpose of ``f -> (D f) v``.
    """
    result = torch.zeros_like(m)
    for axis, matrix in enumerate(lattice.derivatives):
        result += multiply_axis(m * v.narrow(-4, axis, 1), matrix, axis)
    return result


class _TimeDerivatives(torch.autograd.Function):
    """Time derivatives of the momentum, ``-ad*_v m``, and of the inverse map, ``-v - (D u) v``.

    The gradients follow from the first variation of both, paired with the incoming gradients p of
    dm/dt and q of du/dt, by ``<ad*_v m, p> = <m, ad_v p> = -<m, ad_p v>`` and the transposes of
    the derivatives::

        v:  ad*_p m - q - (D u)^T q
        m:  ad_p v
        u:  div(q v)
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
        ctx: torch.autograd.function.FunctionCtx, p: Tensor, q: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, None]:
        v, m, u = ctx.saved_tensors  # type: ignore[attr-defined]
        lattice = ctx.lattice  # type: ignore[attr-defined]
        grad_v = coadjoint(p, m, lattice) - q - _transpose_derivative(u, q, lattice)
        return grad_v, adjoint(p, v, lattice), _divergence(q, v, lattice), None

"""Geodesic shooting by the scheme of the original Quicksilver, for its momenta and comparisons.

The momentum is transported by the inverse map psi, ``m_t = |D psi| (D psi)^T (m_0 o psi)`` (Singh
et al., ISBI 2013, equation 6), and after each step the inverse map is updated by a fixed-point
iteration. All is in voxels, on the voxels of the image. The scheme was derived from the results of
the original (Yang et al., NeuroImage 2017), not from its code.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from deepreg_wf.lddmm import fields
from deepreg_wf.lddmm.metric import Metric, MetricParameters
from deepreg_wf.lddmm.shooting import Geodesic

ORIGINAL_METRIC = MetricParameters(alpha=0.01, beta=0.01, gamma=0.001, power=1, discrete=True)
"""Metric of the momenta of the original Quicksilver, per voxel and not per millimetre."""


def shoot_original(
    momentum: Tensor,
    *,
    steps: int = 10,
    runge_kutta: bool = True,
    inverse_iterations: int = 20,
    metric: Metric | None = None,
) -> Geodesic:
    """Shoot an initial momentum by the scheme of the original Quicksilver.

    Parameters
    ----------
    momentum : Tensor, shape (3, X, Y, Z)
        m_0, in voxels.
    steps : int
        Number of time steps.
    runge_kutta : bool
        Use the Runge-Kutta method of fourth order, not Euler's.
    inverse_iterations : int
        Fixed-point iterations in each update of the inverse map.
    metric : Metric, optional
        Metric on the same grid, with a spacing of one; by default `ORIGINAL_METRIC`.

    Returns
    -------
    Geodesic
        End of the geodesic.
    """
    if metric is None:
        metric = Metric(
            momentum.shape[1:],
            (1.0, 1.0, 1.0),
            dtype=momentum.dtype,
            device=momentum.device,
            **ORIGINAL_METRIC,
        )
    energies: list[Tensor] = []

    def velocity(inverse: Tensor) -> Tensor:
        current = _transport(momentum, inverse)
        smooth = metric.velocity(current)
        energies.append(metric.energy(current, smooth))
        return smooth

    def updated(inverse: Tensor, step: Tensor) -> Tensor:
        return _update_inverse(inverse, step, inverse_iterations)

    advance = _runge_kutta_step if runge_kutta else _euler_step
    with torch.no_grad():
        phi, inverse = torch.zeros_like(momentum), torch.zeros_like(momentum)
        step_starts = []  # index of the energy at the start of each step
        for _ in range(steps):
            step_starts.append(len(energies))
            step = advance(velocity, updated, phi, inverse, 1 / steps)
            phi, inverse = phi + step, updated(inverse, step)
        velocity(inverse)
    return Geodesic(phi, inverse, torch.stack([energies[i] for i in (*step_starts, -1)]))


_Velocity = Callable[[Tensor], Tensor]
_Update = Callable[[Tensor, Tensor], Tensor]


def _euler_step(
    velocity: _Velocity, updated: _Update, phi: Tensor, inverse: Tensor, dt: float
) -> Tensor:
    """Return the change of phi, ``dt v o phi``."""
    return dt * fields.interpolate(velocity(inverse), phi)


def _runge_kutta_step(
    velocity: _Velocity, updated: _Update, phi: Tensor, inverse: Tensor, dt: float
) -> Tensor:
    """Return the change of phi by RK4; each stage has an inverse map of its own."""
    total = rate = fields.interpolate(velocity(inverse), phi)
    for share, weight in ((0.5, 2), (0.5, 2), (1, 1)):
        step = share * dt * rate
        rate = fields.interpolate(velocity(updated(inverse, step)), phi + step)
        total = total + weight * rate
    return dt / 6 * total


def _transport(momentum: Tensor, inverse: Tensor) -> Tensor:
    """Return ``|D psi| (D psi)^T (m_0 o psi)``."""
    matrix = fields.jacobian(inverse)
    pulled_back = fields.interpolate(momentum, inverse)
    return fields.determinant(matrix) * (matrix * pulled_back.unsqueeze(1)).sum(dim=0)


def _update_inverse(inverse: Tensor, step: Tensor, iterations: int) -> Tensor:
    """Return the inverse h of ``phi + step`` from the inverse psi of phi.

    Fixed-point iteration ``h <- psi o (id - step o h)``, from ``h = psi``.
    """
    updated = inverse
    for _ in range(iterations):
        updated = fields.compose(inverse, -fields.interpolate(step, updated))
    return updated

"""Shooting as the original Quicksilver does it, for its momenta and to compare with ours.

The momentum is pulled along the inverse map, ``m_t = |D psi| (D psi)^T (m_0 o psi)``, and the
inverse map is brought up to date after each step by a fixed-point iteration. Everything is in
voxels, on the voxels of the image. What is written here was read from the original's results
(see Yang et al., NeuroImage 2017, and Singh et al., ISBI 2013, equation 6).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from deepreg_wf.lddmm import fields
from deepreg_wf.lddmm.metric import Metric, Parameters
from deepreg_wf.lddmm.shooting import Geodesic

ORIGINAL_METRIC = Parameters(alpha=0.01, beta=0.01, gamma=0.001, power=1, discrete=True)
"""Metric of the original's momenta, in voxels whatever their size."""


def shoot_original(
    momentum: Tensor,
    *,
    steps: int = 10,
    runge_kutta: bool = True,
    inverse_iterations: int = 20,
    metric: Metric | None = None,
) -> Geodesic:
    """Follow the geodesic of an initial momentum in the convention of the original.

    Parameters
    ----------
    momentum : Tensor, shape (3, X, Y, Z)
        m_0, in voxels.
    steps : int
    runge_kutta : bool
        RK4, else Euler's method.
    inverse_iterations : int
        Fixed-point iterations of an update of the inverse map.
    metric : Metric, optional
        On the same grid, with a spacing of one; `ORIGINAL_METRIC` by default.

    Returns
    -------
    Geodesic
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
        moved = _transported(momentum, inverse)
        smooth = metric.velocity(moved)
        energies.append(metric.energy(moved, smooth))
        return smooth

    def updated(inverse: Tensor, step: Tensor) -> Tensor:
        return _update_inverse(inverse, step, inverse_iterations)

    advance = _runge_kutta_step if runge_kutta else _euler_step
    with torch.no_grad():
        phi, inverse = torch.zeros_like(momentum), torch.zeros_like(momentum)
        starts = []
        for _ in range(steps):
            starts.append(len(energies))
            step = advance(velocity, updated, phi, inverse, 1 / steps)
            phi, inverse = phi + step, updated(inverse, step)
        velocity(inverse)
    return Geodesic(phi, inverse, torch.stack([energies[i] for i in (*starts, -1)]))


_Velocity = Callable[[Tensor], Tensor]
_Update = Callable[[Tensor, Tensor], Tensor]


def _euler_step(
    velocity: _Velocity, updated: _Update, phi: Tensor, inverse: Tensor, dt: float
) -> Tensor:
    return dt * fields.interpolate(velocity(inverse), phi)


def _runge_kutta_step(
    velocity: _Velocity, updated: _Update, phi: Tensor, inverse: Tensor, dt: float
) -> Tensor:
    total = rate = fields.interpolate(velocity(inverse), phi)
    for share, weight in ((0.5, 2), (0.5, 2), (1, 1)):
        step = share * dt * rate
        rate = fields.interpolate(velocity(updated(inverse, step)), phi + step)
        total = total + weight * rate
    return dt / 6 * total


def _transported(momentum: Tensor, inverse: Tensor) -> Tensor:
    """``|D psi| (D psi)^T (m_0 o psi)``."""
    matrix = fields.jacobian(inverse)
    pulled = fields.interpolate(momentum, inverse)
    return fields.determinant(matrix) * (matrix * pulled.unsqueeze(1)).sum(dim=0)


def _update_inverse(inverse: Tensor, step: Tensor, iterations: int) -> Tensor:
    """Inverse of ``phi + step`` from that of phi: ``h <- psi o (id - step o h)``."""
    updated = inverse
    for _ in range(iterations):
        updated = fields.compose(inverse, -fields.interpolate(step, updated))
    return updated

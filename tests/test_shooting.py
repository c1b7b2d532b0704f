"""Geodesics: conserved energy, exact inverses, reversibility, equivariance, exact gradients."""

from __future__ import annotations

import math

import pytest
import torch

from deepreg_wf.lddmm import (
    DEFAULT_METRIC,
    Geodesic,
    Metric,
    diagnostics,
    fields,
    shoot,
    shoot_inverse,
    shoot_invertible,
)
from deepreg_wf.lddmm.lattice import Lattice
from deepreg_wf.lddmm.shooting import (
    MAX_COURANT,
    MIN_TIME_STEPS,
    SHRINK,
    adjoint,
    coadjoint,
    integrate,
    steps_needed,
)

EXTENT = 64.0


def bump_velocity(n: int, amplitude: float = 4.0) -> torch.Tensor:
    """Return a smooth swirling velocity in mm on n^3 voxels over a cube of `EXTENT` mm."""
    axis = (torch.arange(n, dtype=torch.float64) + 0.5) / n - 0.5
    x, y, z = torch.meshgrid(axis, axis, axis, indexing='ij')
    window = torch.exp(-(x**2 + y**2 + z**2) / (2 * 0.1**2))
    waves = torch.stack([torch.sin(9 * y + 4 * x), torch.cos(8 * z), torch.sin(7 * x - 5 * z)])
    return amplitude * window * waves


def problem(n: int, *, dtype=torch.float64, amplitude: float = 4.0):
    metric = Metric((n, n, n), (EXTENT / n,) * 3, dtype=dtype, **DEFAULT_METRIC)
    # One momentum for all grids: that of the continuous operator, to the accuracy of the finest.
    fine = Metric((64, 64, 64), (EXTENT / 64,) * 3, dtype=torch.float64, **DEFAULT_METRIC)
    momentum = fine.momentum(bump_velocity(64, amplitude))
    factor = 64 // n
    batch = momentum.unsqueeze(0)
    return torch.nn.functional.avg_pool3d(batch, factor)[0].to(dtype), metric


def noise(shape, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, *shape, dtype=torch.float64, generator=generator)


def test_a_momentum_of_zero_gives_the_identity() -> None:
    momentum, metric = problem(16)
    geodesic = shoot(torch.zeros_like(momentum), metric)
    assert not geodesic.phi.any()
    assert not geodesic.phi_inverse.any()
    assert geodesic.energy_drift == 0


def test_a_momentum_that_does_not_fold_is_not_shortened() -> None:
    momentum, metric = problem(16)
    shot, geodesic = shoot_invertible(momentum, metric)
    assert shot is momentum
    torch.testing.assert_close(geodesic.phi, shoot(momentum, metric).phi)


def test_a_momentum_that_folds_is_shortened_as_little_as_possible() -> None:
    momentum, metric = problem(16, amplitude=22.0)
    assert _smallest_jacobian(shoot(momentum, metric)) < 0
    shot, geodesic = shoot_invertible(momentum, metric)
    assert _smallest_jacobian(geodesic) > 0
    assert _smallest_jacobian(shoot(shot / SHRINK, metric)) <= 0
    torch.testing.assert_close(geodesic.phi, shoot(shot, metric).phi)


def test_a_momentum_that_diverges_is_refused() -> None:
    momentum, metric = problem(16)
    momentum[0, 5, 5, 5] = torch.nan
    with pytest.raises(ValueError, match='not finite'):
        shoot_invertible(momentum, metric)


def _smallest_jacobian(geodesic: Geodesic) -> float:
    maps = (geodesic.phi, geodesic.phi_inverse)
    return min(float(fields.jacobian_determinant(field).min()) for field in maps)


def test_coadjoint_is_the_exact_transpose_of_adjoint() -> None:
    lattice = Lattice.around(problem(16)[1])
    v, m, w = (noise(lattice.metric.shape, seed) for seed in range(3))
    torch.testing.assert_close(
        (coadjoint(v, m, lattice) * w).sum(), (m * adjoint(v, w, lattice)).sum()
    )


def test_the_time_derivative_of_the_energy_is_zero() -> None:
    """``<ad*_v m, v> = 0`` conserves the energy, however rough the momentum."""
    lattice = Lattice.around(problem(16)[1])
    v, m = (noise(lattice.metric.shape, seed) for seed in range(2))
    rate = coadjoint(v, m, lattice)
    assert abs(float((rate * v).sum())) < 1e-12 * float(rate.norm() * v.norm())


@pytest.mark.parametrize('n', [16, 32])
def test_only_the_time_steps_change_the_energy(n) -> None:
    momentum, metric = problem(n)
    rough = momentum * (1 + 0.5 * noise(momentum.shape[1:], 0))
    coarse, fine = (shoot(rough, metric, steps=steps).energy_drift for steps in (4, 8))
    assert coarse < 0.01
    assert coarse / fine > 12  # fourth order in time at least


def test_maps_are_inverse_to_each_other() -> None:
    """The error is that of the linear interpolation of phi, an eighth of a second difference."""
    momentum, metric = problem(32)
    geodesic = shoot(momentum, metric)
    curvature = max(
        float(geodesic.phi.diff(n=2, dim=axis).norm(dim=0).max()) for axis in (1, 2, 3)
    )
    error = diagnostics.inverse_error(geodesic.phi, geodesic.phi_inverse, (1, 1, 1))
    assert geodesic.phi.norm(dim=0).max() > 1  # voxels: there is something to invert
    assert error.max() < 3 * curvature / 8
    assert error.median() < 0.01


def test_no_folding_of_a_moderate_geodesic() -> None:
    geodesic = shoot(*problem(32))
    assert fields.jacobian_determinant(geodesic.phi).min() > 0
    assert fields.jacobian_determinant(geodesic.phi_inverse).min() > 0


def test_shooting_the_reversed_momentum_retraces_the_geodesic() -> None:
    momentum, metric = problem(32)
    lattice = Lattice.around(metric)
    start = lattice.restrict(momentum)
    there = integrate(start, lattice, 12)
    back = integrate(-there.momentum, lattice, 12)
    assert (back.momentum + start).norm() < 1e-3 * start.norm()
    assert (there.momentum - start).norm() > 0.1 * start.norm()


def test_translated_momentum_gives_translated_maps() -> None:
    momentum, metric = problem(16)
    margin, shift = 4, (2, -1, 3)
    inner = (slice(None), *(slice(margin, -margin),) * 3)
    window = torch.zeros_like(momentum)
    window[inner] = 1
    moved = shoot(torch.roll(momentum * window, shift, dims=(1, 2, 3)), metric)
    expected = torch.roll(shoot(momentum * window, metric).phi, shift, dims=(1, 2, 3))
    assert expected[inner].abs().max() > 0.5
    torch.testing.assert_close(moved.phi[inner], expected[inner])


def test_same_warp_in_mm_at_any_spacing() -> None:
    """Sampling the momentum on voxels differs to second order in the voxel size."""

    def pooled(field: torch.Tensor, n: int) -> torch.Tensor:
        return torch.nn.functional.avg_pool3d(field.unsqueeze(0), n // 16)[0]

    def warp_and_velocity(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        momentum, metric = problem(n, amplitude=2.0)
        phi = shoot(momentum, metric).phi * EXTENT / n
        return pooled(phi, n), pooled(metric.velocity(momentum), n)

    def error(field: torch.Tensor, finest: torch.Tensor) -> float:
        return float((field - finest).norm(dim=0).max())

    finest = warp_and_velocity(64)
    largest = float(finest[0].norm(dim=0).max())
    assert largest > 1.5  # mm
    of_velocity = []
    for n in (16, 32):
        warp, velocity = warp_and_velocity(n)
        of_velocity.append(error(velocity, finest[1]))
        # Products of what the lattice holds do not all fit on it: a hundredth of the motion.
        assert error(warp, finest[0]) < 1.5 * of_velocity[-1] + 0.01 * largest
    assert max(of_velocity) < 0.01 * largest


def test_more_steps_than_needed_change_little() -> None:
    momentum, metric = problem(32)
    needed, many = shoot(momentum, metric), shoot(momentum, metric, steps=20)
    assert (needed.phi - many.phi).norm(dim=0).max() < 0.01
    assert (needed.phi_inverse - many.phi_inverse).norm(dim=0).max() < 0.01


def test_steps_grow_with_speed() -> None:
    momentum, metric = problem(16)
    lattice = Lattice.around(metric)
    momentum = lattice.restrict(momentum)
    assert steps_needed(momentum * 0, lattice) == 1
    assert steps_needed(momentum * 1e-3, lattice) == MIN_TIME_STEPS
    speed = lattice.metric.velocity(momentum).abs().sum(dim=0).max() / lattice.metric.spacing[0]
    factor = 10 * MAX_COURANT / speed
    assert steps_needed(momentum * float(factor), lattice) in (10, 11)


def test_a_batch_equals_its_geodesics_one_by_one() -> None:
    momentum, metric = problem(16)
    batch = torch.stack([momentum, -0.5 * momentum])
    together = shoot(batch, metric, steps=4)
    assert together.energy.shape == (5, 2)
    for i, alone in enumerate(shoot(single, metric, steps=4) for single in batch):
        torch.testing.assert_close(together.phi[i], alone.phi)
        torch.testing.assert_close(together.phi_inverse[i], alone.phi_inverse)
        torch.testing.assert_close(together.energy[:, i], alone.energy)


def test_shoot_inverse_equals_the_inverse_of_shoot() -> None:
    momentum, metric = problem(16)
    torch.testing.assert_close(
        shoot_inverse(momentum, metric), shoot(momentum, metric).phi_inverse
    )


@pytest.mark.parametrize('power', [1, 2])
@pytest.mark.parametrize('steps', [1, 3])
def test_gradient_agrees_with_central_differences(power, steps) -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (10, 12, 11)

    def random() -> torch.Tensor:
        return torch.randn(3, *shape, dtype=torch.float64, generator=generator)

    metric = Metric(
        shape, (2.0, 1.5, 1.8), alpha=0.1, beta=0.1, gamma=0.05, power=power, dtype=torch.float64
    )
    momentum = random() * 0.05**power
    weights, direction = random(), random() * 0.05**power

    def value(m: torch.Tensor) -> torch.Tensor:
        return (shoot_inverse(m, metric, steps=steps) * weights).sum()

    variable = momentum.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(variable), variable)
    epsilon = 1e-5
    with torch.no_grad():
        difference = value(momentum + epsilon * direction) - value(momentum - epsilon * direction)
    expected = float(difference) / (2 * epsilon)
    assert math.isclose(float((gradient * direction).sum()), expected, rel_tol=1e-5)


def test_a_momentum_with_nan_is_refused() -> None:
    momentum, metric = problem(16)
    momentum[0, 3, 3, 3] = math.nan
    with pytest.raises(ValueError, match='not finite'):
        shoot(momentum, metric)

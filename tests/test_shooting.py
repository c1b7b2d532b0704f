"""Geodesics: conserved energy, exact inverses, reversibility, equivariance, exact gradients."""

from __future__ import annotations

import math

import pytest
import torch

from deepreg_wf.lddmm import DEFAULT_METRIC, Metric, diagnostics, fields, shoot, shoot_inverse
from deepreg_wf.lddmm.shooting import MAX_COURANT, MIN_STEPS, steps_needed

EXTENT = 64.0


def bump_velocity(n: int, amplitude: float = 4.0) -> torch.Tensor:
    """A smooth swirling velocity in mm on n^3 voxels over a cube of `EXTENT` mm."""
    axis = (torch.arange(n, dtype=torch.float64) + 0.5) / n - 0.5
    x, y, z = torch.meshgrid(axis, axis, axis, indexing='ij')
    window = torch.exp(-(x**2 + y**2 + z**2) / (2 * 0.12**2))
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


def transported(momentum: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
    """The momentum at the end of the path, on an isotropic grid."""
    matrix = fields.jacobian(inverse)
    pulled = fields.interpolate(momentum, inverse)
    return fields.determinant(matrix) * (matrix * pulled.unsqueeze(1)).sum(dim=0)


def test_no_momentum_no_motion() -> None:
    momentum, metric = problem(16)
    geodesic = shoot(torch.zeros_like(momentum), metric)
    assert not geodesic.phi.any()
    assert not geodesic.phi_inverse.any()
    assert geodesic.energy_drift == 0


def test_energy_is_conserved_to_second_order() -> None:
    """What drifts is due to the spacing: halving it leaves about a quarter."""
    coarse, medium, fine = (shoot(*problem(n)).energy_drift for n in (16, 32, 64))
    assert coarse / medium > 3
    assert medium / fine > 3
    assert fine < 0.02


def test_maps_are_inverse_to_each_other() -> None:
    """The error is that of linear interpolation, per axis an eighth of a second difference.

    There are three axes, and three interpolations: of both maps and of the momentum.
    """
    momentum, metric = problem(32)
    geodesic = shoot(momentum, metric)
    curvature = max(
        float(geodesic.phi.diff(n=2, dim=axis).norm(dim=0).max()) for axis in (1, 2, 3)
    )
    error = diagnostics.inverse_error(geodesic.phi, geodesic.phi_inverse, (1, 1, 1))
    assert geodesic.phi.norm(dim=0).max() > 1  # voxels: there is something to invert
    assert error.max() < 3 * (3 * curvature / 8)
    assert error.median() < 0.01


def test_no_folding_of_a_moderate_geodesic() -> None:
    geodesic = shoot(*problem(32))
    assert fields.jacobian_determinant(geodesic.phi).min() > 0
    assert fields.jacobian_determinant(geodesic.phi_inverse).min() > 0


def test_shooting_back_from_the_end_retraces_the_path() -> None:
    """To second order: the return shoots a momentum that was interpolated on the way."""

    def error(n: int) -> float:
        momentum, metric = problem(n)
        geodesic = shoot(momentum, metric)
        back = shoot(-transported(momentum, geodesic.phi_inverse), metric)
        return float((back.phi - geodesic.phi_inverse).norm(dim=0).max()) * EXTENT / n

    coarse, fine = error(16), error(32)
    assert fine < 0.25  # mm, of a motion of several
    assert coarse / fine > 2.5


def test_translated_momentum_gives_translated_maps() -> None:
    momentum, metric = problem(16)
    shift = (2, -1, 3)
    momentum = fields.interpolate(momentum, torch.zeros_like(momentum))
    moved = shoot(torch.roll(momentum, shift, dims=(1, 2, 3)), metric)
    expected = torch.roll(shoot(momentum, metric).phi, shift, dims=(1, 2, 3))
    # The kernel is periodic and the maps are not: they differ by what reaches the border.
    border = float(expected[:, :4].abs().max())
    assert (moved.phi - expected).abs().max() < 5 * border + 1e-9
    assert border < 0.05 * expected.abs().max()


def test_same_warp_in_mm_at_any_spacing() -> None:
    def warp(n: int) -> torch.Tensor:
        phi = shoot(*problem(n)).phi * EXTENT / n
        return torch.nn.functional.avg_pool3d(phi.unsqueeze(0), n // 16)[0]

    finest = warp(64)
    coarse, fine = ((warp(n) - finest).norm(dim=0).max() for n in (16, 32))
    assert finest.norm(dim=0).max() > 2  # mm
    assert fine < 0.05 * finest.norm(dim=0).max()
    assert coarse / fine > 3


def test_more_steps_than_needed_change_little() -> None:
    momentum, metric = problem(32)
    needed, many = shoot(momentum, metric), shoot(momentum, metric, steps=20)
    assert (needed.phi - many.phi).norm(dim=0).max() < 0.01
    assert (needed.phi_inverse - many.phi_inverse).norm(dim=0).max() < 0.01


def test_steps_grow_with_speed() -> None:
    momentum, metric = problem(16)
    assert steps_needed(momentum * 1e-3, metric) == MIN_STEPS
    speed = (metric.velocity(momentum) * 16 / EXTENT).abs().sum(dim=0).max()
    factor = 10 * MAX_COURANT / speed
    assert steps_needed(momentum * float(factor), metric) in (10, 11)


def test_inverse_alone_is_the_inverse_of_both() -> None:
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
    # Small enough that no point crosses a voxel's border, where interpolation has a kink.
    epsilon = 1e-7
    with torch.no_grad():
        difference = value(momentum + epsilon * direction) - value(momentum - epsilon * direction)
    expected = float(difference) / (2 * epsilon)
    assert math.isclose(float((gradient * direction).sum()), expected, rel_tol=1e-5)


def test_momentum_with_nan_is_refused() -> None:
    momentum, metric = problem(16)
    momentum[0, 3, 3, 3] = math.nan
    with pytest.raises(ValueError, match='not finite'):
        shoot(momentum, metric)

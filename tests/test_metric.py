"""Metric: L and K are inverse to each other, self-adjoint, and defined in millimetres."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from deepreg_wf.lddmm import ORIGINAL_METRIC, Metric

GRIDS = [((8, 10, 12), (1.0, 1.0, 1.0)), ((9, 7, 11), (1.0, 2.0, 1.5))]


def double_metric(shape, spacing, **parameters) -> Metric:
    return Metric(shape, spacing, dtype=torch.float64, **parameters)


def noise(shape, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, *shape, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize('discrete', [True, False])
@pytest.mark.parametrize('power', [1, 2, 3])
@pytest.mark.parametrize(('shape', 'spacing'), GRIDS)
def test_kernel_inverts_operator(shape, spacing, power, discrete) -> None:
    metric = double_metric(shape, spacing, power=power, discrete=discrete)
    momentum = noise(shape, 0)
    torch.testing.assert_close(metric.momentum(metric.velocity(momentum)), momentum)


@pytest.mark.parametrize('power', [1, 2])
def test_kernel_is_self_adjoint_and_positive(power) -> None:
    shape, spacing = GRIDS[1]
    metric = double_metric(shape, spacing, power=power)
    a, b = noise(shape, 1), noise(shape, 2)
    torch.testing.assert_close((metric.velocity(a) * b).sum(), (a * metric.velocity(b)).sum())
    assert metric.energy(a) > 0


def test_gradient_of_energy_is_twice_the_velocity() -> None:
    shape, spacing = GRIDS[1]
    metric = double_metric(shape, spacing)
    momentum = noise(shape, 3).requires_grad_()
    (gradient,) = torch.autograd.grad(metric.energy(momentum), momentum)
    expected = 2 * metric.voxel_volume * metric.velocity(momentum.detach())
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize('power', [1, 2])
def test_constant_momentum_is_divided_by_gamma(power) -> None:
    metric = double_metric((6, 6, 6), (2.0, 2.0, 2.0), gamma=0.1, power=power)
    constant = torch.ones(3, 6, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(metric.velocity(constant), constant / 0.1**power)


@pytest.mark.parametrize('discrete', [True, False])
def test_plane_waves_obey_the_continuous_operator(discrete) -> None:
    """Longitudinal waves are scaled by alpha + beta, transverse waves by alpha alone."""
    n, h, wavelengths = 64, 0.5, 2
    parameters = {'alpha': 0.02, 'beta': 0.03, 'gamma': 0.001}
    metric = double_metric((n, 8, 8), (h, h, h), power=1, discrete=discrete, **parameters)
    k = 2 * math.pi * wavelengths / (n * h)
    wave = torch.cos(k * h * torch.arange(n, dtype=torch.float64)).view(n, 1, 1).expand(n, 8, 8)
    zero = torch.zeros_like(wave)
    along = metric.momentum(torch.stack([wave, zero, zero]))[0]
    across = metric.momentum(torch.stack([zero, wave, zero]))[1]
    # Second differences miss k^2 by a share of (k h)^2 / 12.
    error = (k * h) ** 2 / 12 if discrete else 1e-9
    torch.testing.assert_close(along, (0.05 * k**2 + 0.001) * wave, rtol=error, atol=1e-12)
    torch.testing.assert_close(across, (0.02 * k**2 + 0.001) * wave, rtol=error, atol=1e-12)


def velocity_of_waves(n: int, *, discrete: bool) -> torch.Tensor:
    """Return K m for waves of 32 mm on n^3 voxels, at the points of the coarsest grid."""
    axes = [torch.arange(n, dtype=torch.float64) / n * 2 * math.pi] * 3
    x, y, z = torch.meshgrid(*axes, indexing='ij')
    momentum = torch.stack([x.sin() * y.cos(), (y + z).sin(), z.cos() * x.cos()])
    parameters = {'alpha': 1.0, 'beta': 1.0, 'gamma': 0.1, 'discrete': discrete}
    metric = double_metric((n, n, n), (32.0 / n,) * 3, **parameters)
    return metric.velocity(momentum)[:, :: n // 8, :: n // 8, :: n // 8]


def test_same_velocity_in_mm_at_any_spacing() -> None:
    torch.testing.assert_close(
        velocity_of_waves(8, discrete=False), velocity_of_waves(16, discrete=False)
    )


def test_discrete_derivatives_converge_to_the_same_velocity() -> None:
    """Halving the spacing cuts the difference to the finest grid to about a quarter."""
    finest = velocity_of_waves(64, discrete=True)
    coarse, fine = ((velocity_of_waves(n, discrete=True) - finest).abs().max() for n in (8, 16))
    assert 3 < coarse / fine < 5.5


def test_velocity_agrees_with_the_original() -> None:
    reference = Path(__file__).resolve().parents[2] / 'shared/reference/original_shooting.npz'
    if not reference.is_file():
        pytest.skip('the reference of the original implementation is not beside the repository')
    with np.load(reference) as original:
        momentum = torch.from_numpy(original['m0'])
        expected = torch.from_numpy(original['v0'])
    velocity = Metric(momentum.shape[1:], (1.0, 1.0, 1.0), **ORIGINAL_METRIC).velocity(momentum)
    torch.testing.assert_close(velocity, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))


def test_power_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match='power'):
        Metric((4, 4, 4), (1.0, 1.0, 1.0), power=0)

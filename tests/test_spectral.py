"""Band-limited fields: derivatives and values between samples are exact for any size."""

from __future__ import annotations

import math

import pytest
import torch

from deepreg_wf.lddmm import spectral

SIZES = (7, 8, 12)


def wave(positions: torch.Tensor, n: int, cycles: int) -> torch.Tensor:
    return torch.sin(2 * torch.pi * cycles * positions.double() / n + 0.3)


@pytest.mark.parametrize('n', SIZES)
@pytest.mark.parametrize('cycles', [1, 3])
def test_derivative_of_a_wave_is_exact(n, cycles) -> None:
    spacing, x = 0.5, torch.arange(n)
    expected = torch.cos(2 * torch.pi * cycles * x.double() / n + 0.3)
    expected *= 2 * math.pi * cycles / (n * spacing)
    found = spectral.derivative_matrix(n, spacing) @ wave(x, n, cycles)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize('n', SIZES)
def test_derivative_is_skew_symmetric(n) -> None:
    matrix = spectral.derivative_matrix(n, 2.0)
    torch.testing.assert_close(matrix, -matrix.T, rtol=0, atol=1e-14)


@pytest.mark.parametrize('n', SIZES)
@pytest.mark.parametrize('cycles', [0, 2, 3])
def test_waves_are_evaluated_exactly_between_samples(n, cycles) -> None:
    positions = torch.tensor([-0.7, 0.0, 2.25, 3.0, n - 0.5])
    matrix = spectral.interpolation_matrix(n, positions)
    found = matrix @ wave(torch.arange(n), n, cycles)
    torch.testing.assert_close(found, wave(positions.double(), n, cycles), rtol=0, atol=1e-6)


@pytest.mark.parametrize('n', SIZES)
def test_interpolation_at_the_samples_is_the_identity(n) -> None:
    matrix = spectral.interpolation_matrix(n, torch.arange(n))
    torch.testing.assert_close(matrix, torch.eye(n, dtype=torch.float64), rtol=0, atol=1e-12)


def test_each_axis_is_multiplied_by_its_matrix() -> None:
    generator = torch.Generator().manual_seed(0)
    field = torch.randn(2, 3, 4, 5, generator=generator)
    matrices = [torch.randn(m, n, generator=generator) for m, n in ((6, 3), (2, 4), (5, 5))]
    expected = torch.einsum('ax,by,cz,ixyz->iabc', *matrices, field)
    torch.testing.assert_close(spectral.multiply_axes(field, matrices), expected)


@pytest.mark.parametrize(('n', 'size'), [(1, 2), (90, 90), (97, 98), (229, 240)])
def test_next_fast_size(n, size) -> None:
    assert spectral.next_fast_size(n) == size

"""Shooting by the scheme of the original Quicksilver, against results of its own code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from deepreg_wf.lddmm import ORIGINAL_METRIC, Geodesic, Metric, shoot, shoot_original, spectral

REFERENCE = Path(__file__).resolve().parents[2] / 'shared/reference/original_shooting.npz'


@pytest.fixture(scope='module')
def reference() -> dict[str, torch.Tensor]:
    if not REFERENCE.is_file():
        pytest.skip('the reference of the original implementation is not beside the repository')
    with np.load(REFERENCE) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def worst(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm(dim=0).max())


@pytest.mark.parametrize(
    ('suffix', 'settings'),
    [
        ('euler_5', {'runge_kutta': False, 'inverse_iterations': 5}),
        ('rk4_20', {'runge_kutta': True, 'inverse_iterations': 20}),
    ],
)
def test_maps_agree_with_the_original(reference, suffix, settings) -> None:
    """To float32: coordinates of up to 72 voxels have a unit in the last place of 8e-6.

    Each of 10 steps interpolates at such coordinates some ten times over.
    """
    geodesic = shoot_original(reference['m0'], steps=10, **settings)
    assert worst(geodesic.phi, reference[f'phi_{suffix}']) < 1e-4
    assert worst(geodesic.phi_inverse, reference[f'phiinv_{suffix}']) < 1e-4


def smooth_momentum(n: int) -> torch.Tensor:
    """Return random waves in a Gaussian window, on n^3 voxels, that move about 3 voxels."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(3, n, n, n, generator=generator)
    axis = torch.arange(n) - (n - 1) / 2
    bell = torch.exp(-((axis / 2.0) ** 2) / 2)
    kernel = bell.roll(n // 2 + 1)
    for dim in (1, 2, 3):
        view = [1, 1, 1, 1]
        view[dim] = n
        spectrum = torch.fft.fft(noise, dim=dim) * torch.fft.fft(kernel).abs().view(view)
        noise = torch.fft.ifft(spectrum, dim=dim).real
    window = torch.exp(-((axis / (n / 8)) ** 2) / 2)
    noise = noise * window.view(n, 1, 1) * window.view(n, 1) * window
    speed = Metric((n, n, n), (1.0, 1.0, 1.0), **ORIGINAL_METRIC).velocity(noise).norm(dim=0)
    return noise * 3 / speed.max()


def converged(momentum: torch.Tensor) -> Geodesic:
    """Return the geodesic of the same band-limited momentum on a grid twice as fine."""
    shape = momentum.shape[1:]
    finer = [spectral.interpolation_matrix(n, torch.arange(2 * n) / 2).float() for n in shape]
    metric = Metric([2 * n for n in shape], (0.5, 0.5, 0.5), **ORIGINAL_METRIC)
    geodesic = shoot(spectral.multiply_axes(momentum, finer), metric)
    phi, inverse = (u[:, ::2, ::2, ::2] / 2 for u in (geodesic.phi, geodesic.phi_inverse))
    return Geodesic(phi, inverse, geodesic.energy)


def test_our_shooting_is_nearer_to_the_converged_solution() -> None:
    momentum = smooth_momentum(32)
    truth, theirs = converged(momentum), shoot_original(momentum)
    ours = shoot(momentum, Metric(momentum.shape[1:], (1.0, 1.0, 1.0), **ORIGINAL_METRIC))
    inner = (slice(None), *(slice(4, -4),) * 3)
    for name in ('phi', 'phi_inverse'):
        expected = getattr(truth, name)[inner]
        error, of_theirs = (
            (getattr(geodesic, name)[inner] - expected).norm(dim=0) for geodesic in (ours, theirs)
        )
        assert expected.norm(dim=0).max() > 2
        assert error.mean() < of_theirs.mean()
        assert error.max() < of_theirs.max()
    assert ours.energy_drift < 0.01 * theirs.energy_drift

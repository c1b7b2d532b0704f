"""Changes of images that a registration has to bear, and that no momentum should follow."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from deepreg_wf.lddmm.spectral import resample

KNOTS = 4
"""Points that a random bias field or contrast curve goes through along an axis."""

CONTRAST = 0.2
"""Standard deviation of the logarithm of what intensities are raised to."""

BIAS = 0.1
"""Standard deviation of the logarithm of a bias field."""

NOISE = 0.03
"""Largest standard deviation of the noise, where white matter is near 1."""

BLURRED, COATED = 0.3, 0.25
"""Share of the brains that were scanned with large voxels, and of those that keep meninges."""


def vary(image: Tensor, generator: Generator) -> Tensor:
    """Give a brain in [0, 1], (X, Y, Z), other contrast, bias field, sharpness, noise and coat.

    The empty ground stays empty, but for what is left of the meninges around some.
    """
    brain = image > 0
    power = float(torch.exp(CONTRAST * _normal((1,), generator)))
    varied = image.clamp_min(0) ** power
    if _uniform(generator) < BLURRED:
        varied = torch.lerp(varied, _mean_around(varied), _uniform(generator))
    varied = torch.where(brain, varied, 0)
    if _uniform(generator) < COATED:
        coat = _coat(brain, generator)
        varied, brain = varied + coat, brain | (coat > 0)
    bias = (BIAS * _smooth(image.shape, generator)).exp().to(image.device)
    sigma = NOISE * _uniform(generator)
    varied = varied * bias + sigma * _normal(image.shape, generator).to(image.device)
    return torch.where(brain, varied.clamp(0, 1.2), 0)


def _coat(brain: Tensor, generator: Generator) -> Tensor:
    """A layer of one or two voxels around parts of a brain, of one brightness."""
    around = brain.float()[None, None]
    for _ in range(1 + int(_uniform(generator) < 0.5)):
        around = F.max_pool3d(around, 3, stride=1, padding=1)
    patchy = _smooth(brain.shape, generator).to(brain.device) > 0
    layer = (around[0, 0] > 0) & ~brain & patchy
    return (0.3 + 0.6 * _uniform(generator)) * layer


def _mean_around(image: Tensor) -> Tensor:
    return F.avg_pool3d(image[None, None], 3, stride=1, padding=1)[0, 0]


def _smooth(shape: torch.Size, generator: Generator) -> Tensor:
    """Random field of unit variance at its knots, linear between them."""
    knots = _normal((KNOTS,) * 3, generator)
    return resample(knots, [_hats(n) for n in shape])


def _hats(n: int) -> Tensor:
    """Matrix that interpolates `KNOTS` values linearly at n points."""
    place = torch.linspace(0, KNOTS - 1, n).view(n, 1)
    return (1 - (place - torch.arange(KNOTS)).abs()).clamp_min(0)


def _normal(shape: tuple[int, ...] | torch.Size, generator: Generator) -> Tensor:
    return torch.randn(shape, generator=generator)


def _uniform(generator: Generator) -> float:
    return float(torch.rand(1, generator=generator))

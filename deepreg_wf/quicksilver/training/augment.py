"""Changes of images that a registration has to bear: contrast, bias field, noise, sides."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from ...lddmm.spectral import resample

KNOTS = 4
"""Points that a random bias field or contrast curve goes through along an axis."""

CONTRAST = 0.15
"""Standard deviation of the logarithm of what intensities are raised to."""

BIAS = 0.1
"""Standard deviation of the logarithm of a bias field."""

NOISE = 0.03
"""Largest standard deviation of the noise, where white matter is near 1."""


def vary(image: Tensor, generator: Generator) -> Tensor:
    """Give a brain in [0, 1], (X, Y, Z), another contrast, bias field and noise.

    The empty ground stays empty.
    """
    brain = image > 0
    power = float(torch.exp(CONTRAST * _normal((1,), generator)))
    bias = (BIAS * _smooth(image.shape, generator)).exp().to(image.device)
    varied = image.clamp_min(0) ** power * bias
    sigma = NOISE * float(torch.rand(1, generator=generator))
    varied = varied + sigma * _normal(image.shape, generator).to(image.device)
    return torch.where(brain, varied.clamp(0, 1.2), 0)


def mirror(images: Tensor, field: Tensor) -> tuple[Tensor, Tensor]:
    """Change left for right: images, (C, X, Y, Z), and a vector field, (3, X, Y, Z), on x."""
    sign = field.new_tensor([-1, 1, 1]).view(3, 1, 1, 1)
    return images.flip(1), field.flip(1) * sign


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

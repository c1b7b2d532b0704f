"""Augmentation of images: changes of appearance that the momentum should not depend on."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from deepreg_wf.lddmm.spectral import multiply_axes

N_KNOTS = 4
"""Knots of a random smooth field along each axis."""

CONTRAST_SD = 0.2
"""Standard deviation of the logarithm of the gamma exponent."""

BIAS_SD = 0.1
"""Standard deviation of the logarithm of the bias field."""

MAX_NOISE_SD = 0.03
"""Largest standard deviation of the noise; white matter is near 1."""

BLUR_PROBABILITY, MENINGES_PROBABILITY = 0.3, 0.25
"""Probabilities of a blur, as by large voxels, and of residual meninges."""


def augment(image: Tensor, generator: Generator) -> Tensor:
    """Change the contrast, bias field, sharpness and noise of a brain, and add meninges to some.

    Parameters
    ----------
    image : Tensor, shape (X, Y, Z)
        Brain in [0, 1] on a background of zeros.
    generator : Generator
        Source of random numbers.

    Returns
    -------
    Tensor, shape (X, Y, Z)
        Augmented brain in [0, 1.2]; the background stays zero, except for the meninges.
    """
    brain = image > 0
    power = float(torch.exp(CONTRAST_SD * _normal((1,), generator)))
    augmented = image.clamp_min(0) ** power
    if _uniform(generator) < BLUR_PROBABILITY:
        augmented = torch.lerp(augmented, _blur(augmented), _uniform(generator))
    augmented = torch.where(brain, augmented, 0)
    if _uniform(generator) < MENINGES_PROBABILITY:
        meninges = _residual_meninges(brain, generator)
        augmented, brain = augmented + meninges, brain | (meninges > 0)
    bias = (BIAS_SD * _smooth_field(image.shape, generator)).exp().to(image.device)
    noise_sd = MAX_NOISE_SD * _uniform(generator)
    augmented = augmented * bias + noise_sd * _normal(image.shape, generator).to(image.device)
    return torch.where(brain, augmented.clamp(0, 1.2), 0)


def _residual_meninges(brain: Tensor, generator: Generator) -> Tensor:
    """Return a layer of constant intensity, one or two voxels thick, on parts of the surface."""
    dilated = brain.float()[None, None]
    for _ in range(1 + int(_uniform(generator) < 0.5)):
        dilated = F.max_pool3d(dilated, 3, stride=1, padding=1)
    parts = _smooth_field(brain.shape, generator).to(brain.device) > 0
    layer = (dilated[0, 0] > 0) & ~brain & parts
    return (0.3 + 0.6 * _uniform(generator)) * layer


def _blur(image: Tensor) -> Tensor:
    """Average over 3 voxels along each axis."""
    return F.avg_pool3d(image[None, None], 3, stride=1, padding=1)[0, 0]


def _smooth_field(shape: torch.Size, generator: Generator) -> Tensor:
    """Return a random field that has unit variance at its knots and is linear between them."""
    knots = _normal((N_KNOTS,) * 3, generator)
    return multiply_axes(knots, [_linear_basis(n) for n in shape])


def _linear_basis(n: int) -> Tensor:
    """Return the matrix that interpolates values at the knots linearly, shape (n, N_KNOTS)."""
    position = torch.linspace(0, N_KNOTS - 1, n).view(n, 1)
    return (1 - (position - torch.arange(N_KNOTS)).abs()).clamp_min(0)


def _normal(shape: tuple[int, ...] | torch.Size, generator: Generator) -> Tensor:
    return torch.randn(shape, generator=generator)


def _uniform(generator: Generator) -> float:
    return float(torch.rand(1, generator=generator))

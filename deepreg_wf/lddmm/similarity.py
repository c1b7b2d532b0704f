"""How unlike two images are, as energies that matching lowers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Mismatch = Callable[[Tensor], Tensor]
"""The energy of a warped moving image of shape (X, Y, Z) against a given fixed image."""


@dataclass(frozen=True)
class SSD:
    """Sum of squared differences, ``1 / (2 sigma^2) ||I - J||^2``.

    Attributes
    ----------
    sigma : float
        Expected difference of well aligned images, for intensities in [0, 1]
        (0.2 in Yang et al., NeuroImage 2017).
    """

    sigma: float = 0.2

    def against(self, fixed: Tensor, spacing: Sequence[float], mask: Tensor | None) -> Mismatch:
        """Return the energy of a moving image against `fixed`, both of shape (X, Y, Z).

        `mask`, of the same shape, weighs the voxels; `spacing` is in millimetres.
        """
        scale = _volume(spacing) / (2 * self.sigma**2)

        def energy(warped: Tensor) -> Tensor:
            squares = (warped - fixed) ** 2
            return scale * (squares if mask is None else squares * mask).sum()

        return energy


@dataclass(frozen=True)
class LNCC:
    """Local normalised cross-correlation, ``weight * integral of (1 - cc^2)``.

    Indifferent to brightness and contrast that vary slowly, hence across scanners. The window
    is Gaussian: moments are exact convolutions, done in the frequency domain.

    Attributes
    ----------
    width : float
        Standard deviation of the window in millimetres.
    weight : float
        Energy per mm^3 where the images are locally unrelated.
    floor : float
        Variance, for intensities in [0, 1], below which a window counts as flat: noise in it is
        not matched.
    """

    width: float = 4.0
    weight: float = 1.0
    floor: float = 1e-3

    def against(self, fixed: Tensor, spacing: Sequence[float], mask: Tensor | None) -> Mismatch:
        """Return the energy of a moving image against `fixed`, both of shape (X, Y, Z).

        `mask`, of the same shape, weighs the voxels; `spacing` is in millimetres.
        """
        smooth = _GaussianWindow(fixed, spacing, self.width)
        share = torch.ones_like(fixed) if mask is None else mask
        # A moment in a window is over the voxels that count there.
        coverage = smooth(share).clamp_min(1e-3)

        def mean(image: Tensor) -> Tensor:
            return smooth(image * share) / coverage

        fixed_mean = mean(fixed)
        fixed_variance = (mean(fixed * fixed) - fixed_mean**2).clamp_min(0) + self.floor
        scale = self.weight * _volume(spacing)

        def energy(warped: Tensor) -> Tensor:
            warped_mean = mean(warped)
            variance = (mean(warped * warped) - warped_mean**2).clamp_min(0) + self.floor
            covariance = mean(warped * fixed) - warped_mean * fixed_mean
            # The floor in both, so that windows that are flat in both images count as alike.
            correlation = (covariance**2 + self.floor**2) / (variance * fixed_variance)
            return scale * ((1 - correlation) * share).sum()

        return energy


class _GaussianWindow:
    """Convolution with a normalised Gaussian on the periodic grid of `like`.

    The Gaussian is sampled in space: cut off in frequency it would be negative in places, and
    variances with it.
    """

    def __init__(self, like: Tensor, spacing: Sequence[float], width: float) -> None:
        self.shape = like.shape
        gain = torch.ones((), dtype=torch.float64)
        for axis, (n, h) in enumerate(zip(like.shape, spacing, strict=True)):
            index = torch.arange(n, dtype=torch.float64)
            distance = h * torch.minimum(index, n - index)
            window = torch.exp(-((distance / width) ** 2) / 2)
            transform = torch.fft.rfft if axis == 2 else torch.fft.fft
            view = [1, 1, 1]
            view[axis] = -1
            gain = gain * transform(window / window.sum()).real.view(view)
        self.gain = gain.to(like)

    def __call__(self, image: Tensor) -> Tensor:
        smoothed: Tensor = torch.fft.irfftn(torch.fft.rfftn(image) * self.gain, s=self.shape)
        return smoothed


def _volume(spacing: Sequence[float]) -> float:
    return float(spacing[0] * spacing[1] * spacing[2])

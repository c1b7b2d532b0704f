"""How unlike two images are, as energies that matching lowers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deepreg_wf.lddmm.spectral import resample

Mismatch = Callable[[Tensor, Tensor | None], Tensor]
"""The energy of a warped moving image, (X, Y, Z), and its weights against a given fixed image."""


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

        def energy(warped: Tensor, weight: Tensor | None = None) -> Tensor:
            share = _share(mask, weight)
            squares = (warped - fixed) ** 2
            return scale * (squares if share is None else squares * share).sum()

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
        scale = self.weight * _volume(spacing)
        constant = _Moments(fixed, mask, smooth, self.floor)

        def energy(warped: Tensor, weight: Tensor | None = None) -> Tensor:
            known = constant
            if weight is not None:
                known = _Moments(fixed, _share(mask, weight), smooth, self.floor)
            warped_mean = known.average(warped)
            variance = known.average(warped * warped) - warped_mean**2
            covariance = known.average(warped * fixed) - warped_mean * known.mean
            # The floor in both, so that windows that are flat in both images count as alike.
            correlation = (covariance**2 + self.floor**2) / (
                (variance.clamp_min(0) + self.floor) * known.variance
            )
            mismatch = 1 - correlation
            return scale * (mismatch if known.share is None else mismatch * known.share).sum()

        return energy


class _Moments:
    """Local moments of the fixed image over the voxels that count."""

    def __init__(
        self, fixed: Tensor, share: Tensor | None, smooth: _GaussianWindow, floor: float
    ) -> None:
        self.share, self.smooth = share, smooth
        # Less than one at the border of the grid, too.
        coverage = smooth(torch.ones_like(fixed) if share is None else share)
        self.coverage = coverage.clamp_min(1e-3)
        self.mean = self.average(fixed)
        self.variance = (self.average(fixed * fixed) - self.mean**2).clamp_min(0) + floor

    def average(self, image: Tensor) -> Tensor:
        """Mean of an image in the window around each voxel."""
        return self.smooth(image if self.share is None else image * self.share) / self.coverage


def _share(mask: Tensor | None, weight: Tensor | None) -> Tensor | None:
    if mask is None or weight is None:
        return weight if mask is None else mask
    return mask * weight


class _GaussianWindow:
    """Correlation with a Gaussian, axis by axis; zero outside the grid.

    As small dense matrices, which are as fast as Fourier transforms and take any size.
    """

    def __init__(self, like: Tensor, spacing: Sequence[float], width: float) -> None:
        self.matrices = []
        for n, h in zip(like.shape, spacing, strict=True):
            index = torch.arange(n, dtype=torch.float64)
            window = torch.exp(-(((index.view(n, 1) - index) * h / width) ** 2) / 2)
            # What rounding would swallow is zero: products with denormal numbers take ten times
            # as long.
            window[window < torch.finfo(like.dtype).eps] = 0
            self.matrices.append((window / window.sum(dim=1).max()).to(like))

    def __call__(self, image: Tensor) -> Tensor:
        return resample(image, self.matrices)


def _volume(spacing: Sequence[float]) -> float:
    return float(spacing[0] * spacing[1] * spacing[2])

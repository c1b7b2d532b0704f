"""Dissimilarities of two images, as energies that matching minimises."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deepreg_wf.lddmm.spectral import multiply_axes

Mismatch = Callable[[Tensor, Tensor | None], Tensor]
"""Energy of a warped moving image, (X, Y, Z), and its weights against a given fixed image."""


@dataclass(frozen=True)
class SSD:
    """Sum of squared differences, ``1 / (2 sigma^2) ||I - J||^2``, integrated over mm^3.

    Attributes
    ----------
    sigma : float
        Expected difference of well aligned images, for intensities in [0, 1]
        (0.2 in Yang et al., NeuroImage 2017).
    """

    sigma: float = 0.2

    def bind(self, fixed: Tensor, spacing: Sequence[float], weight: Tensor | None) -> Mismatch:
        """Return the energy of moving images against a given fixed image.

        Parameters
        ----------
        fixed : Tensor, shape (X, Y, Z)
            The fixed image.
        spacing : sequence of 3 float
            Voxel size in millimetres.
        weight : Tensor, shape (X, Y, Z), or None
            Weights of its voxels; None for 1 everywhere.

        Returns
        -------
        callable
            Takes a warped image and its weights or None, returns the energy.
        """
        scale = _volume(spacing) / (2 * self.sigma**2)

        def energy(warped: Tensor, warped_weight: Tensor | None = None) -> Tensor:
            combined = _combine(weight, warped_weight)
            squares = (warped - fixed) ** 2
            return scale * (squares if combined is None else squares * combined).sum()

        return energy


@dataclass(frozen=True)
class LNCC:
    """Local normalised cross-correlation, ``weight * integral of (1 - cc^2)``, over mm^3.

    ``cc^2 = cov(I, J)^2 / (var(I) var(J))``, with moments in a Gaussian window around each voxel.
    It is invariant to changes of brightness and contrast that are slow against the window, such
    as those between scanners.

    Attributes
    ----------
    width : float
        Standard deviation of the window in millimetres.
    weight : float
        Energy per mm^3 where the images are locally unrelated.
    floor : float
        Variance, for intensities in [0, 1], below which a window counts as flat: noise in it is
        not matched.
    min_voxels : float
        Least standard deviation of the window in voxels, whatever `width` says: on a coarse level
        a narrower window holds hardly more than one voxel, and cannot tell a correlation.

    Notes
    -----
    The moments vary as slowly as the window is wide. Windows therefore lie at distances of up to
    one standard deviation, not at every voxel, which saves most of the time on fine grids.
    """

    width: float = 4.0
    weight: float = 1.0
    floor: float = 1e-3
    min_voxels: float = 0.0

    def bind(self, fixed: Tensor, spacing: Sequence[float], weight: Tensor | None) -> Mismatch:
        """Return the energy of moving images against a given fixed image.

        Parameters
        ----------
        fixed : Tensor, shape (X, Y, Z)
            The fixed image.
        spacing : sequence of 3 float
            Voxel size in millimetres.
        weight : Tensor, shape (X, Y, Z), or None
            Weights of its voxels; None for 1 everywhere.

        Returns
        -------
        callable
            Takes a warped image and its weights or None, returns the energy.
        """
        width = max(self.width, self.min_voxels * max(spacing))
        smooth = _GaussianWindow(fixed, spacing, width)
        scale = self.weight * _volume(spacing) * smooth.voxels_per_window
        fixed_moments = _LocalMoments(fixed, weight, smooth, self.floor)

        def energy(warped: Tensor, warped_weight: Tensor | None = None) -> Tensor:
            moments = fixed_moments
            if warped_weight is not None:
                combined = _combine(weight, warped_weight)
                moments = _LocalMoments(fixed, combined, smooth, self.floor)
            warped_mean = moments.average(warped)
            variance = moments.average(warped * warped) - warped_mean**2
            covariance = moments.average(warped * fixed) - warped_mean * moments.mean
            # The floor in numerator and denominator makes windows that are flat in both images
            # count as alike.
            correlation = (covariance**2 + self.floor**2) / (
                (variance.clamp_min(0) + self.floor) * moments.variance
            )
            mismatch = 1 - correlation
            if moments.window_weight is not None:
                mismatch = mismatch * moments.window_weight
            return scale * mismatch.sum()

        return energy


class _LocalMoments:
    """Weighted mean and variance of the fixed image in each window."""

    def __init__(
        self, fixed: Tensor, weight: Tensor | None, smooth: _GaussianWindow, floor: float
    ) -> None:
        self.weight, self.smooth = weight, smooth
        self.window_weight = None if weight is None else smooth.average_blocks(weight)
        # Less than one at the border of the grid, too.
        coverage = smooth(torch.ones_like(fixed) if weight is None else weight)
        self.coverage = coverage.clamp_min(1e-3)
        self.mean = self.average(fixed)
        self.variance = (self.average(fixed * fixed) - self.mean**2).clamp_min(0) + floor

    def average(self, image: Tensor) -> Tensor:
        """Return the mean of an image, (X, Y, Z), in each window."""
        return self.smooth(image if self.weight is None else image * self.weight) / self.coverage


def _combine(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """Multiply two sets of weights, of which None is 1 everywhere."""
    if a is None or b is None:
        return b if a is None else a
    return a * b


class _GaussianWindow:
    """Convolution with a Gaussian, axis by axis, at every n-th voxel; zero outside the grid.

    A window lies at the centre of each block of n voxels a side, where n voxels are at most one
    standard deviation. It multiplies by small dense matrices, which is as fast as Fourier
    transforms for any size.
    """

    def __init__(self, like: Tensor, spacing: Sequence[float], width: float) -> None:
        self._windows, self._blocks = [], []
        self.voxels_per_window = 1
        for n, h in zip(like.shape, spacing, strict=True):
            step = max(1, int(width / h))
            voxels = torch.arange(n, dtype=torch.float64)
            centres = torch.arange(-(-n // step), dtype=torch.float64).unsqueeze(1) * step
            lag = voxels - (centres + (step - 1) / 2)
            window = torch.exp(-((lag * h / width) ** 2) / 2)
            # Values below the rounding error become zero, for products with denormal numbers take
            # ten times as long.
            window[window < torch.finfo(like.dtype).eps] = 0
            self._windows.append((window / window.sum(dim=1).max()).to(like))
            self._blocks.append(((lag.abs() < step / 2).double() / step).to(like))
            self.voxels_per_window *= step

    def __call__(self, image: Tensor) -> Tensor:
        """Return the weighted sum of an image, (X, Y, Z), in each window."""
        return multiply_axes(image, self._windows)

    def average_blocks(self, image: Tensor) -> Tensor:
        """Return the mean of an image, (X, Y, Z), in the block of voxels of each window."""
        return multiply_axes(image, self._blocks)


def _volume(spacing: Sequence[float]) -> float:
    """Return the volume of a voxel."""
    return float(spacing[0] * spacing[1] * spacing[2])

"""Strength of ghosts, which are copies of an image that are shifted along one of its axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import fft

Image = NDArray[np.float32]
Spectrum = NDArray[np.float64]

MAX_FREQUENCY = 0.25
"""Highest spatial frequency that is used, in cycles per mm; noise prevails above it."""

RADIAL_BIN = 0.005
"""Width of the shells of the spectrum from which the mean is subtracted, in cycles per mm."""

MAX_LOGARITHM = 4.0
"""Value at which the whitened logarithm of the power is clipped, so that no zero dominates."""

CLIPPED_PERCENTILES = (0.2, 99.8)
"""Percentiles of the image at which its intensities are clipped, so that no voxel dominates."""

MAX_SPACING_MM = 2.5
"""Largest voxel size, in mm, at which ghosts are measured; with larger ones too little of the
spectrum is left."""

DOUBLING_MM = 4.0
"""Least shift of a copy that counts as a doubled image, in mm."""

GHOST_MM = 12.0
"""Least shift of a copy that counts as a ghost, in mm."""


def ghost_measures(image: Image, spacing: Sequence[float]) -> dict[str, float | None]:
    """Measure how strong a shifted copy of an image is contained in it.

    An image ``y(x) = i(x) + a i(x - s)`` with a copy of strength a has the power spectrum
    ``|Y|^2 = |I|^2 |1 + a exp(-i k s)|^2``, whose logarithm has a ripple along k. Its inverse
    Fourier transform, the cepstrum [1]_, has a peak of height a at the shift s. The logarithm is
    whitened by its mean over shells of equal frequency, which removes what all images share.

    Parameters
    ----------
    image : ndarray, shape (X, Y, Z)
        T1-weighted image, a whole head or a brain.
    spacing : sequence of 3 float
        Voxel size in mm.

    Returns
    -------
    dict of str to float or None
        Largest value of the cepstrum along the three axes of the image: ``ghost_strength`` over
        shifts from `GHOST_MM` on, ``doubling_strength`` over those from `DOUBLING_MM` to
        `GHOST_MM`. None if a voxel is larger than `MAX_SPACING_MM`, or if the image is constant
        or too small.

    References
    ----------
    .. [1] Bogert, Healy, Tukey, "The quefrency alanysis of time series for echoes", Proceedings
       of the Symposium on Time Series Analysis (1963) 209-243.
    """
    clipped = np.clip(image, *np.percentile(image, CLIPPED_PERCENTILES)).astype(np.float32)
    lengths = [n * size for n, size in zip(image.shape, spacing, strict=True)]
    values: list[float | None] = [None, None]
    if max(spacing) <= MAX_SPACING_MM and min(lengths) > 4 * GHOST_MM and np.ptp(clipped) > 0:
        profiles = _cepstra(clipped, spacing)
        values = [
            max(_largest(*each, *limits) for each in zip(profiles, spacing, strict=True))
            for limits in ((GHOST_MM, math.inf), (DOUBLING_MM, GHOST_MM))
        ]
    return dict(zip(('ghost_strength', 'doubling_strength'), values, strict=True))


def _largest(profile: Spectrum, size: float, low: float, high: float) -> float:
    """Return the largest value over the shifts from `low` to below `high`, in mm."""
    shifts = np.arange(len(profile)) * size
    return float(profile[(shifts >= low) & (shifts < high)].max())


def _cepstra(image: Image, spacing: Sequence[float]) -> list[Spectrum]:
    """Compute the whitened power cepstrum along each axis, for shifts up to half the image.

    The cepstrum c(s) along an axis needs no inverse transform in three dimensions: it is that of
    the sum of the logarithm over the other two axes.
    """
    frequencies = [
        *(fft.fftfreq(n, size) for n, size in zip(image.shape[:2], spacing[:2], strict=True)),
        np.abs(fft.rfftfreq(image.shape[2], spacing[2])),
    ]
    low = [np.flatnonzero(np.abs(each) < MAX_FREQUENCY) for each in frequencies]
    power = np.abs(fft.rfftn(image)[np.ix_(*low)]).astype(np.float64) ** 2
    grids = np.meshgrid(*(f[i] for f, i in zip(frequencies, low, strict=True)), indexing='ij')
    radius = np.sqrt(sum(grid**2 for grid in grids))
    used = radius < MAX_FREQUENCY
    logarithm = np.zeros(power.shape)
    logarithm[used] = _whiten(power[used], radius[used])
    # All but the first and, of an even number, the last plane stand for two of the whole spectrum.
    twice = np.where((low[2] > 0) & (2 * low[2] != image.shape[2]), 2.0, 1.0)
    logarithm *= twice
    total = float((used * twice).sum())
    cepstra = []
    for axis, (n, kept) in enumerate(zip(image.shape, low, strict=True)):
        others = tuple({0, 1, 2} - {axis})
        summed = np.zeros(n)
        summed[kept] = logarithm.sum(axis=others)
        cepstra.append(fft.fft(summed).real[: n // 2 + 1] / total)
    return cepstra


def _whiten(power: Spectrum, radius: Spectrum) -> Spectrum:
    """Subtract from the logarithm of the power its mean over shells of equal frequency."""
    logarithm = np.log(power + 1e-12 * power.max())
    shell = (radius / RADIAL_BIN).astype(int)
    means = np.bincount(shell, logarithm) / np.maximum(np.bincount(shell), 1)
    whitened: Spectrum = np.clip(logarithm - means[shell], -MAX_LOGARITHM, MAX_LOGARITHM)
    return whitened

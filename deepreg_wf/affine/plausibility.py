"""Plausibility checks of an affine between a brain and the template."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deepreg_wf.affine.align import Alignment, Image, align
from deepreg_wf.errors import InputError

MINIMUM_SIMILARITY = 0.55
"""Least correlation of an aligned brain with the template; see `similarity`."""

MINIMUM_OVERLAP = 0.85
"""Least Dice coefficient of the masks; whole brains reach 0.92 to 0.97."""

SCALE_LIMITS = (0.5, 1.8)
"""Limits of the scale factors of a brain relative to the template, along its principal axes."""

VOLUME_LIMITS = (0.3, 3.0)
"""Limits of the factor of volume of a brain relative to the template."""

MAXIMUM_ANISOTROPY = 1.6
"""Largest ratio of two principal scale factors; shears are included."""


def check_alignment(alignment: Alignment) -> None:
    """Check that an affine can be one between two brains.

    Parameters
    ----------
    alignment : Alignment
        Result of the affine registration.

    Raises
    ------
    InputError
        If the brains are unlike, or their sizes and shapes differ too much; without a path.
    """
    reason = _implausibility(alignment)
    if reason is not None:
        raise InputError(
            f'the affine registration with the template failed ({reason})',
            advice='check the brain mask and that it is a T1-weighted image of a whole brain',
        )


def check_brain(moving: Image, fixed: Image) -> NDArray[np.float64]:
    """Check that an extracted brain resembles the template.

    A quick affine registration refuses images that show no brain, half a brain, or a brain that is
    not T1-weighted.

    Parameters
    ----------
    moving : tuple
        Intensities, mask and grid of the extracted brain.
    fixed : tuple
        Intensities, mask and grid of the template.

    Returns
    -------
    ndarray, shape (4, 4)
        Affine, RAS mm of the template to RAS mm of the brain.

    Raises
    ------
    InputError
        If the affine is implausible; without a path.
    """
    alignment = align(moving, fixed, sloppy=True)
    reason = _implausibility(alignment)
    if reason is not None:
        raise InputError(
            f'the extracted brain is not like the template ({reason})',
            advice='check that it is a T1-weighted image of a whole head, or give a brain mask '
            'with --derivatives',
        )
    return alignment.affine


def _implausibility(alignment: Alignment) -> str | None:
    """Return the reason why an alignment is implausible, None if it is plausible."""
    # Negated, so that NaN counts as implausible.
    if not alignment.similarity >= MINIMUM_SIMILARITY:
        return f'correlation {alignment.similarity:.2f}, less than {MINIMUM_SIMILARITY:g}'
    if alignment.overlap < MINIMUM_OVERLAP:
        return f'the masks overlap by {alignment.overlap:.2f}, less than {MINIMUM_OVERLAP:g}'
    linear: NDArray[np.float64] = alignment.affine[:3, :3]
    volume = float(np.linalg.det(linear))
    if not VOLUME_LIMITS[0] <= volume <= VOLUME_LIMITS[1]:
        return f'the volumes differ by a factor of {volume:.2g}'
    scales = np.linalg.svd(linear, compute_uv=False)
    if scales.min() < SCALE_LIMITS[0] or scales.max() > SCALE_LIMITS[1]:
        return f'the sizes differ by factors of {scales.min():.2g} to {scales.max():.2g}'
    if scales.max() > MAXIMUM_ANISOTROPY * scales.min():
        return f'the brain is stretched by {scales.max() / scales.min():.2g} in one direction'
    return None

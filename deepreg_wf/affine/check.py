"""Whether an affine between two brains can be believed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

SIMILARITY = 0.75
"""Least correlation of an aligned brain with the template, after `similarity.SMOOTHING_MM`."""

SCALE = (0.5, 1.8)
"""Factors by which a brain can be smaller or larger than the template in any direction."""

VOLUME = (0.3, 3.0)
"""Factors by which its volume can be."""

ANISOTROPY = 1.6
"""Largest ratio between the factors of two directions, shears included."""


def check_alignment(affine: NDArray[np.float64], similarity: float) -> None:
    """Refuse an affine that no two brains have between them.

    Parameters
    ----------
    affine : ndarray, shape (4, 4)
        Of the registration, in mm.
    similarity : float
        Correlation of the aligned brains.

    Raises
    ------
    InputError
        If the brains are not alike, or their sizes and shapes too different; without the name of
        a file.
    """
    doubt = _doubt(affine, similarity)
    if doubt:
        raise InputError(
            f'the affine registration with the template failed ({doubt}); check the brain mask '
            'and that the image is of a whole brain.'
        )


def _doubt(affine: NDArray[np.float64], similarity: float) -> str:
    if similarity < SIMILARITY:
        return f'correlation {similarity:.2f}, less than {SIMILARITY:g}'
    volume = float(np.linalg.det(affine[:3, :3]))
    if not VOLUME[0] <= volume <= VOLUME[1]:
        return f'volumes differ by a factor of {volume:.2g}'
    scales = np.linalg.svd(affine[:3, :3], compute_uv=False)
    if scales.min() < SCALE[0] or scales.max() > SCALE[1]:
        return f'sizes differ by factors of {scales.min():.2g} to {scales.max():.2g}'
    if scales.max() > ANISOTROPY * scales.min():
        return f'it stretches by {scales.max() / scales.min():.2g} in one direction'
    return ''

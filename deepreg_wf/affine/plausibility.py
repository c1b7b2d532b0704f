"""Whether an affine between two brains can be believed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deepreg_wf.affine.align import Alignment, Image, align
from deepreg_wf.errors import InputError

SIMILARITY = 0.55
"""Least correlation of an aligned brain with the template; see `similarity`."""

OVERLAP = 0.85
"""Least Dice coefficient of their masks; it is 0.92 to 0.97 for whole brains."""

SCALE = (0.5, 1.8)
"""Factors by which a brain can be smaller or larger than the template in any direction."""

VOLUME = (0.3, 3.0)
"""Factors by which its volume can be."""

ANISOTROPY = 1.6
"""Largest ratio between the factors of two directions, shears included."""


def check_alignment(found: Alignment) -> None:
    """Refuse an affine that no two brains have between them.

    Parameters
    ----------
    found : Alignment

    Raises
    ------
    InputError
        If the brains are not alike, or their sizes and shapes too different; without the name of
        a file.
    """
    doubt = _doubt(found)
    if doubt:
        raise InputError(
            f'the affine registration with the template failed ({doubt}); check the brain mask '
            'and that it is a T1-weighted image of a whole brain.'
        )


def check_brain(moving: Image, fixed: Image) -> NDArray[np.float64]:
    """Refuse what cannot be aligned with the template, be it no brain, half of one, or no T1w.

    Parameters
    ----------
    moving : tuple
        Intensities, mask and grid of what was taken for a brain.
    fixed : tuple
        The same of the template.

    Returns
    -------
    ndarray, shape (4, 4)
        The affine: RAS mm of the template to RAS mm of the brain.

    Raises
    ------
    InputError
        Without the name of a file.
    """
    found = align(moving, fixed, sloppy=True)
    doubt = _doubt(found)
    if doubt:
        raise InputError(
            f'what was taken for the brain is not like the template ({doubt}); check that it is '
            'a T1-weighted image of a whole head, or give a brain mask by --derivatives.'
        )
    return found.affine


def _doubt(found: Alignment) -> str:
    if not found.similarity >= SIMILARITY:
        return f'correlation {found.similarity:.2f}, less than {SIMILARITY:g}'
    if found.overlap < OVERLAP:
        return f'the masks overlap by {found.overlap:.2f}, less than {OVERLAP:g}'
    linear: NDArray[np.float64] = found.affine[:3, :3]
    volume = float(np.linalg.det(linear))
    if not VOLUME[0] <= volume <= VOLUME[1]:
        return f'volumes differ by a factor of {volume:.2g}'
    scales = np.linalg.svd(linear, compute_uv=False)
    if scales.min() < SCALE[0] or scales.max() > SCALE[1]:
        return f'sizes differ by factors of {scales.min():.2g} to {scales.max():.2g}'
    if scales.max() > ANISOTROPY * scales.min():
        return f'it stretches by {scales.max() / scales.min():.2g} in one direction'
    return ''

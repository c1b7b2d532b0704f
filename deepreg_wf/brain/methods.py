"""Brain extraction: what to do, and the table of what can do it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..spatial import VoxelGrid
from . import deepbet
from .mask import BRAIN_ML, Mask, check_volume, clean
from .recognise import background_value, examine

ALREADY_EXTRACTED = 'already-extracted'
PRECOMPUTED = 'precomputed'
NONE = 'none'

MODES = ('auto', 'force', 'skip')

ANYTHING_ML = (100.0, float('inf'))
"""Volumes in mL that are taken as they are: what can be registered at all."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to extract a brain.

    Attributes
    ----------
    extract : callable
        ``extract(data, grid, num_threads=..., device=...)`` gives the mask of the brain, shape
        (X, Y, Z), of bool, on the grid of the image; it raises `InputError`, without the name of
        a file, where it finds none.
    citation : str
        Its name with the key of its publication, for the methods text.
    """

    extract: Callable[..., Mask]
    citation: str


METHODS: dict[str, Method] = {
    'deepbet': Method(extract=deepbet.extract, citation='*deepbet* [@deepbet]'),
}
"""What ``--skull-strip-method`` can name; 'auto' takes the first. One entry adds a method."""


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """A brain mask and how it came about.

    Attributes
    ----------
    mask : ndarray of bool, shape (X, Y, Z)
    method : str
        A key of `METHODS`, `ALREADY_EXTRACTED` or `NONE`.
    remark : str
        Why, in words.
    """

    mask: Mask
    method: str
    remark: str


def extract_brain(
    data: NDArray[np.floating],
    grid: VoxelGrid,
    *,
    mode: str = 'auto',
    method: str = 'auto',
    num_threads: int = 1,
    device: str = 'cpu',
) -> Extraction:
    """Find the brain in an image of a head, or keep a brain that was extracted before.

    Parameters
    ----------
    data : ndarray, shape (X, Y, Z)
        T1-weighted image, finite.
    grid : VoxelGrid
    mode : {'auto', 'force', 'skip'}
        Strip what is not recognised as a brain already, strip in any case, or take the image as
        it is: everything but the background.
    method : str
        What strips: a key of `METHODS`, or 'auto' for the first.
    num_threads : int
        Threads on the CPU.
    device : str
        ``'cpu'``, ``'cuda'`` or ``'cuda:N'``.

    Returns
    -------
    Extraction

    Raises
    ------
    InputError
        If no mask of a plausible size comes out; without the name of a file.
    ValueError
        If there is no such mode or method.
    """
    if mode not in MODES:
        raise ValueError(f'mode must be one of {", ".join(MODES)}, not {mode!r}')
    method = choose_method(method)
    limits, remark = BRAIN_ML, 'stripping was asked for'
    if mode == 'skip':
        method, limits, remark = NONE, ANYTHING_ML, 'it was to be taken as it is'
    if mode == 'auto':
        evidence = examine(data, grid)
        remark = f'taken for a head: {"; ".join(evidence.objections)}'
        if evidence.extracted:
            method, remark = ALREADY_EXTRACTED, 'nothing speaks against an extracted brain'
    if method in METHODS:
        found = METHODS[method].extract(data, grid, num_threads=num_threads, device=device)
    else:
        found = data != background_value(data)
    mask = clean(found)
    check_volume(mask, grid, limits)
    return Extraction(mask=mask, method=method, remark=remark)


def choose_method(method: str) -> str:
    """Resolve 'auto'.

    Parameters
    ----------
    method : str
        A key of `METHODS`, or 'auto'.

    Returns
    -------
    str
        A key of `METHODS`.

    Raises
    ------
    ValueError
        If there is no such method.
    """
    if method == 'auto':
        return next(iter(METHODS))
    if method not in METHODS:
        raise ValueError(f"method must be 'auto' or one of {', '.join(METHODS)}, not {method!r}")
    return method

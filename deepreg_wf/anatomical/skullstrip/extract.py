"""Brain extraction: what to do, and the table of what can do it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepreg_wf.anatomical.mask import check_mask, check_volume
from deepreg_wf.anatomical.skullstrip import deepbet, hdbet, synthstrip
from deepreg_wf.anatomical.skullstrip import template_match as atlas
from deepreg_wf.anatomical.skullstrip.detect import background_value, examine
from deepreg_wf.errors import InputError
from deepreg_wf.spatial import VoxelGrid
from deepreg_wf.spatial.isotropic import righted
from deepreg_wf.spatial.masks import Mask, clean

ALREADY_EXTRACTED = 'already-extracted'
PRECOMPUTED = 'precomputed'
NONE = 'none'

MODES = ('auto', 'force', 'skip')

ANYTHING_ML = (100.0, float('inf'))
"""Volumes in mL that are taken as they are: what can be registered at all."""


PADDING = 0.5
"""Distance of a background below the range of the intensities, in ranges, that is no air's."""

Affine = NDArray[np.float64]

Check = Callable[[Mask], Affine | None]
"""Raises `InputError`, without the name of a file, where a mask cannot be of a brain.

Gives the affine, shape (4, 4), RAS mm of a template to RAS mm of the brain, if it knows that.
"""


def _nothing(model: Path | None) -> str:
    return ''


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to extract a brain.

    Attributes
    ----------
    extract : callable
        ``extract(data, grid, num_threads=..., device=..., model=...)`` gives the mask of the
        brain, shape (X, Y, Z), of bool, on the grid of the image; it raises `InputError`, without
        the name of a file, where it finds none. `model` is a file with weights, or None.
    citation : str
        Its name with the key of its publication, for the methods text.
    missing : callable
        ``missing(model)`` says in a sentence what it lacks to run; '' if nothing. 'auto' leaves
        out what lacks something.
    """

    extract: Callable[..., Mask]
    citation: str
    missing: Callable[[Path | None], str] = _nothing


METHODS: dict[str, Method] = {
    'deepbet': Method(extract=deepbet.extract, citation='*deepbet* [@deepbet]'),
    'hdbet': Method(extract=hdbet.extract, citation='*HD-BET* [@hdbet]', missing=hdbet.missing),
    'synthstrip': Method(
        extract=synthstrip.extract,
        citation='*SynthStrip* [@synthstrip]',
        missing=synthstrip.missing,
    ),
    'template': Method(extract=atlas.extract, citation='the mask of the MNI152 brain [@mni2009]'),
}
"""What ``--skull-strip-method`` can name; 'auto' tries them in this order. One entry adds one."""


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """A brain mask and how it came about.

    Attributes
    ----------
    mask : ndarray of bool, shape (X, Y, Z)
        Not empty, whatever the doubt.
    method : str
        A key of `METHODS`, `ALREADY_EXTRACTED` or `NONE`.
    remark : str
        Why, in words.
    doubt : str
        Why it cannot be of a brain, in words; empty where nothing speaks against it.
    """

    mask: Mask
    method: str
    remark: str
    doubt: str = ''

    @property
    def reason(self) -> str:
        """The doubt without the advice, which follows a semicolon in our errors."""
        return self.doubt.partition(';')[0]


def extract_brain(
    data: NDArray[np.floating],
    grid: VoxelGrid,
    *,
    mode: str = 'auto',
    method: str = 'auto',
    model: Path | None = None,
    check: Check | None = None,
    num_threads: int = 1,
    device: str = 'cpu',
) -> Extraction:
    """Find the brain in an image of a head, or keep a brain that was extracted before.

    Where a mask cannot be of a brain, the next method has its turn. Where what is found shows that
    the header is wrong about which way is up, the head is stripped again the right way up.

    Parameters
    ----------
    data : ndarray, shape (X, Y, Z)
        T1-weighted image, finite.
    grid : VoxelGrid
    mode : {'auto', 'force', 'skip'}
        Strip what is not recognised as a brain already, strip in any case, or take the image as
        it is: everything but the background.
    method : str
        What strips: a key of `METHODS`, or 'auto' for one after the other.
    model : Path, optional
        Weights of a method that brings none.
    check : callable, optional
        Looks at a mask, beside its volume and shape, and raises `InputError`; see `Check`.
    num_threads : int
        Threads on the CPU.
    device : str
        ``'cpu'``, ``'cuda'`` or ``'cuda:N'``.

    Returns
    -------
    Extraction
        If no mask passed, the first one that was found, and why not.

    Raises
    ------
    InputError
        If the method lacks something.
    ValueError
        If there is no such mode or method.
    """
    if mode not in MODES:
        raise ValueError(f'mode must be one of {", ".join(MODES)}, not {mode!r}')
    names = choose_methods(method, model)
    background = background_value(data)
    foreground = data != background
    if mode == 'skip':
        return _as_it_is(clean(foreground), grid)
    remark = 'stripping was asked for'
    if mode == 'auto':
        evidence = examine(data, grid)
        remark = f'taken for a head: {"; ".join(evidence.objections)}'
        if evidence.extracted:
            names = (ALREADY_EXTRACTED, *names)
            remark = 'nothing speaks against an extracted brain'
    strip = _Stripper(
        data=_without_padding(data, foreground, background),
        foreground=foreground,
        check=check,
        options={'num_threads': num_threads, 'device': device, 'model': model},
    )
    found, affine = strip.try_all(names, grid, remark)
    if affine is None or found.method == ALREADY_EXTRACTED:
        return found
    upright = righted(grid, affine)
    if upright.orientation == grid.orientation:
        return found
    remark += f'; its header says {grid.orientation}, what is in it {upright.orientation}'
    again, _ = strip.try_all(choose_methods(method, model), upright, remark)
    return found if again.doubt else again


@dataclass(frozen=True, kw_only=True)
class _Stripper:
    """An image, and what methods and masks of it have to do with.

    Attributes
    ----------
    data : ndarray, shape (X, Y, Z)
    foreground : ndarray of bool, shape (X, Y, Z)
        All but the background.
    check : callable, optional
    options : dict
        For the methods.
    """

    data: NDArray[np.floating]
    foreground: Mask
    check: Check | None
    options: dict[str, Any]

    def try_all(
        self, names: Sequence[str], grid: VoxelGrid, remark: str
    ) -> tuple[Extraction, Affine | None]:
        """First mask that passes, and the affine of the check; if none does, the first of all."""
        failed: list[Extraction] = []
        for name in names:
            mask = self.foreground
            try:
                if name in METHODS:
                    mask = METHODS[name].extract(self.data, grid, **self.options)
                mask = check_mask(mask, grid)
                affine = self.check(mask) if self.check else None
            except (InputError, RuntimeError) as error:  # the latter: what other programs die of
                mask = clean(mask if mask.any() else self.foreground)
                failed.append(Extraction(mask=mask, method=name, remark='', doubt=str(error)))
                continue
            before = [f'{fail.method} failed: {fail.reason}' for fail in failed]
            words = '; '.join([remark, *before])
            return Extraction(mask=mask, method=name, remark=words), affine
        return replace(failed[0], remark=remark, doubt=_sum_up(failed)), None


def _without_padding(
    data: NDArray[np.floating], foreground: Mask, background: float
) -> NDArray[np.floating]:
    """Raise a background that lies as far below all intensities as if it were none, as -32768."""
    if not foreground.any():
        return data
    low, high = (float(end) for end in np.percentile(data[foreground], [0.1, 99.9]))
    if background >= low - PADDING * (high - low):
        return data
    return np.where(foreground, data, np.float32(low))


def choose_methods(method: str, model: Path | None = None) -> tuple[str, ...]:
    """Resolve 'auto'.

    Parameters
    ----------
    method : str
        A key of `METHODS`, or 'auto'.
    model : Path, optional
        Weights of a method that brings none.

    Returns
    -------
    tuple of str
        Keys of `METHODS`, in the order in which they are tried.

    Raises
    ------
    InputError
        If the method lacks something.
    ValueError
        If there is no such method.
    """
    if method == 'auto':
        return tuple(name for name, entry in METHODS.items() if not entry.missing(model))
    if method not in METHODS:
        raise ValueError(f"method must be 'auto' or one of {', '.join(METHODS)}, not {method!r}")
    missing = METHODS[method].missing(model)
    if missing:
        raise InputError(missing)
    return (method,)


def _sum_up(failed: Sequence[Extraction]) -> str:
    """Say once, of all methods, what was wrong and what to do."""
    if len(failed) == 1:
        return failed[0].doubt
    reasons = ', '.join(f'{fail.method}: {fail.reason}' for fail in failed)
    return (
        f'no method found a brain in it ({reasons}); check that it is a T1-weighted image of a '
        'whole head, or give a brain mask by --derivatives.'
    )


def _as_it_is(mask: Mask, grid: VoxelGrid) -> Extraction:
    """Take an image as its owner says that it is to be taken."""
    doubt = ''
    try:
        check_volume(mask, grid, ANYTHING_ML)
    except InputError as error:
        doubt = str(error)
    return Extraction(mask=mask, method=NONE, remark='it was to be taken as it is', doubt=doubt)

"""Brain extraction: the registry of methods and the fallback from one to the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepreg_wf.anatomical.mask import check_volume, clean_and_check_mask
from deepreg_wf.anatomical.skullstrip import deepbet, hdbet, synthstrip, template_match
from deepreg_wf.anatomical.skullstrip.detect import background_value, detect_extracted
from deepreg_wf.errors import InputError
from deepreg_wf.spatial import VoxelGrid
from deepreg_wf.spatial.isotropic import undo_rotation
from deepreg_wf.spatial.masks import Mask, clean_mask

ALREADY_EXTRACTED = 'already-extracted'
PRECOMPUTED = 'precomputed'
NONE = 'none'

MODES = ('auto', 'force', 'skip')
"""Values of ``--skull-strip``."""

REGISTRABLE_VOLUME_ML = (100.0, None)
"""Limits of the volume of an image that is taken as it is, in mL."""

PADDING_DISTANCE = 0.5
"""Distance of a padding value below the intensities, as a share of their range.

Values so far below the others, such as -32768, are not air.
"""

AffineMatrix = NDArray[np.float64]

MaskCheck = Callable[[Mask], AffineMatrix | None]
"""Check that raises `InputError`, without a path, for a mask that cannot be of a brain.

Returns the affine, RAS mm of a template to RAS mm of the brain, if the check computes one.
"""


def _nothing_missing(model: Path | None) -> InputError | None:
    return None


@dataclass(frozen=True, kw_only=True)
class Method:
    """Method of brain extraction.

    Attributes
    ----------
    extract : callable
        ``extract(data, grid, num_threads=..., device=..., model=...)`` returns the brain mask on
        the grid of the image, ndarray of bool, shape (X, Y, Z). It raises `InputError`, without a
        path, where it finds no brain. `model` is a file with weights, or None.
    citation : str
        Name with the key of its publication, for the methods text.
    missing : callable
        ``missing(model)`` returns an `InputError` that says which package or file the method
        lacks, None if it can run. The choice 'auto' leaves out methods that cannot run.
    """

    extract: Callable[..., Mask]
    citation: str
    missing: Callable[[Path | None], InputError | None] = _nothing_missing


METHODS: dict[str, Method] = {
    'deepbet': Method(extract=deepbet.extract, citation='*deepbet* [@deepbet]'),
    'hdbet': Method(extract=hdbet.extract, citation='*HD-BET* [@hdbet]', missing=hdbet.missing),
    'synthstrip': Method(
        extract=synthstrip.extract,
        citation='*SynthStrip* [@synthstrip]',
        missing=synthstrip.missing,
    ),
    'template': Method(
        extract=template_match.extract, citation='the mask of the MNI152 brain [@mni2009]'
    ),
}
"""Values of ``--skull-strip-method``, in the order in which 'auto' tries them.

A new entry, here and in `deepreg_wf.settings.SKULL_STRIP_METHODS`, adds a method.
"""


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """Brain mask and how it was made.

    Attributes
    ----------
    mask : ndarray of bool, shape (X, Y, Z)
        Brain mask, not empty, also where it is implausible.
    method : str
        A key of `METHODS`, `ALREADY_EXTRACTED`, `PRECOMPUTED` or `NONE`.
    remark : str
        Reason for the choice of the method, for the log.
    error : InputError or None
        Error, without a path, if the mask cannot be of a brain.
    """

    mask: Mask
    method: str
    remark: str
    error: InputError | None = None


def extract_brain(
    data: NDArray[np.floating],
    grid: VoxelGrid,
    *,
    mode: str = 'auto',
    method: str = 'auto',
    model: Path | None = None,
    check: MaskCheck | None = None,
    num_threads: int = 1,
    device: str = 'cpu',
) -> Extraction:
    """Extract the brain of a head, or keep a brain that was extracted before.

    If a mask is implausible, the next method is tried. If the affine of the check shows that the
    orientation in the header is wrong, the extraction is repeated in the right orientation.

    Parameters
    ----------
    data : ndarray, shape (X, Y, Z)
        T1-weighted image, finite.
    grid : VoxelGrid
        Grid of the image.
    mode : {'auto', 'force', 'skip'}
        'auto' extracts unless the image shows an extracted brain, 'force' always extracts, 'skip'
        takes everything but the background as brain.
    method : str
        A key of `METHODS`, or 'auto' for one after the other.
    model : Path, optional
        Weights of a method whose package has none.
    check : callable, optional
        Check of a mask in addition to its volume and shape; see `MaskCheck`.
    num_threads : int
        Threads on the CPU.
    device : str
        ``'cpu'``, ``'cuda'`` or ``'cuda:N'``.

    Returns
    -------
    Extraction
        The first plausible mask; if there is none, the first mask, with an error.

    Raises
    ------
    InputError
        If the method lacks a package or file.
    ValueError
        If the mode or method is unknown.
    """
    if mode not in MODES:
        raise ValueError(f'mode must be one of {", ".join(MODES)}, not {mode!r}')
    names = choose_methods(method, model)
    background = background_value(data)
    foreground = data != background
    if mode == 'skip':
        return _keep_foreground(clean_mask(foreground), grid)
    remark = 'extraction was requested'
    if mode == 'auto':
        evidence = detect_extracted(data, grid)
        remark = f'the image shows a head: {"; ".join(evidence.failed_criteria)}'
        if evidence.extracted:
            names = (ALREADY_EXTRACTED, *names)
            remark = 'the image shows an extracted brain'
    extractor = _Extractor(
        data=_raise_padding(data, foreground, background),
        foreground=foreground,
        check=check,
        options={'num_threads': num_threads, 'device': device, 'model': model},
    )
    extraction, affine = extractor.try_methods(names, grid, remark)
    if affine is None or extraction.method == ALREADY_EXTRACTED:
        return extraction
    corrected_grid = undo_rotation(grid, affine)
    if corrected_grid.orientation == grid.orientation:
        return extraction
    remark += (
        f'; the orientation is {grid.orientation} in the header and '
        f'{corrected_grid.orientation} in the image'
    )
    repeated, _ = extractor.try_methods(choose_methods(method, model), corrected_grid, remark)
    return extraction if repeated.error else repeated


@dataclass(frozen=True, kw_only=True)
class _Extractor:
    """Image to which methods of brain extraction are applied.

    Attributes
    ----------
    data : ndarray, shape (X, Y, Z)
        Image without padding values.
    foreground : ndarray of bool, shape (X, Y, Z)
        Everything but the background.
    check : callable or None
        Additional check of the masks.
    options : dict
        Keyword arguments of the methods.
    """

    data: NDArray[np.floating]
    foreground: Mask
    check: MaskCheck | None
    options: dict[str, Any]

    def try_methods(
        self, names: Sequence[str], grid: VoxelGrid, remark: str
    ) -> tuple[Extraction, AffineMatrix | None]:
        """Return the first plausible mask and the affine of its check.

        If no mask is plausible, return the first one with an error that covers all methods.
        """
        failed: list[tuple[Extraction, InputError]] = []
        for name in names:
            mask = self.foreground
            try:
                if name in METHODS:
                    mask = METHODS[name].extract(self.data, grid, **self.options)
                mask = clean_and_check_mask(mask, grid)
                affine = self.check(mask) if self.check else None
            except (InputError, RuntimeError) as raised:
                # Failures in other software are a RuntimeError.
                error = raised if isinstance(raised, InputError) else InputError(str(raised))
                mask = clean_mask(mask if mask.any() else self.foreground)
                failed.append((Extraction(mask=mask, method=name, remark=remark), error))
                continue
            failures = [f'{other.method} failed: {error.problem}' for other, error in failed]
            remark = '; '.join([remark, *failures])
            return Extraction(mask=mask, method=name, remark=remark), affine
        return replace(failed[0][0], error=_combine_errors(failed)), None


def _raise_padding(
    data: NDArray[np.floating], foreground: Mask, background: float
) -> NDArray[np.floating]:
    """Replace a background value that lies far below all intensities by the lowest of them."""
    if not foreground.any():
        return data
    low, high = (float(end) for end in np.percentile(data[foreground], [0.1, 99.9]))
    if background >= low - PADDING_DISTANCE * (high - low):
        return data
    return np.where(foreground, data, np.float32(low))


def choose_methods(method: str, model: Path | None = None) -> tuple[str, ...]:
    """Return the methods to try, in their order.

    Parameters
    ----------
    method : str
        A key of `METHODS`, or 'auto' for all that can run.
    model : Path, optional
        Weights of a method whose package has none.

    Returns
    -------
    tuple of str
        Keys of `METHODS`.

    Raises
    ------
    InputError
        If the method lacks a package or file.
    ValueError
        If the method is unknown.
    """
    if method == 'auto':
        return tuple(name for name, entry in METHODS.items() if entry.missing(model) is None)
    if method not in METHODS:
        raise ValueError(f"method must be 'auto' or one of {', '.join(METHODS)}, not {method!r}")
    missing = METHODS[method].missing(model)
    if missing is not None:
        raise missing
    return (method,)


def _combine_errors(failed: Sequence[tuple[Extraction, InputError]]) -> InputError:
    """Combine the errors of all methods into one."""
    if len(failed) == 1:
        return failed[0][1]
    reasons = ', '.join(f'{extraction.method}: {error.problem}' for extraction, error in failed)
    return InputError(
        f'no method found a brain in it ({reasons})',
        advice='check that it is a T1-weighted image of a whole head, or give a brain mask with '
        '--derivatives',
    )


def _keep_foreground(mask: Mask, grid: VoxelGrid) -> Extraction:
    """Take the foreground of an image as its brain."""
    error = None
    try:
        check_volume(mask, grid, REGISTRABLE_VOLUME_ML)
    except InputError as raised:
        error = raised
    return Extraction(
        mask=mask, method=NONE, remark='the image is taken as it is, as requested', error=error
    )

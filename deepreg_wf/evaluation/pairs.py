"""A pair of label images with the transform between them: from a table, through the maths."""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean

import numpy as np

from deepreg_wf.errors import InputError
from deepreg_wf.evaluation.maps import (
    Array,
    Step,
    inverse_error,
    jacobian_determinant,
    load_map,
    regularity,
)
from deepreg_wf.evaluation.overlap import Labels, Overlap, label_overlaps, read_labels
from deepreg_wf.evaluation.tables import Row
from deepreg_wf.spatial import Chain, VoxelGrid

IDENTITY = 'identity'
"""Word in the place of a file for the map that moves nothing."""

NOT_GIVEN = 'n/a'

_REQUIRED = ('moving_labels', 'fixed_labels', 'transform')
# Not within the brackets of [FILE,1].
_SEPARATOR = re.compile(r'[;,](?![^\[\]]*\])')
_FLAGGED = re.compile(r'\[\s*(?P<path>.+?)\s*,\s*(?P<flag>[01])\s*\]')


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two label images and what maps the one on the other, as a person wrote it.

    Attributes
    ----------
    name, method : str
        What the pair and the tool that made the transform are called in the tables.
    moving_labels, fixed_labels : str
        Files.
    transform : sequence of str
        Files, ``[FILE,1]`` for the inverse of an affine, or ``identity``. It resamples the
        moving image on the fixed one; the last is the first to be applied to the image, as by
        ``antsApplyTransforms``.
    inverse : sequence of str
        The same for the opposite direction; empty if there is none.
    folder : Path
        What paths are relative to.
    """

    name: str
    method: str = NOT_GIVEN
    moving_labels: str
    fixed_labels: str
    transform: Sequence[str]
    inverse: Sequence[str] = ()
    folder: Path = field(default_factory=Path)


@dataclass(frozen=True)
class Evaluation:
    """What came out for a pair.

    Attributes
    ----------
    figures : dict
        Its line of ``pairs.tsv``.
    overlaps : list of dict
        Its lines of ``overlap.tsv``.
    """

    figures: Row
    overlaps: list[Row]


def pair_name(moving_labels: str, fixed_labels: str) -> str:
    """Name of a pair that was given none, of the names of its files."""
    moving, fixed = (Path(path).name.split('.')[0] for path in (moving_labels, fixed_labels))
    return f'{moving} to {fixed}'


def read_pairs(table: Path) -> list[Pair]:
    """Read a table of pairs.

    Parameters
    ----------
    table : Path
        Columns separated by tabs: ``moving_labels``, ``fixed_labels``, ``transform`` and, if
        wanted, ``inverse``, ``name`` and ``method``; others are ignored.

    Returns
    -------
    list of Pair
        In the order of the table. Cells that are needed may still be empty.

    Raises
    ------
    InputError
        If there is no such table, it lacks a column or has no line, or two lines would bear
        the same name and method.
    """
    try:
        lines = table.read_text(encoding='utf-8-sig').splitlines()
    except (OSError, UnicodeDecodeError):
        raise InputError(
            f'{table}: it cannot be read as a text file; give a table of pairs.'
        ) from None
    reader = csv.DictReader(lines, delimiter='\t', quoting=csv.QUOTE_NONE, restval='')
    missing = [name for name in _REQUIRED if name not in (reader.fieldnames or ())]
    if missing:
        raise InputError(
            f'{table}: it has no column {" and no ".join(missing)}; '
            'its first line has to name the columns, separated by tabs.'
        )
    pairs = [_read_pair(cells, table, reader.line_num) for cells in reader]
    if not pairs:
        raise InputError(f'{table}: it has no line below its header; add one for each pair.')
    _check_distinct(pairs, table)
    return pairs


def _read_pair(cells: Mapping[str, str], table: Path, line: int) -> Pair:
    def cell(column: str) -> str:
        value = (cells.get(column) or '').strip()
        return '' if value == NOT_GIVEN else value

    moving, fixed = cell('moving_labels'), cell('fixed_labels')
    unnamed = pair_name(moving, fixed) if moving and fixed else f'{table.name}, line {line}'
    return Pair(
        name=cell('name') or unnamed,
        method=cell('method') or NOT_GIVEN,
        moving_labels=moving,
        fixed_labels=fixed,
        transform=_words(cell('transform')),
        inverse=_words(cell('inverse')),
        folder=table.parent,
    )


def _words(cell: str) -> list[str]:
    return [word.strip() for word in _SEPARATOR.split(cell) if word.strip()]


def _check_distinct(pairs: Sequence[Pair], table: Path) -> None:
    seen = set()
    for pair in pairs:
        if (pair.name, pair.method) in seen:
            raise InputError(
                f'{table}: two lines have the name "{pair.name}" and the method "{pair.method}"; '
                'tell them apart by the columns name and method.'
            )
        seen.add((pair.name, pair.method))


def evaluate(pair: Pair, of_interest: Collection[int] = ()) -> Evaluation:
    """Evaluate a pair.

    Parameters
    ----------
    pair : Pair
    of_interest : collection of int
        Labels to look at, the others count as background; all if it is empty.

    Raises
    ------
    InputError
        If a file of the pair is not usable, or its images have no label in common.
    """
    for column in _REQUIRED:
        if not getattr(pair, column):
            raise InputError(f'{pair.name}: it has no {column}; fill in the cell.')
    moving_path, fixed_path = pair.folder / pair.moving_labels, pair.folder / pair.fixed_labels
    moving, moving_grid = read_labels(moving_path, of_interest)
    fixed, grid = read_labels(fixed_path, of_interest)
    if min(grid.shape) < 2:
        raise InputError(f'{fixed_path}: it has shape {grid.shape}, a slice; give a volume.')
    if not np.intersect1d(moving, fixed).any():
        raise InputError(
            f'{moving_path} and {fixed_path}: they have no label in common; '
            'give images with labels of the same protocol.'
        )
    mapping, inverse = (_load(words, pair.folder) for words in (pair.transform, pair.inverse))
    overlaps = label_overlaps(moving, moving_grid, fixed, grid, mapping)
    title: Row = {'name': pair.name, 'method': pair.method}
    figures = {**_mean_overlap(overlaps), **_regularity(mapping, fixed, grid)}
    if pair.inverse:
        figures |= _consistency(mapping, inverse, grid.to_mm(np.argwhere(fixed)))
    return Evaluation(title | figures, [title | asdict(overlap) for overlap in overlaps])


def _load(words: Sequence[str], folder: Path) -> Chain:
    return load_map([_step(word, folder) for word in words if word != IDENTITY])


def _step(word: str, folder: Path) -> Step:
    flagged = _FLAGGED.fullmatch(word)
    if flagged is None:
        return Step(folder / word)
    return Step(folder / flagged['path'], inverted=flagged['flag'] == '1')


def _mean_overlap(overlaps: Sequence[Overlap]) -> Row:
    shared = [overlap for overlap in overlaps if not np.isnan(overlap.dice)]
    return {
        'mean_dice': fmean(overlap.dice for overlap in shared),
        'mean_target_overlap': fmean(overlap.target_overlap for overlap in shared),
        'labels': len(shared),
        'labels_in_one_only': len(overlaps) - len(shared),
    }


def _regularity(mapping: Chain, fixed: Labels, grid: VoxelGrid) -> Row:
    everywhere = jacobian_determinant(mapping, grid)
    return {
        f'{where}_{figure}': value
        for where, values in (('jacobian', everywhere[fixed != 0]), ('grid_jacobian', everywhere))
        for figure, value in regularity(values).items()
    }


def _consistency(mapping: Chain, inverse: Chain, points: Array) -> Row:
    error = inverse_error(mapping, inverse, points)
    return {
        'inverse_error_median': float(np.median(error)),
        'inverse_error_p99': float(np.percentile(error, 99)),
        'inverse_error_max': float(error.max()),
    }

"""Evaluation of pairs of label images with a transform between them."""

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
    TransformFile,
    inverse_error,
    jacobian_determinant,
    jacobian_measures,
    load_map,
)
from deepreg_wf.evaluation.overlap import Labels, Overlap, label_overlaps, read_labels
from deepreg_wf.evaluation.tables import Row
from deepreg_wf.spatial import TransformChain, VoxelGrid
from deepreg_wf.utils.text_file import read_user_text

IDENTITY = 'identity'
"""Word that stands for the identity, in place of a file."""

NOT_GIVEN = 'n/a'
"""Content of a cell without a value."""

_REQUIRED = ('moving_labels', 'fixed_labels', 'transform')
# A comma within the brackets of [FILE,1] does not separate.
_SEPARATOR = re.compile(r'[;,](?![^\[\]]*\])')
_WITH_FLAG = re.compile(r'\[\s*(?P<path>.+?)\s*,\s*(?P<flag>[01])\s*\]')


@dataclass(frozen=True, kw_only=True)
class LabelPair:
    """Two label images and the transform between them, as written by the user.

    Attributes
    ----------
    name, method : str
        Names of the pair, and of the tool that made the transform, in the tables.
    moving_labels, fixed_labels : str
        Label images; empty if they are missing in the table.
    transform : sequence of str
        Files, ``[FILE,1]`` for the inverse of an affine, or ``identity``. They resample the
        moving image onto the grid of the fixed one; the last is applied to the image first, as by
        ``antsApplyTransforms``.
    inverse : sequence of str
        The same for the opposite direction; empty if there is none.
    folder : Path
        Folder to which the paths are relative.
    """

    name: str
    method: str = NOT_GIVEN
    moving_labels: str
    fixed_labels: str
    transform: Sequence[str]
    inverse: Sequence[str] = ()
    folder: Path = field(default_factory=Path)

    @property
    def title(self) -> str:
        """Name of the pair and, if it is given, of the method."""
        return self.name if self.method == NOT_GIVEN else f'{self.name}, {self.method}'


@dataclass(frozen=True)
class Evaluation:
    """Results for a pair.

    Attributes
    ----------
    measures : dict
        Row of ``pairs.tsv``.
    overlaps : list of dict
        Rows of ``overlap.tsv``.
    """

    measures: Row
    overlaps: list[Row]


def default_name(moving_labels: str, fixed_labels: str) -> str:
    """Make the name of a pair from the names of its files."""
    moving, fixed = (Path(path).name.split('.')[0] for path in (moving_labels, fixed_labels))
    return f'{moving} to {fixed}'


def read_pairs(table: Path) -> list[LabelPair]:
    """Read a table of pairs.

    Parameters
    ----------
    table : Path
        Columns separated by tabs: ``moving_labels``, ``fixed_labels``, ``transform`` and,
        optionally, ``inverse``, ``name`` and ``method``. Other columns are ignored.

    Returns
    -------
    list of LabelPair
        Pairs in the order of the table. Required cells may be empty: `evaluate_pair` checks them.

    Raises
    ------
    InputError
        If there is no such table, it lacks a column or has no row, or two rows have the same
        name and method.
    """
    lines = read_user_text(table).splitlines()
    if any(len(line) > csv.field_size_limit() for line in lines):
        raise InputError('it has a line that is too long', advice='correct it', path=table)
    reader = csv.DictReader(lines, delimiter='\t', quoting=csv.QUOTE_NONE, restval='')
    missing = [name for name in _REQUIRED if name not in (reader.fieldnames or ())]
    if missing:
        raise InputError(
            f'it has no column {" and no ".join(missing)}',
            advice='its first line has to name the columns, separated by tabs',
            path=table,
        )
    pairs = [_read_pair(cells, table, reader.line_num) for cells in reader]
    if not pairs:
        raise InputError(
            'it has no line below its header', advice='add one for each pair', path=table
        )
    _check_distinct(pairs, table)
    return pairs


def _read_pair(cells: Mapping[str, str], table: Path, line: int) -> LabelPair:
    def read_cell(column: str) -> str:
        value = (cells.get(column) or '').strip()
        return '' if value == NOT_GIVEN else value

    moving, fixed = read_cell('moving_labels'), read_cell('fixed_labels')
    unnamed = default_name(moving, fixed) if moving and fixed else f'{table.name}, line {line}'
    return LabelPair(
        name=read_cell('name') or unnamed,
        method=read_cell('method') or NOT_GIVEN,
        moving_labels=moving,
        fixed_labels=fixed,
        transform=_split_transforms(read_cell('transform')),
        inverse=_split_transforms(read_cell('inverse')),
        folder=table.parent,
    )


def _split_transforms(cell: str) -> list[str]:
    return [word.strip() for word in _SEPARATOR.split(cell) if word.strip()]


def _check_distinct(pairs: Sequence[LabelPair], table: Path) -> None:
    seen = set()
    for pair in pairs:
        if (pair.name, pair.method) in seen:
            raise InputError(
                f'two lines have the name "{pair.name}" and the method "{pair.method}"',
                advice='give them different names in the columns name and method',
                path=table,
            )
        seen.add((pair.name, pair.method))


def evaluate_pair(pair: LabelPair, labels_of_interest: Collection[int] = ()) -> Evaluation:
    """Measure the overlap of the labels of a pair, and the quality of its transform.

    Parameters
    ----------
    pair : LabelPair
    labels_of_interest : collection of int
        Labels to compare; the others count as background. If it is empty, all are compared.

    Returns
    -------
    Evaluation

    Raises
    ------
    InputError
        If a file of the pair cannot be used, or its images have no label in common.
    """
    for column in _REQUIRED:
        if not getattr(pair, column):
            raise InputError(f'the pair "{pair.name}" has no {column}', advice='fill in the cell')
    moving_path, fixed_path = pair.folder / pair.moving_labels, pair.folder / pair.fixed_labels
    moving, moving_grid = read_labels(moving_path, labels_of_interest)
    fixed, grid = read_labels(fixed_path, labels_of_interest)
    if min(grid.shape) < 2:
        raise InputError(
            f'it has shape {grid.shape}, a slice', advice='give a volume', path=fixed_path
        )
    if not np.intersect1d(moving, fixed).any():
        raise InputError(
            f'it has no label in common with {fixed_path}',
            advice='give images with labels of the same protocol',
            path=moving_path,
        )
    mapping, inverse = (_load(words, pair.folder) for words in (pair.transform, pair.inverse))
    overlaps = label_overlaps(moving, moving_grid, fixed, grid, mapping)
    names: Row = {'name': pair.name, 'method': pair.method}
    measures = {**_mean_overlap(overlaps), **_regularity(mapping, fixed, grid)}
    if pair.inverse:
        measures |= _consistency(mapping, inverse, grid.to_mm(np.argwhere(fixed)))
    return Evaluation(names | measures, [names | asdict(overlap) for overlap in overlaps])


def _load(words: Sequence[str], folder: Path) -> TransformChain:
    """Read the transforms that are named by words such as ``FILE``, ``[FILE,1]``, ``identity``."""
    return load_map([_parse_file(word, folder) for word in words if word != IDENTITY])


def _parse_file(word: str, folder: Path) -> TransformFile:
    match = _WITH_FLAG.fullmatch(word)
    if match is None:
        return TransformFile(folder / word)
    return TransformFile(folder / match['path'], inverted=match['flag'] == '1')


def _mean_overlap(overlaps: Sequence[Overlap]) -> Row:
    dice = [overlap.dice for overlap in overlaps if overlap.dice is not None]
    target = [o.target_overlap for o in overlaps if o.target_overlap is not None]
    return {
        'mean_dice': fmean(dice),
        'mean_target_overlap': fmean(target),
        'labels': len(dice),
        'labels_in_one_only': len(overlaps) - len(dice),
    }


def _regularity(mapping: TransformChain, fixed: Labels, grid: VoxelGrid) -> Row:
    everywhere = jacobian_determinant(mapping, grid)
    return {
        f'{where}_{measure}': value
        for where, values in (('jacobian', everywhere[fixed != 0]), ('grid_jacobian', everywhere))
        for measure, value in jacobian_measures(values).items()
    }


def _consistency(mapping: TransformChain, inverse: TransformChain, points: Array) -> Row:
    error = inverse_error(mapping, inverse, points)
    return {
        'inverse_error_median': float(np.median(error)),
        'inverse_error_p99': float(np.percentile(error, 99)),
        'inverse_error_max': float(error.max()),
    }

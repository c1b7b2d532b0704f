"""The tables: their columns and what these mean, as TSV, as JSON sidecar and for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from statistics import fmean, median

Value = str | int | float
Row = dict[str, Value]


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes
    ----------
    name : str
    description : str
    units : str
        In the words of BIDS; empty for what has none.
    worst : {'', 'min', 'max'}
        Which end is the worst, for a figure of which there is a summary.
    """

    name: str
    description: str
    units: str = ''
    worst: str = ''


_TITLE = (
    Column('name', 'Name of the pair.'),
    Column('method', 'Tool that made the transform.'),
)

OVERLAP = (
    *_TITLE,
    Column('label', 'Label; n/a in the next two columns where only one of the images has it.'),
    Column(
        'dice',
        'Dice overlap 2|A&B| / (|A|+|B|), where A is the label of the moving image, resampled on '
        'the fixed image by nearest neighbour, and B the label of the fixed image.',
    ),
    Column('target_overlap', 'Target overlap |A&B| / |B| (Klein et al. 2009, NeuroImage 46:786).'),
    Column('moving_volume', 'Volume of the label in the moving image, not resampled.', 'mL'),
    Column('resampled_volume', 'Volume of the label in the moving image, resampled: A.', 'mL'),
    Column('fixed_volume', 'Volume of the label in the fixed image: B.', 'mL'),
)


def _regularity(prefix: str, where: str) -> Iterator[Column]:
    of = f'Jacobian determinant of the map from fixed to moving points, affine included, {where}'
    yield Column(f'{prefix}_min', f'Least {of}.', worst='min')
    yield Column(f'{prefix}_p1', f'1st percentile of the {of}.', worst='min')
    yield Column(f'{prefix}_max', f'Largest {of}.', worst='max')
    yield Column(f'{prefix}_folded', f'Share of voxels with a {of}, that is <= 0.', worst='max')
    yield Column(
        f'{prefix}_logsd',
        f'Standard deviation of the natural logarithm of the {of}, where it is positive.',
        worst='max',
    )


def _consistency() -> Iterator[Column]:
    distance = (
        'distance between a point and where the transform and then its inverse take it, over the '
        'labelled voxels of the fixed image; n/a if no inverse was given.'
    )
    for name, which in (
        ('median', 'Median'),
        ('p99', '99th percentile of the'),
        ('max', 'Largest'),
    ):
        yield Column(f'inverse_error_{name}', f'{which} {distance}', 'mm', 'max')


PAIRS = (
    *_TITLE,
    Column('mean_dice', 'Mean Dice overlap over the labels that both images have.', worst='min'),
    Column(
        'mean_target_overlap',
        'Mean target overlap over the labels that both images have.',
        worst='min',
    ),
    Column('labels', 'Number of labels that both images have.'),
    Column('labels_in_one_only', 'Number of labels that only one of the images has.'),
    *_regularity('jacobian', 'in the labelled voxels of the fixed image'),
    *_regularity('grid_jacobian', 'on the whole grid of the fixed image'),
    *_consistency(),
)

SUMMARY = (
    Column('figure', 'Column of pairs.tsv that is summarised.'),
    _TITLE[1],
    Column('pairs', 'Number of pairs that have the figure.'),
    Column('mean', 'Mean over pairs, in the units of the figure.'),
    Column('median', 'Median over pairs, in the units of the figure.'),
    Column(
        'worst',
        'Worst of the pairs, in the units of the figure: the least overlap, the least of the '
        'minima and 1st percentiles of the Jacobian determinant, the largest of all others.',
    ),
)


def tsv(rows: Iterable[Mapping[str, Value]], columns: Sequence[Column]) -> str:
    """Write a table; what a row lacks, and NaN, is ``n/a``."""
    lines = [[column.name for column in columns], *_cells(rows, columns, digits=6)]
    return ''.join('\t'.join(line) + '\n' for line in lines)


def aligned(rows: Iterable[Mapping[str, Value]], columns: Sequence[Column]) -> str:
    """Write a table for a person: words to the left, numbers to the right."""
    rows = list(rows)
    lines = [[column.name for column in columns], *_cells(rows, columns, digits=4)]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    wordy = [all(isinstance(row.get(column.name), str) for row in rows) for column in columns]
    return '\n'.join(
        '  '.join(
            cell.ljust(width) if left else cell.rjust(width)
            for cell, width, left in zip(line, widths, wordy, strict=True)
        ).rstrip()
        for line in lines
    )


def sidecar() -> dict[str, dict[str, str]]:
    """Define every column of all tables, as a sidecar of BIDS does."""
    return {
        column.name: {'Description': column.description}
        | ({'Units': column.units} if column.units else {})
        for column in (*OVERLAP, *PAIRS, *SUMMARY)
    }


def summarise(rows: Sequence[Mapping[str, Value]]) -> list[Row]:
    """Summarise lines of ``pairs.tsv`` over pairs: figure by figure, method beside method.

    Parameters
    ----------
    rows : sequence of mapping
        By the names of `PAIRS`.

    Returns
    -------
    list of dict
        By the names of `SUMMARY`; methods in the order in which they come in `rows`.
    """
    methods = dict.fromkeys(row['method'] for row in rows)
    return [
        {'figure': column.name, 'method': method, **_summary(values, column.worst)}
        for column in PAIRS
        if column.worst
        for method in methods
        if (values := _values(rows, column.name, method))
    ]


def _values(rows: Sequence[Mapping[str, Value]], name: str, method: Value) -> list[float]:
    found = [float(row.get(name, nan)) for row in rows if row['method'] == method]
    return [value for value in found if not isnan(value)]


def _summary(values: Sequence[float], worst: str) -> Row:
    return {
        'pairs': len(values),
        'mean': fmean(values),
        'median': median(values),
        'worst': min(values) if worst == 'min' else max(values),
    }


def _cells(
    rows: Iterable[Mapping[str, Value]], columns: Sequence[Column], *, digits: int
) -> list[list[str]]:
    return [[_cell(row.get(column.name, nan), digits) for column in columns] for row in rows]


def _cell(value: Value, digits: int) -> str:
    if isinstance(value, float):
        # What is below is rounding of the computation; one voxel that folds is 1e-8 at least.
        return 'n/a' if isnan(value) else f'{round(value, 9):.{digits}g}'
    return str(value)

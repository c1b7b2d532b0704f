"""Tables of an evaluation, as TSV files with a JSON sidecar, and as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Literal

Value = str | int | float | None
"""Content of a cell; None, for a value that was not measured, is written as ``n/a``."""

Row = dict[str, Value]
"""Row of a table, by the names of the columns."""


@dataclass(frozen=True)
class Column:
    """Column of a table.

    Attributes
    ----------
    name : str
    description : str
    units : str
        Unit as spelled by BIDS; empty for none.
    worst : {'min', 'max'}, optional
        Worst end of the values of a measure; None for columns that are not summarised.
    """

    name: str
    description: str
    units: str = ''
    worst: Literal['min', 'max'] | None = None


_NAMES = (
    Column('name', 'Name of the pair.'),
    Column('method', 'Tool that made the transform.'),
)

OVERLAP_COLUMNS = (
    *_NAMES,
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


def _jacobian_columns(prefix: str, where: str) -> Iterator[Column]:
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


def _inverse_error_columns() -> Iterator[Column]:
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


PAIR_COLUMNS = (
    *_NAMES,
    Column('mean_dice', 'Mean Dice overlap over the labels that both images have.', worst='min'),
    Column(
        'mean_target_overlap',
        'Mean target overlap over the labels that both images have.',
        worst='min',
    ),
    Column('labels', 'Number of labels that both images have.'),
    Column('labels_in_one_only', 'Number of labels that only one of the images has.'),
    *_jacobian_columns('jacobian', 'in the labelled voxels of the fixed image'),
    *_jacobian_columns('grid_jacobian', 'on the whole grid of the fixed image'),
    *_inverse_error_columns(),
)

SUMMARY_COLUMNS = (
    Column('figure', 'Column of pairs.tsv that is summarised.'),
    _NAMES[1],
    Column('pairs', 'Number of pairs that have the figure.'),
    Column('mean', 'Mean over pairs, in the units of the figure.'),
    Column('median', 'Median over pairs, in the units of the figure.'),
    Column(
        'worst',
        'Worst of the pairs, in the units of the figure: the least overlap, the least of the '
        'minima and 1st percentiles of the Jacobian determinant, the largest of all others.',
    ),
)


def format_tsv(rows: Iterable[Mapping[str, Value]], columns: Sequence[Column]) -> str:
    """Format a table as TSV; missing values are ``n/a``."""
    lines = [[column.name for column in columns], *_cells(rows, columns, digits=6)]
    return ''.join('\t'.join(line) + '\n' for line in lines)


def format_aligned(rows: Iterable[Mapping[str, Value]], columns: Sequence[Column]) -> str:
    """Format a table for a terminal: text is aligned to the left, numbers to the right."""
    rows = list(rows)
    lines = [[column.name for column in columns], *_cells(rows, columns, digits=4)]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    is_text = [all(isinstance(row.get(column.name), str) for row in rows) for column in columns]
    return '\n'.join(
        '  '.join(
            cell.ljust(width) if left else cell.rjust(width)
            for cell, width, left in zip(line, widths, is_text, strict=True)
        ).rstrip()
        for line in lines
    )


def make_sidecar() -> dict[str, dict[str, str]]:
    """Describe the columns of all tables in the form of a BIDS sidecar."""
    return {
        column.name: {'Description': column.description}
        | ({'Units': column.units} if column.units else {})
        for column in (*OVERLAP_COLUMNS, *PAIR_COLUMNS, *SUMMARY_COLUMNS)
    }


def summarise(rows: Sequence[Mapping[str, Value]]) -> list[Row]:
    """Summarise the rows of ``pairs.tsv`` over pairs, for each measure and method.

    Parameters
    ----------
    rows : sequence of mapping
        Rows with the columns `PAIR_COLUMNS`.

    Returns
    -------
    list of dict
        Rows with the columns `SUMMARY_COLUMNS`; methods are in the order of `rows`.
    """
    methods = dict.fromkeys(row['method'] for row in rows)
    return [
        {'figure': column.name, 'method': method, **_summary(values, column.worst)}
        for column in PAIR_COLUMNS
        if column.worst
        for method in methods
        if (values := _values(rows, column.name, method))
    ]


def _values(rows: Sequence[Mapping[str, Value]], name: str, method: Value) -> list[float]:
    values = (row.get(name) for row in rows if row['method'] == method)
    return [float(value) for value in values if value is not None]


def _summary(values: Sequence[float], worst: Literal['min', 'max']) -> Row:
    return {
        'pairs': len(values),
        'mean': fmean(values),
        'median': median(values),
        'worst': min(values) if worst == 'min' else max(values),
    }


def _cells(
    rows: Iterable[Mapping[str, Value]], columns: Sequence[Column], *, digits: int
) -> list[list[str]]:
    return [[_cell(row.get(column.name), digits) for column in columns] for row in rows]


def _cell(value: Value, digits: int) -> str:
    if value is None:
        return 'n/a'
    if isinstance(value, float):
        # Smaller values are rounding errors; one folded voxel is a fraction of at least 1e-8.
        return f'{round(value, 9):.{digits}g}'
    return str(value)

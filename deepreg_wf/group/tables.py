"""Table of the quality measures of a group."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from deepreg_wf.group.records import RegistrationRecord
from deepreg_wf.qc.criteria import CRITERIA, FROM_WORST, Criterion, Grade, overall_grade
from deepreg_wf.utils.atomic import write_json, write_text

NAME = 'group_desc-registration_qc'
"""Name of the table and of its sidecar, without their extensions."""

VERDICTS = {Grade.GOOD: 'good', Grade.REVIEW: 'look', Grade.BAD: 'bad', Grade.NONE: 'none'}
"""Grades as written in the table. Other programs read these words: they must not change."""

_NAMES = ('participant_id', 'image', 'space', 'verdict')
"""Columns before those of the measures."""


def worst_first(records: Iterable[RegistrationRecord]) -> list[RegistrationRecord]:
    """Sort registrations by quality, the worst first.

    They are compared by their overall grade, then by the number of measures that are bad or need
    review, then by the correlation with the template.
    """
    return sorted(records, key=_sort_key)


def _sort_key(record: RegistrationRecord) -> tuple[int, int, float, str]:
    grades = [criterion.grade(record.measures) for criterion in CRITERIA]
    n_not_good = sum(grade in (Grade.BAD, Grade.REVIEW) for grade in grades)
    correlation = record.measures.get('correlation_final')
    return (
        FROM_WORST.index(overall_grade(record.measures)),
        -n_not_good,
        -1.0 if correlation is None else correlation,
        record.image,
    )


def write_table(output_dir: Path, records: Sequence[RegistrationRecord]) -> Path:
    """Write ``group_desc-registration_qc.tsv``, the worst first, and its sidecar.

    Parameters
    ----------
    output_dir : Path
        Folder of the derivatives.
    records : sequence of RegistrationRecord
        Registrations to all templates.

    Returns
    -------
    Path
        The table.
    """
    found = dict.fromkeys(key for record in records for key in record.measures)
    keys = [key for key in found if key not in _NAMES]
    columns = [*_NAMES, *keys]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, delimiter='\t', lineterminator='\n', restval='n/a')
    writer.writeheader()
    for record in worst_first(records):
        measures = {key: 'n/a' if v is None else f'{v:.6g}' for key, v in record.measures.items()}
        names = {
            'participant_id': f'sub-{record.participant}',
            'image': record.image,
            'space': record.space,
            'verdict': VERDICTS[overall_grade(record.measures)],
        }
        writer.writerow(measures | names)
    write_text(output_dir / f'{NAME}.tsv', text.getvalue())
    write_json(output_dir / f'{NAME}.json', _describe_columns(keys))
    return output_dir / f'{NAME}.tsv'


def _describe_columns(keys: Sequence[str]) -> dict[str, Any]:
    """Return the sidecar of a table with these measures."""
    described: dict[str, Any] = {
        'participant_id': {'Description': 'Label of the participant, with "sub-".'},
        'image': {'Description': 'Name of the T1-weighted image, without its suffix.'},
        'space': {'Description': 'Template to which the image was registered.'},
        'verdict': {
            'Description': 'Worst grade of all measures.',
            'Levels': {VERDICTS[grade]: grade.meaning for grade in Grade},
        },
    }
    return described | {key: _describe_measure(key) for key in keys}


def _describe_measure(key: str) -> dict[str, str]:
    """Return the description of a measure, with its limits if it has any."""
    for criterion in CRITERIA:
        if criterion.key == key and not criterion.baseline:
            return _describe(criterion)
    for criterion in CRITERIA:
        if criterion.baseline == key:
            return {'Description': f'Value that is subtracted for "{criterion.label}".'}
    return {'Description': 'Measure of the registration that is not graded.'}


def _describe(criterion: Criterion) -> dict[str, str]:
    # Fractions are shown in percent, and stored as they are.
    unit = criterion.unit if criterion.unit not in ('', '%') else '1'
    good = criterion.format_interval(criterion.good)
    description = f'{criterion.label}; good: {good}. {criterion.reason}'
    return {'Description': description, 'Units': unit}

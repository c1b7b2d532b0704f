"""The QC of a group as a table that any program reads."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from deepreg_wf.bids.entities import write_json, write_text
from deepreg_wf.group.members import Member
from deepreg_wf.qc.criteria import CRITERIA, Criterion, Grade, overall

NAME = 'group_desc-registration_qc'

_SEVERITY = (Grade.BAD, Grade.LOOK, Grade.GOOD, Grade.NONE)


def ranked(members: Iterable[Member]) -> list[Member]:
    """Members in the order in which a person should look at them: the worst first.

    By the light of the whole, then by the number of lights that are not green, then by how little
    the image is like the template.
    """
    return sorted(members, key=_rank)


def _rank(member: Member) -> tuple[int, int, float, str]:
    grades = [criterion.grade(member.figures) for criterion in CRITERIA]
    doubtful = sum(grade in (Grade.BAD, Grade.LOOK) for grade in grades)
    likeness = member.figures.get('correlation_final')
    return (
        _SEVERITY.index(overall(member.figures)),
        -doubtful,
        -1.0 if likeness is None else likeness,
        member.image,
    )


def write_table(output_dir: Path, members: Sequence[Member]) -> Path:
    """Write ``group_desc-registration_qc.tsv``, the worst first, and its description.

    Parameters
    ----------
    output_dir : Path
    members : sequence of Member
        Of all spaces.

    Returns
    -------
    Path
        The table.
    """
    keys = list(dict.fromkeys(key for member in members for key in member.figures))
    columns = ['participant_id', 'image', 'space', 'verdict', *keys]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, delimiter='\t', lineterminator='\n', restval='n/a')
    writer.writeheader()
    for member in ranked(members):
        figures = {key: 'n/a' if v is None else f'{v:.6g}' for key, v in member.figures.items()}
        names = {
            'participant_id': f'sub-{member.participant}',
            'image': member.image,
            'space': member.space,
            'verdict': overall(member.figures).value,
        }
        writer.writerow(names | figures)
    write_text(output_dir / f'{NAME}.tsv', text.getvalue())
    write_json(output_dir / f'{NAME}.json', _describe(keys))
    return output_dir / f'{NAME}.tsv'


def _describe(keys: Sequence[str]) -> dict[str, Any]:
    """What the columns mean, after the table of limits."""
    described: dict[str, Any] = {
        'image': {'Description': 'Name of the T1-weighted image, without its suffix.'},
        'space': {'Description': 'Template that it was registered to.'},
        'verdict': {
            'Description': 'Worst light of all figures.',
            'Levels': {grade.value: grade.meaning for grade in Grade},
        },
    }
    criteria = {criterion.key: criterion for criterion in CRITERIA if not criterion.minus}
    return described | {key: _column(criteria[key]) for key in keys if key in criteria}


def _column(criterion: Criterion) -> dict[str, str]:
    # A share is shown in percent, and stored as it is.
    unit = criterion.unit if criterion.unit not in ('', '%') else '1'
    good = criterion.show_interval(criterion.good)
    description = f'{criterion.label}; good: {good}. {criterion.reason}'
    return {'Description': description, 'Units': unit}

"""The group level: summary of all registrations in a folder of derivatives."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deepreg_wf.app.exit_status import ALL_DONE, SOME_FAILED
from deepreg_wf.app.folders import make_writable
from deepreg_wf.app.locks import lock_group
from deepreg_wf.app.summary import FAILURES_TABLE
from deepreg_wf.engine.failures import read_failures
from deepreg_wf.engine.progress import PlainDisplay, format_duration
from deepreg_wf.engine.resources import available_processors
from deepreg_wf.errors import InputError
from deepreg_wf.settings import Settings

if TYPE_CHECKING:
    from deepreg_wf.group import GroupRecords, RegistrationRecord


def run_group(settings: Settings) -> int:
    """Write the table, the report and the average images of a group.

    Parameters
    ----------
    settings : Settings
        Settings of the call; the dataset itself is not read.

    Returns
    -------
    int
        Exit status: 1 if some images were left out, of the table or of the averages.

    Raises
    ------
    InputError
        If there is no registration, or another run is summarising the folder.
    """
    from deepreg_wf.group import find_records

    started, output_dir = time.time(), settings.output.output_dir
    found = find_records(output_dir)
    spaces = _select(found, settings.selection.participant_label)
    if not spaces:
        raise InputError(
            'no registration is in it', advice='run the participant level first', path=output_dir
        )
    make_writable(output_dir)
    with lock_group(output_dir):
        return _write_results(settings, started, found, spaces)


def _write_results(
    settings: Settings,
    started: float,
    found: GroupRecords,
    spaces: Mapping[str, list[RegistrationRecord]],
) -> int:
    """Write all results of the group; return the exit status."""
    import torch

    from deepreg_wf.group import build_atlas, worst_first, write_table
    from deepreg_wf.reports import write_group_report

    output_dir = settings.output.output_dir
    records = [record for in_space in spaces.values() for record in in_space]
    torch.set_num_threads(settings.execution.nprocs or available_processors())
    display, left_out = PlainDisplay(sys.stdout), dict[str, str]()

    def on_error(record: RegistrationRecord, reason: str) -> None:
        left_out[f'{record.image}, {record.space}'] = reason
        print(f'[{record.image}] {reason}', file=sys.stderr)

    table = write_table(output_dir, records)
    atlases = []
    for space, in_space in spaces.items():
        atlases.append(build_atlas(output_dir, space, in_space, on_error, display.log))
    for path, reason in found.unreadable.items():
        print(InputError(reason, advice='run this image again', path=path), file=sys.stderr)
    missing = left_out | _missing(output_dir, found)
    page = write_group_report(output_dir, worst_first(records), atlases, missing)
    display.log(
        f'{len(records)} registrations summarised in {format_duration(time.time() - started)}'
    )
    print(f'Table: {table}\nReport: {page}')
    return SOME_FAILED if left_out or found.unreadable else ALL_DONE


def _select(found: GroupRecords, labels: Sequence[str]) -> dict[str, list[RegistrationRecord]]:
    """Select the registrations of the participants with these labels; all, without labels."""
    selected = {
        space: [record for record in records if not labels or record.participant in labels]
        for space, records in found.by_space.items()
    }
    return {space: records for space, records in selected.items() if records}


def _missing(output_dir: Path, found: GroupRecords) -> dict[str, str]:
    """Collect the reason for each participant or image that has no registration."""
    missing = {f'sub-{label}': 'no registration was completed' for label in found.unregistered}
    for row in read_failures(output_dir / FAILURES_TABLE):
        missing.pop(row['participant_id'], None)
        missing[row['image']] = f'{row["step"]}: {row["reason"]}'
    return missing | {_printable(path.name): reason for path, reason in found.unreadable.items()}


def _printable(name: str) -> str:
    """Replace the bytes of a file name that are not UTF-8, which a page cannot contain."""
    return name.encode(errors='backslashreplace').decode()

"""The folder of a batch: its participants, its settings and its scripts."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from deepreg_wf.app.batch.resources import Needs
from deepreg_wf.app.batch.schedulers import SCHEDULERS, directives
from deepreg_wf.bids.entities import write_text
from deepreg_wf.settings import Settings

FOLDER = Path('logs') / 'batch'
LARGEST = 1000
"""Tasks of an array: SLURM takes no more by default (its MaxArraySize is 1001)."""

_ARRAY = """\
#!/bin/bash
{directives}

# Task N does the participant on line N of participants.txt.
{setup}
cd {folder} || exit 1
label=$(sed -n "${{{index}}}p" participants.txt)
rm -f "task-${{{index}}}.status"
{command} --config-file {folder}/settings.toml --participant-label "$label" \\
    --work-dir {work_dir}/"sub-$label"
status=$?
# 2 is "all of the input is unusable", which here is one participant.
[ "$status" -eq 2 ] && status=1
echo "$status" > "task-${{{index}}}.status"
exit "$status"
"""
_GROUP = """\
#!/bin/bash
{directives}

{setup}
{command} {bids_dir} {output_dir} group --nprocs {cpus}
"""


@dataclass(frozen=True)
class Batch:
    """An array of jobs that was written once.

    Parameters
    ----------
    folder
        All of it.

    """

    folder: Path

    @property
    def name(self) -> str:
        """Name of the job."""
        return f'deepreg_wf-{self.folder.name}'

    @property
    def labels(self) -> list[str]:
        """Participant of each task, the first one being number 1."""
        return (self.folder / 'participants.txt').read_text(encoding='utf-8').split()

    def log(self, task: int) -> Path:
        """What a task and its scheduler have written."""
        return self.folder / f'task-{task}.out'

    def status_file(self, task: int) -> Path:
        """Where a task that came to its end says how."""
        return self.folder / f'task-{task}.status'


def read_batches(output_dir: Path) -> list[Batch]:
    """Find the batches of an output folder; the oldest first."""
    return [
        Batch(path.parent) for path in sorted((output_dir / FOLDER).glob('*/participants.txt'))
    ]


def new_stamp(output_dir: Path) -> str:
    """Name a batch by the time, to the second; no other one of the output folder has it."""
    while True:
        stamp = f'{datetime.now():%Y%m%d-%H%M%S}'
        if not any((output_dir / FOLDER).glob(f'{stamp}*')):
            return stamp
        time.sleep(0.1)


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What a person has asked of the scripts.

    Parameters
    ----------
    scheduler
        Name of it.
    command
        What stands for ``deepreg_wf``.
    setup
        Lines of the shell that come first.
    options
        More words for the scheduler.
    at_once
        Tasks that may run at the same time.

    """

    scheduler: str
    command: str
    setup: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    at_once: int | None = None


def write_batches(
    stamp: str, labels: Sequence[str], settings: Settings, needs: Needs, wishes: Wishes
) -> Iterator[Batch]:
    """Write the arrays of a call: one, or several where one would be too large.

    Parameters
    ----------
    stamp
        Name of the folder, by time.
    labels
        Participants, at least one.
    settings
        Of each; the folder of intermediate files gets one for each.
    needs
        Of each.
    wishes
        Of the scripts.

    Yields
    ------
    Batch
        In which ``array.sh`` is to be submitted.

    """
    chunks = [labels[start : start + LARGEST] for start in range(0, len(labels), LARGEST)]
    for number, chunk in enumerate(chunks, start=1):
        name = stamp if len(chunks) == 1 else f'{stamp}-{number:03d}'
        batch = Batch(settings.output.output_dir / FOLDER / name)
        text = _ARRAY.format(
            directives='\n'.join(
                directives(
                    SCHEDULERS[wishes.scheduler],
                    name=batch.name,
                    needs=needs,
                    tasks=len(chunk),
                    limit=wishes.at_once,
                    options=wishes.options,
                )
            ),
            setup='\n'.join(wishes.setup),
            folder=shlex.quote(str(batch.folder)),
            index=SCHEDULERS[wishes.scheduler].index,
            command=wishes.command,
            work_dir=shlex.quote(str(settings.execution.work_dir)),
        )
        write_text(batch.folder / 'settings.toml', settings.to_toml())
        write_text(batch.folder / 'array.sh', text)
        write_text(batch.folder / 'participants.txt', '\n'.join(chunk) + '\n')
        yield batch


def write_group(batch: Batch, settings: Settings, needs: Needs, wishes: Wishes) -> Path:
    """Write the job of the group level, for when all tasks have ended.

    Parameters
    ----------
    batch
        In whose folder it goes.
    settings, needs, wishes
        As for `write_batches`.

    Returns
    -------
    Path
        The script.

    """
    options = wishes.options
    lines = directives(SCHEDULERS[wishes.scheduler], name='group', needs=needs, options=options)
    path = batch.folder / 'group.sh'
    text = _GROUP.format(
        directives='\n'.join(lines),
        setup='\n'.join(wishes.setup),
        command=wishes.command,
        bids_dir=shlex.quote(str(settings.selection.bids_dir)),
        output_dir=shlex.quote(str(settings.output.output_dir)),
        cpus=needs.cpus,
    )
    write_text(path, text)
    return path

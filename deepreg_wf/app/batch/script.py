"""The folder of a batch: its participants, its settings and its scripts."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from deepreg_wf.app.batch.resources import JobResources
from deepreg_wf.app.batch.slurm import MAX_TASKS, TASK_ID, directives
from deepreg_wf.errors import InputError
from deepreg_wf.settings import Settings
from deepreg_wf.utils.atomic import write_text

FOLDER = Path('logs') / 'batch'

_ARRAY = """\
#!/bin/bash
{directives}

# Task N processes the participant on line N of participants.txt.
{setup}
cd {folder} || exit 1
label=$(sed -n "${{{task_id}}}p" participants.txt)
rm -f "task-${{{task_id}}}.status"
{command} --config-file {folder}/settings.toml --participant-label "sub-$label" \\
    --work-dir {work_dir}/"sub-$label"
status=$?
# 2 means that all of the input is unusable, which here is one participant.
[ "$status" -eq 2 ] && status=1
echo "$status" > "task-${{{task_id}}}.status"
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
    """An array of jobs that was written to a folder.

    Parameters
    ----------
    folder : Path
        Folder of its scripts and logs.
    """

    folder: Path

    @property
    def name(self) -> str:
        """Name of the job."""
        return f'deepreg_wf-{self.folder.name}'

    @property
    def labels(self) -> list[str]:
        """Participant of each task, from task 1."""
        # Not split(), nor splitlines(): a label may have a blank.
        return (self.folder / 'participants.txt').read_text(encoding='utf-8').split('\n')[:-1]

    def log(self, task: int) -> Path:
        """Return the file with the output of a task and of SLURM."""
        return self.folder / f'task-{task}.out'

    def status_file(self, task: int) -> Path:
        """Return the file with the exit status of a task, which exists once the task has ended."""
        return self.folder / f'task-{task}.status'


def read_batches(output_dir: Path) -> list[Batch]:
    """Find the batches of an output folder, the oldest first."""
    return [
        Batch(path.parent) for path in sorted((output_dir / FOLDER).glob('*/participants.txt'))
    ]


def new_batch_name(output_dir: Path) -> str:
    """Name a batch by the time, to the second; wait if another batch has this name."""
    while True:
        name = f'{datetime.now():%Y%m%d-%H%M%S}'
        if not any((output_dir / FOLDER).glob(f'{name}*')):
            return name
        time.sleep(0.1)


@dataclass(frozen=True, kw_only=True)
class ScriptOptions:
    """Options of the scripts.

    Parameters
    ----------
    command : str
        Command that runs ``deepreg_wf``.
    setup : tuple of str
        Lines of the shell that run first.
    sbatch_options : tuple of str
        More options for SLURM.
    max_running : int, optional
        Tasks that may run at the same time.
    """

    command: str
    setup: tuple[str, ...] = ()
    sbatch_options: tuple[str, ...] = ()
    max_running: int | None = None


def write_batches(
    name: str,
    labels: Sequence[str],
    settings: Settings,
    resources: JobResources,
    options: ScriptOptions,
) -> Iterator[Batch]:
    """Write the arrays of a call: one, or several if one would be too large.

    Parameters
    ----------
    name : str
        Name of the folder.
    labels : sequence of str
        Participants, at least one.
    settings : Settings
        Settings of each task; each has its own folder in the folder of intermediate files.
    resources : JobResources
        Resources of each task.
    options : ScriptOptions
        Options of the scripts.

    Yields
    ------
    Batch
        Batch whose ``array.sh`` can be submitted.

    Raises
    ------
    InputError
        If a label cannot stand on a line, because it has a line break or the like.
    """
    if unprintable := [label for label in labels if not label.isprintable()]:
        raise InputError(
            f'the label {unprintable[0]!r} has a character that cannot be printed',
            advice='rename its folder, or select other participants with --participant-label',
        )
    chunks = [labels[start : start + MAX_TASKS] for start in range(0, len(labels), MAX_TASKS)]
    for number, chunk in enumerate(chunks, start=1):
        chunk_name = name if len(chunks) == 1 else f'{name}-{number:03d}'
        batch = Batch(settings.output.output_dir / FOLDER / chunk_name)
        lines = directives(
            name=batch.name,
            resources=resources,
            tasks=len(chunk),
            max_running=options.max_running,
            options=options.sbatch_options,
        )
        script = _ARRAY.format(
            directives='\n'.join(lines),
            setup='\n'.join(options.setup),
            folder=shlex.quote(str(batch.folder)),
            task_id=TASK_ID,
            command=options.command,
            work_dir=shlex.quote(str(settings.execution.work_dir)),
        )
        write_text(batch.folder / 'settings.toml', settings.to_toml())
        write_text(batch.folder / 'array.sh', script)
        write_text(batch.folder / 'participants.txt', '\n'.join(chunk) + '\n')
        yield batch


def write_group_script(
    batch: Batch, settings: Settings, resources: JobResources, options: ScriptOptions
) -> Path:
    """Write the script of the group level, which runs when all tasks have ended.

    Parameters
    ----------
    batch : Batch
        Batch whose folder the script is written to.
    settings, resources, options
        As for `write_batches`.

    Returns
    -------
    Path
        The script.
    """
    lines = directives(name='group', resources=resources, options=options.sbatch_options)
    path = batch.folder / 'group.sh'
    script = _GROUP.format(
        directives='\n'.join(lines),
        setup='\n'.join(options.setup),
        command=options.command,
        bids_dir=shlex.quote(str(settings.selection.bids_dir)),
        output_dir=shlex.quote(str(settings.output.output_dir)),
        cpus=resources.cpus,
    )
    write_text(path, script)
    return path

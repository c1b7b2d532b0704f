"""SLURM: the directives of a script, its submission, and the queue."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from deepreg_wf.app.batch.resources import JobResources
from deepreg_wf.errors import InputError

TASK_ID = 'SLURM_ARRAY_TASK_ID'
"""Environment variable with the number of the task, from 1."""

MAX_TASKS = 1000
"""Tasks of an array: SLURM accepts no more by default (its MaxArraySize is 1001)."""

PENDING = 'PENDING'
"""State of a task that waits in the queue."""


def directives(
    *,
    name: str,
    resources: JobResources,
    tasks: int | None = None,
    max_running: int | None = None,
    options: Sequence[str] = (),
) -> list[str]:
    """Write the lines of a script that SLURM reads.

    Parameters
    ----------
    name : str
        Name of the job.
    resources : JobResources
        Resources of the job, or of each task of an array.
    tasks : int, optional
        Number of tasks of an array; by default a single job.
    max_running : int, optional
        Tasks that may run at the same time.
    options : sequence of str
        More options for SLURM, such as ``--partition=long``, one per line.

    Returns
    -------
    list of str
        Lines.
    """
    minutes = resources.minutes
    limit = f'%{max_running}' if max_running else ''
    words = [
        f'--job-name={name}',
        f'--cpus-per-task={resources.cpus}',
        f'--mem={resources.memory_mb}M',
        f'--time={minutes // 60:02d}:{minutes % 60:02d}:00',
        *([f'--output={name}.out'] if tasks is None else []),
        *([f'--array=1-{tasks}{limit}', '--output=task-%a.out'] if tasks is not None else []),
        *([f'--gres=gpu:{resources.gpus}'] if resources.gpus else []),
        *options,
    ]
    return [f'#SBATCH {word}' for word in words]


def submit_command(script: str, after: Sequence[str] = ()) -> list[str]:
    """Write the command that submits a script from the folder of the script.

    Parameters
    ----------
    script : str
        Name of the file.
    after : sequence of str
        Numbers of the jobs that have to end before.

    Returns
    -------
    list of str
        Command and arguments.
    """
    dependency = [f'--dependency=afterany:{":".join(after)}'] if after else []
    return ['sbatch', *dependency, '--parsable', script]


def submit(script: Path, after: Sequence[str] = ()) -> str:
    """Submit a script.

    Parameters
    ----------
    script : Path
        The script; the job runs in its folder.
    after : sequence of str
        Numbers of the jobs that have to end before.

    Returns
    -------
    str
        Number of the job.

    Raises
    ------
    InputError
        If SLURM is not on this machine, or rejects the job.
    """
    if shutil.which('sbatch') is None:
        raise InputError(
            'cannot be submitted, because there is no sbatch on this machine',
            advice='submit it on a machine from which jobs are submitted, outside of a container',
            path=script,
        )
    done = subprocess.run(
        submit_command(script.name, after),
        cwd=script.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    number = re.search(r'^(\d+)', done.stdout, re.M)
    if done.returncode or number is None:
        message = ' '.join((done.stderr or done.stdout).split()).rstrip('.')
        raise InputError(
            f'sbatch does not accept it ({message})', advice='correct the options', path=script
        )
    return number[1]


def tasks_in_queue() -> dict[tuple[str, int], str]:
    """Query SLURM for the tasks of this user that wait or run.

    Returns
    -------
    dict of tuple to str
        State of each task, such as ``PENDING``, by the name of its job and its number; empty on a
        machine without SLURM.

    Raises
    ------
    InputError
        If SLURM does not answer: treating its tasks as ended could run them twice.
    """
    if shutil.which('squeue') is None:
        return {}
    command = ['squeue', '--array', '--noheader', '--format=%j|%K|%T', f'--user={os.getuid()}']
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        message = ' '.join(done.stderr.split()).rstrip('.')
        raise InputError(f'squeue does not answer ({message})', advice='try again later')
    rows = (line.rsplit('|', 2) for line in done.stdout.splitlines())
    return {(name, int(task)): state for name, task, state in rows if task.isdigit()}

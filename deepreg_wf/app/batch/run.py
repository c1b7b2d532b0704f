"""Write, submit and follow the jobs of a cohort."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deepreg_wf.app.batch.resources import JobResources, job_resources
from deepreg_wf.app.batch.script import (
    ScriptOptions,
    new_batch_name,
    write_batches,
    write_group_script,
)
from deepreg_wf.app.batch.slurm import submit, submit_command
from deepreg_wf.app.batch.state import Progress, cohort_states, format_states
from deepreg_wf.app.exit_status import ALL_DONE, SOME_FAILED
from deepreg_wf.app.folders import check_folders, make_writable
from deepreg_wf.app.inputs import participants_with_image
from deepreg_wf.errors import InputError
from deepreg_wf.settings import Settings

_QUEUED = (Progress.RUNNING, Progress.WAITING)
_OPEN = (Progress.FAILED, Progress.TO_DO)
_MEMORY_SHARE = 0.8
"""Share of the memory of a task that its steps may use together; the rest is for the process."""


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """Options of a batch.

    Parameters
    ----------
    script : ScriptOptions
        Options of the scripts.
    submit : bool
        Submit the jobs; otherwise only write them.
    resume : bool
        Leave out the participants that are done, running or waiting.
    group : bool
        Run the group level when all tasks have ended.
    minutes : int, optional
        Time limit of a task, in minutes.
    gpus : str
        GPUs of a task, as in `JobResources`.
    """

    script: ScriptOptions
    submit: bool = False
    resume: bool = False
    group: bool = False
    minutes: int | None = None
    gpus: str = ''


def print_status(settings: Settings) -> int:
    """Print the state of the cohort.

    Parameters
    ----------
    settings : Settings
        Settings of the call.

    Returns
    -------
    int
        Exit status: 1 if participants have failed.

    Raises
    ------
    InputError
        If the call is unusable, or SLURM does not answer.
    """
    check_folders(settings)
    labels, _ = participants_with_image(settings.selection)
    states = cohort_states(settings.output.output_dir, labels)
    print('\n'.join(format_states(states)))
    any_failed = any(state.progress is Progress.FAILED for state in states.values())
    return SOME_FAILED if any_failed else ALL_DONE


def run_batch(settings: Settings, options: BatchOptions) -> int:
    """Write the jobs of a cohort, and submit them or print the commands that do.

    Parameters
    ----------
    settings : Settings
        Settings of the call.
    options : BatchOptions
        Options of the batch.

    Returns
    -------
    int
        Exit status.

    Raises
    ------
    InputError
        If the call is unusable, tasks of the cohort are in the queue, or SLURM rejects a job.
    """
    check_folders(settings)
    labels, without_image = participants_with_image(settings.selection)
    states = cohort_states(settings.output.output_dir, labels)
    queued = [label for label in labels if states[label].progress in _QUEUED]
    if options.resume:
        labels = [label for label in labels if states[label].progress in _OPEN]
    elif queued:
        raise InputError(
            f'{len(queued)} of its tasks are in the queue',
            advice='wait until they have ended, cancel them, or leave them out with --resume',
            path=settings.output.output_dir,
        )
    if without_image:
        print(f'Without an image: {", ".join(without_image)}')
    if labels:
        _write_jobs(labels, settings, options)
    else:
        print('All are done, or in the queue.')
    return ALL_DONE


def task_settings(settings: Settings, resources: JobResources) -> Settings:
    """Limit the settings of one task to the resources that it requests.

    Parameters
    ----------
    settings : Settings
        Settings of the call.
    resources : JobResources
        Resources of the task.

    Returns
    -------
    Settings
        Settings of the task.

    Raises
    ------
    InputError
        If a setting cannot be used in a task.
    """
    if settings.selection.bids_database_dir is not None:
        raise InputError(
            'bids_database_dir: tasks would write it at the same time',
            advice='leave it out, because a task reads the folder of one participant only',
        )
    if settings.execution.use_plugin is not None:
        raise InputError('use_plugin: a task runs all its steps itself', advice='leave it out')
    changes: dict[str, int | str] = {
        'nprocs': resources.cpus,
        'mem_mb': round(_MEMORY_SHARE * resources.memory_mb),
    }
    if not resources.gpus:
        changes['device'] = 'cpu'
    return settings.replace('execution', **changes)


def _write_jobs(labels: Sequence[str], settings: Settings, options: BatchOptions) -> None:
    """Write the jobs; submit them, or print the commands that do."""
    output_dir, device = settings.output.output_dir, settings.execution.device
    gpus = options.gpus or ('1' if device.startswith('cuda') else '')
    resources = job_resources(settings, minutes=options.minutes, gpus=gpus)
    make_writable(output_dir)
    name, of_task = new_batch_name(output_dir), task_settings(settings, resources)
    batches = list(write_batches(name, labels, of_task, resources, options.script))
    print(f'{len(labels)} tasks: {resources} each')
    group = None
    if options.group:
        group = write_group_script(batches[-1], settings, resources, options.script)
    jobs = [_submit_or_print(batch.folder / 'array.sh', options) for batch in batches]
    if group is not None:
        _submit_or_print(group, options, after=jobs)
    if options.submit:
        print(f'Logs: {batches[-1].folder}')


def _submit_or_print(script: Path, options: BatchOptions, after: Sequence[str] = ()) -> str:
    """Return the number of the job, or a placeholder if only the command is printed."""
    if options.submit:
        job = submit(script, after)
        print(f'Job {job}: {script}')
        return job
    command = shlex.join(submit_command(script.name, after))
    print(f'To submit: (cd {shlex.quote(str(script.parent))} && {command})')
    return 'JOB'

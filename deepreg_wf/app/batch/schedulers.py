"""What schedulers want to read and how they are called: one entry for each."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deepreg_wf.app.batch.resources import Needs
from deepreg_wf.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Scheduler:
    """How to write a job for a scheduler, and to submit it.

    The texts have the fields of `directives` in braces.

    Parameters
    ----------
    mark
        How the lines begin that the scheduler reads.
    job
        Lines of every job.
    array
        Lines of an array, ``task-N.out`` being the log of task N.
    alone
        Lines of a job that is no array.
    gpu
        Line of a job with GPUs.
    at_once
        What limits how many tasks run at the same time.
    index
        Variable of the shell with the number of the task, from 1.
    submit
        Command that submits a script, which is its last word or, with ``<``, its input.
    after
        Words of that command for a job that waits for others to end.
    joint
        What stands between these others.
    number
        Pattern of the number of the job in what that command prints.

    """

    mark: str
    job: tuple[str, ...]
    array: tuple[str, ...]
    alone: tuple[str, ...]
    gpu: str
    at_once: str
    index: str
    submit: tuple[str, ...]
    after: str
    joint: str
    number: str


SCHEDULERS = {
    'slurm': Scheduler(
        mark='#SBATCH',
        job=(
            '--job-name={name}',
            '--cpus-per-task={cpus}',
            '--mem={memory_mb}M',
            '--time={clock}',
        ),
        array=('--array=1-{tasks}{at_once}', '--output=task-%a.out'),
        alone=('--output={name}.out',),
        gpu='--gres=gpu:{gpus}',
        at_once='%{limit}',
        index='SLURM_ARRAY_TASK_ID',
        submit=('sbatch', '--parsable'),
        after='--dependency=afterany:{jobs}',
        joint=':',
        number=r'^(\d+)',
    ),
    'sge': Scheduler(
        mark='#$',
        job=(
            '-N {name}',
            '-S /bin/bash -V -cwd -j y',
            '-pe smp {cpus}',
            '-l h_vmem={memory_mb_a_cpu}M,h_rt={clock}',
        ),
        array=('-t 1-{tasks}{at_once}', '-o task-$TASK_ID.out'),
        alone=('-o {name}.out',),
        gpu='-l gpu={gpus}',
        at_once=' -tc {limit}',
        index='SGE_TASK_ID',
        submit=('qsub', '-terse'),
        after='-hold_jid {jobs}',
        joint=',',
        number=r'^(\d+)',
    ),
    'pbs': Scheduler(
        mark='#PBS',
        job=(
            '-N {name}',
            '-S /bin/bash -V -j oe',
            '-l select=1:ncpus={cpus}:mem={memory_mb}mb{gpu_resource}',
            '-l walltime={clock}',
        ),
        array=('-J 1-{tasks}{at_once}', '-o task-^array_index^.out'),
        alone=('-o {name}.out',),
        gpu='',
        at_once='%{limit}',
        index='PBS_ARRAY_INDEX',
        submit=('qsub',),
        after='-W depend=afterany:{jobs}',
        joint=':',
        number=r'^(\S+)',
    ),
    'lsf': Scheduler(
        mark='#BSUB',
        # The unit of a limit (-M) depends on the site; that of what is reserved is MB.
        job=(
            '-n {cpus} -R "span[hosts=1] rusage[mem={memory_mb}]"',
            '-W {clock_minutes}',
        ),
        array=('-J "{name}[1-{tasks}]{at_once}"', '-o task-%I.out'),
        alone=('-J {name}', '-o {name}.out'),
        gpu='-gpu "num={gpus}"',
        at_once='%{limit}',
        index='LSB_JOBINDEX',
        submit=('bsub', '<'),
        after='-w "{jobs}"',
        joint=' && ',
        number=r'Job <(\d+)>',
    ),
}
"""SLURM is tested with a real one; the others follow their manuals: Grid Engine, OpenPBS and PBS
Professional, IBM Spectrum LSF."""


def directives(
    scheduler: Scheduler,
    *,
    name: str,
    needs: Needs,
    tasks: int | None = None,
    limit: int | None = None,
    options: Sequence[str] = (),
) -> list[str]:
    """Write the lines of a script that its scheduler reads.

    Parameters
    ----------
    scheduler
        Of these.
    name
        Of the job.
    needs
        What it may use; each task of it, in an array.
    tasks
        Tasks of the array; None for a single job.
    limit
        Tasks that may run at the same time.
    options
        More words for the scheduler, such as ``--partition=long``, a line each.

    Returns
    -------
    list of str
        Lines.

    """
    minutes = needs.minutes
    values = {
        'name': name,
        'cpus': needs.cpus,
        'memory_mb': needs.memory_mb,
        'memory_mb_a_cpu': -(-needs.memory_mb // needs.cpus),
        'clock': f'{minutes // 60:02d}:{minutes % 60:02d}:00',
        'clock_minutes': f'{minutes // 60:02d}:{minutes % 60:02d}',
        'gpus': needs.gpus,
        'gpu_resource': f':ngpus={needs.gpus}' if needs.gpus else '',
        'tasks': tasks,
        'at_once': scheduler.at_once.format(limit=limit) if limit else '',
    }
    lines = [*scheduler.job, *(scheduler.alone if tasks is None else scheduler.array)]
    lines += [scheduler.gpu] if needs.gpus and scheduler.gpu else []
    return [f'{scheduler.mark} {line.format(**values)}' for line in lines] + [
        f'{scheduler.mark} {option}' for option in options
    ]


def submission(name: str, script: str, after: Sequence[str] = ()) -> str:
    """Write the command that submits a script, from within its folder.

    Parameters
    ----------
    name
        Of the scheduler.
    script
        Name of the file.
    after
        Jobs that have to end before.

    Returns
    -------
    str
        For a shell.

    """
    scheduler = SCHEDULERS[name]
    command, *more = scheduler.submit
    jobs = [f'ended({job})' for job in after] if name == 'lsf' else after
    waits = [scheduler.after.format(jobs=scheduler.joint.join(jobs))] if jobs else []
    return ' '.join([command, *waits, *more, script])


def submit(name: str, script: Path, after: Sequence[str] = ()) -> str:
    """Submit a script.

    Parameters
    ----------
    name
        Of the scheduler.
    script
        The job; it runs in the folder that it is in.
    after
        Jobs that have to end before.

    Returns
    -------
    str
        Number of the job.

    Raises
    ------
    InputError
        If the scheduler is not on this machine, or does not take the job.

    """
    command = SCHEDULERS[name].submit[0]
    if shutil.which(command) is None:
        raise InputError(
            f'{script}: cannot be submitted, for there is no {command} on this machine; '
            'submit it where jobs are submitted from, and outside of a container.'
        )
    words = ['bash', '-c', submission(name, script.name, after)]
    done = subprocess.run(words, cwd=script.parent, capture_output=True, text=True, check=False)
    number = re.search(SCHEDULERS[name].number, done.stdout, re.M)
    if done.returncode or number is None:
        said = ' '.join((done.stderr or done.stdout).split()).rstrip('.')
        raise InputError(f'{script}: {command} does not take it ({said}); mend the options.')
    return number[1]


def tasks_in_queue() -> dict[tuple[str, int], str]:
    """Ask SLURM for the tasks of this user that wait or run.

    Returns
    -------
    dict of tuple to str
        State of each task, such as ``PENDING``, by the name of its job and its number; none where
        there is no SLURM.

    Raises
    ------
    InputError
        If SLURM does not answer: who then takes its tasks for gone may run them twice.

    """
    if shutil.which('squeue') is None:
        return {}
    words = ['squeue', '--array', '--noheader', '--format=%j|%K|%T', f'--user={os.getuid()}']
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        said = ' '.join(done.stderr.split()).rstrip('.')
        raise InputError(f'slurm: squeue does not answer ({said}); try again later.')
    rows = (line.rsplit('|', 2) for line in done.stdout.splitlines())
    return {(name, int(task)): state for name, task, state in rows if task.isdigit()}

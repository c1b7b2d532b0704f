"""Resources that each task requests from the scheduler."""

from __future__ import annotations

from dataclasses import dataclass

from deepreg_wf.settings import Settings

CPUS = 2
"""Processors of a task."""

MEMORY_MB = 3072
"""Memory of a task, in MiB.

A head of 256^3 voxels takes 2269 MiB on two processors (``benchmarks/RESULTS.md``)."""

FINE_MEMORY_MB = 4096
"""Memory of a task, in MiB, on a registration grid finer than 2 mm.

The same head takes 2830 MiB on a grid of 1 mm."""

MINUTES = 120
"""Time limit of a task, in minutes."""

_FINE_MM = 2.0


@dataclass(frozen=True, kw_only=True)
class JobResources:
    """Resources of a job, or of each task of an array.

    Parameters
    ----------
    cpus : int
        Processors.
    memory_mb : int
        Memory, in MiB.
    minutes : int
        Time limit, in minutes.
    gpus : str
        Number of GPUs, or ``TYPE:NUMBER``; empty for none.
    """

    cpus: int
    memory_mb: int
    minutes: int
    gpus: str = ''

    def __str__(self) -> str:
        gpus = f', gpu:{self.gpus}' if self.gpus else ''
        return f'{self.cpus} processors, {self.memory_mb} MiB, {self.minutes} min{gpus}'


def job_resources(settings: Settings, *, minutes: int | None, gpus: str) -> JobResources:
    """Fill in the resources that were not given with the defaults of this module.

    Parameters
    ----------
    settings : Settings
        Settings of the call; ``nprocs`` and ``mem_mb`` are used where they are given.
    minutes : int or None
        Time limit, in minutes, if it is given.
    gpus : str
        As in `JobResources`.

    Returns
    -------
    JobResources
        Resources of each task.
    """
    is_fine = settings.registration.registration_resolution < _FINE_MM
    return JobResources(
        cpus=settings.execution.nprocs or CPUS,
        memory_mb=settings.execution.mem_mb or (FINE_MEMORY_MB if is_fine else MEMORY_MB),
        minutes=minutes or MINUTES,
        gpus=gpus,
    )

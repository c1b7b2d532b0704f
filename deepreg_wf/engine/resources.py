"""Processors, threads, memory and GPU that a run uses, and the plugin of Nipype that runs it."""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepreg_wf.engine.schedulers import SUBMIT_COMMANDS
from deepreg_wf.errors import InputError
from deepreg_wf.settings import Execution, check_device, default_of
from deepreg_wf.utils.memory import MEMORY_VARIABLE
from deepreg_wf.utils.text_file import read_user_text

MAX_THREADS = 8
"""Most threads of one step, unless the user asks for more."""

SPIN_COUNT = 10_000
"""Number of times that a thread of OpenMP checks for work before it sleeps.

The default of GNU's library is about a hundred times that. On processors that are shared with
other processes, a geodesic then takes fifteen times as long; with this value, twice as long.
On free processors there is no difference.
"""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Resources of a run.

    Parameters
    ----------
    device : str
        ``cpu``, ``cuda`` or ``cuda:N``.
    nprocs : int
        Processors in use at the same time.
    omp_nthreads : int
        Threads of one step.
    batch_size : int
        Maximum number of patches that go through a network at once.
    n_gpu_procs : int
        Steps that use the GPU at the same time.
    is_deterministic : bool
        Whether libraries give the same bits in each run.
    mem_mb : int, optional
        Memory of all steps together, in MiB; by default 90 % of that of the machine.
    plugin_name : str
        Plugin of Nipype.
    plugin_args : mapping
        Its arguments.
    verbose : int
        Level of the log of Nipype; 2 or more for debugging.
    resource_monitor : bool
        Whether Nipype records the resources of each step.
    """

    device: str
    nprocs: int
    omp_nthreads: int
    batch_size: int = default_of('batch_size')
    n_gpu_procs: int = 1
    is_deterministic: bool = False
    mem_mb: int | None = None
    plugin_name: str = 'MultiProc'
    plugin_args: Mapping[str, Any] = field(default_factory=dict)
    verbose: int = 0
    resource_monitor: bool = False

    @property
    def on_cluster(self) -> bool:
        """Execution of each step as a job of a scheduler, on another machine."""
        return self.plugin_name in SUBMIT_COMMANDS

    def environment(self) -> dict[str, str]:
        """Return the environment variables that limit the threads of libraries and the memory.

        Returns
        -------
        dict of str to str
            With `is_deterministic`, also the one that makes MKL give the same bits.
        """
        names = ('OMP', 'MKL', 'OPENBLAS', 'NUMEXPR')
        threads = {f'{name}_NUM_THREADS': str(self.omp_nthreads) for name in names}
        # Otherwise the bits of MKL depend on the address of its input in memory.
        # A job of a cluster has the memory of its own machine.
        memory = {MEMORY_VARIABLE: '' if self.on_cluster else str(self.mem_mb or '')}
        return threads | memory | ({'MKL_CBWR': 'AUTO'} if self.is_deterministic else {})

    def plugin(self, callback: Callable[[Any, str], None]) -> tuple[Any, dict[str, Any]]:
        """Make the plugin that runs the workflow.

        Parameters
        ----------
        callback : callable
            Called with each node and its status when it starts or ends.

        Returns
        -------
        plugin : nipype plugin or str
            The plugin, or its name. By default it is a pool of worker processes, of one at least,
            so that a step that kills its process does not end the run.
        plugin_args : dict
            Its arguments.

        Raises
        ------
        InputError
            If there is no such plugin, or it cannot be used on this machine.
        """
        if self.plugin_name not in ('MultiProc', 'Linear'):
            from deepreg_wf.engine.slurm import SlurmPlugin, check_plugin

            check_plugin(self.plugin_name)
            arguments = {**self.plugin_args, 'status_callback': callback}
            is_slurm = self.plugin_name == 'SLURM'
            return SlurmPlugin(arguments) if is_slurm else self.plugin_name, arguments
        if self.plugin_name == 'Linear':
            return 'Linear', {'status_callback': callback}
        from deepreg_wf.engine.multiproc import WorkerPool

        arguments = {
            'n_procs': self.nprocs,
            'n_gpu_procs': self.n_gpu_procs,
            'log_level': logging.DEBUG if self.verbose > 1 else logging.INFO,
            'resource_monitor': self.resource_monitor,
            **({'memory_gb': self.mem_mb / 1024} if self.mem_mb else {}),
            **self.plugin_args,
            'status_callback': callback,
        }
        return WorkerPool(arguments), arguments


def limit_thread_spinning() -> None:
    """Make idle threads of OpenMP sleep soon; to be called before torch is imported."""
    os.environ.setdefault('GOMP_SPINCOUNT', str(SPIN_COUNT))


def plan_resources(execution: Execution, *, images: int) -> Resources:
    """Choose the resources of a run.

    Parameters
    ----------
    execution : Execution
        Settings of the call; what is set there is used.
    images : int
        Number of images that share the processors.

    Returns
    -------
    Resources
        With so many threads for each step that as many images as possible run at the same time,
        since these share nothing.

    Raises
    ------
    InputError
        If there is no such device, or the plugin file is unusable.
    """
    nprocs = execution.nprocs or available_processors()
    threads = execution.omp_nthreads or max(1, min(MAX_THREADS, nprocs // max(1, images)))
    plugin = _read_plugin(execution.use_plugin) if execution.use_plugin else {}
    name = plugin.get('plugin', 'MultiProc')
    return Resources(
        device='cpu' if execution.deterministic else _device(execution.device, name),
        nprocs=nprocs,
        omp_nthreads=1 if execution.deterministic else threads,
        batch_size=default_of('batch_size') if execution.deterministic else execution.batch_size,
        is_deterministic=execution.deterministic,
        n_gpu_procs=execution.n_gpu_procs,
        mem_mb=execution.mem_mb,
        plugin_name=name,
        plugin_args=plugin.get('plugin_args', {}),
        verbose=execution.verbose,
        resource_monitor=execution.resource_monitor,
    )


def available_processors() -> int:
    """Count the processors that this process may use."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def resolve_device(device: str) -> str:
    """Replace ``auto`` by a device, and check that any other is available.

    Parameters
    ----------
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Returns
    -------
    str
        ``cpu``, ``cuda`` or ``cuda:N``.

    Raises
    ------
    InputError
        If there is no such name, or this machine does not have the device.
    """
    check_device(device)
    if device == 'cpu':
        return device
    count = _count_gpus()
    if device == 'auto':
        return 'cuda' if count else 'cpu'
    if int(device.partition(':')[2] or 0) >= count:
        found = f'{count or "no"} CUDA GPU{"s" if count > 1 else ""}'
        raise InputError(
            f'{device} was asked for, but torch finds {found} on this machine',
            advice='choose another device with --device, or leave that option out',
        )
    return device


def _device(device: str, plugin: str) -> str:
    """Return the device of the steps; the machines of a cluster cannot be asked for theirs."""
    if plugin in SUBMIT_COMMANDS:
        return 'cpu' if device == 'auto' else device
    return resolve_device(device)


def _count_gpus() -> int:
    """Count the CUDA GPUs; torch is imported, which takes seconds, only if there is a driver."""
    try:
        ctypes.CDLL('libcuda.so.1')
    except OSError:
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _read_plugin(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(read_user_text(path))
    except (InputError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(
            'the plugin file cannot be read as YAML', advice='correct it', path=path
        ) from error
    expected = {'plugin': str, 'plugin_args': dict}
    if not isinstance(content, dict) or not all(
        name in expected and isinstance(value, expected[name]) for name, value in content.items()
    ):
        raise InputError(
            'a plugin file has the keys "plugin" (a name) and "plugin_args" (a mapping), and no '
            'others',
            advice='correct it',
            path=path,
        )
    return content

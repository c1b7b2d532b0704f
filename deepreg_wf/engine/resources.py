"""What a run may use: processors, threads, memory, a GPU, a cluster."""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepreg_wf.engine.schedulers import SUBMITS_WITH
from deepreg_wf.errors import InputError
from deepreg_wf.settings import Execution, default_of

MOST_THREADS = 8

SPINS = 10_000
"""How often a thread of OpenMP looks whether there is work before it sleeps.

GNU's own default is some hundred times that. Where processors are shared with other processes it
makes a geodesic take fifteen times as long, and this twice; where they are not, both are as fast.
"""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a run may use.

    Parameters
    ----------
    device
        ``cpu``, ``cuda`` or ``cuda:N``.
    nprocs
        Processors in use at once.
    omp_nthreads
        Threads of one step.
    batch_size
        Patches that go through a network at once, at most.
    n_gpu_procs
        Steps that use the GPU at once.
    is_deterministic
        Whether libraries are to give the same bits from run to run.
    mem_mb
        Memory of the steps together, in MiB; None leaves it to Nipype.
    plugin_name, plugin_args
        Of the Nipype plugin that was asked for.
    verbose, resource_monitor
        As in the settings, for the workers.

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
        """Whether steps are jobs of a scheduler, on other machines than this one."""
        return self.plugin_name in SUBMITS_WITH

    def environment(self) -> dict[str, str]:
        """Variables that hold libraries to the threads of one step, and to the same bits."""
        names = ('OMP', 'MKL', 'OPENBLAS', 'NUMEXPR')
        threads = {f'{name}_NUM_THREADS': str(self.omp_nthreads) for name in names}
        # Or the bits of MKL depend on where in memory its input happens to lie.
        return threads | ({'MKL_CBWR': 'AUTO'} if self.is_deterministic else {})

    def plugin(self, monitor: Callable[[Any, str], None]) -> tuple[Any, dict[str, Any]]:
        """Choose how Nipype runs the graph.

        Parameters
        ----------
        monitor
            Called when a node starts or ends.

        Returns
        -------
        tuple
            Plugin, or its name, and its arguments: a pool of processes (one at least: what a
            step does to its process is not to end the run), or the plugin that was asked for.

        Raises
        ------
        InputError
            If there is no such plugin, or it cannot be used here.

        """
        if self.plugin_name not in ('MultiProc', 'Linear'):
            from deepreg_wf.engine.slurm import SlurmPlugin, check_plugin

            check_plugin(self.plugin_name)
            arguments = {**self.plugin_args, 'status_callback': monitor}
            is_slurm = self.plugin_name == 'SLURM'
            return SlurmPlugin(arguments) if is_slurm else self.plugin_name, arguments
        if self.plugin_name == 'Linear':
            return 'Linear', {'status_callback': monitor}
        from deepreg_wf.engine.multiproc import WorkerPool

        arguments = {
            'n_procs': self.nprocs,
            'n_gpu_procs': self.n_gpu_procs,
            'raise_insufficient': False,
            'log_level': logging.DEBUG if self.verbose > 1 else logging.INFO,
            'resource_monitor': self.resource_monitor,
            **({'memory_gb': self.mem_mb / 1024} if self.mem_mb else {}),
            **self.plugin_args,
            'status_callback': monitor,
        }
        return WorkerPool(arguments), arguments


def share_processors() -> None:
    """Have threads that wait leave the processor to others; before torch is imported."""
    os.environ.setdefault('GOMP_SPINCOUNT', str(SPINS))


def plan_resources(execution: Execution, *, images: int) -> Resources:
    """Fill in what was not asked for.

    Parameters
    ----------
    execution
        What was asked for.
    images
        How many images share the processors.

    Returns
    -------
    Resources
        Threads for each step such that images come first: they share nothing.

    Raises
    ------
    InputError
        If there is no such device, or the plugin file is unusable.

    """
    nprocs = execution.nprocs or available_processors()
    threads = execution.omp_nthreads or max(1, min(MOST_THREADS, nprocs // max(1, images)))
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
    """Turn ``auto`` into a device, and see that any other is there.

    Parameters
    ----------
    device
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Returns
    -------
    str
        ``cpu``, ``cuda`` or ``cuda:N``.

    Raises
    ------
    InputError
        If the device is not on this machine.

    """
    if device == 'cpu':
        return device
    count = _count_gpus()
    if device == 'auto':
        return 'cuda' if count else 'cpu'
    if int(device.partition(':')[2] or 0) >= count:
        raise InputError(
            f'device: torch finds {count or "no"} CUDA GPU{"s" if count > 1 else ""} here and '
            f'{device} was asked for; choose another device, or leave it out.'
        )
    return device


def _device(device: str, plugin: str) -> str:
    """Device of the steps; on the other machines of a cluster a GPU is there if asked for."""
    if plugin in SUBMITS_WITH:
        return 'cpu' if device == 'auto' else device
    return resolve_device(device)


def _count_gpus() -> int:
    """Ask torch, which takes seconds to import, only where there is a driver."""
    try:
        ctypes.CDLL('libcuda.so.1')
    except OSError:
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _read_plugin(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f'{path}: the plugin file is not YAML; mend it.') from error
    expected = {'plugin': str, 'plugin_args': dict}
    if not isinstance(content, dict) or not all(
        name in expected and isinstance(value, expected[name]) for name, value in content.items()
    ):
        raise InputError(
            f'{path}: a plugin file has the keys "plugin" (a name) and "plugin_args" (a mapping) '
            'and no others; mend it.'
        )
    return content

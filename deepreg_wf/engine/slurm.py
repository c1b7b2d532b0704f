"""Nipype's plugins for the schedulers of clusters, and preparations that they need."""

from __future__ import annotations

import getpass
import logging
import math
import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nipype.pipeline import plugins
from nipype.pipeline.plugins.base import GraphPluginBase

from deepreg_wf.engine.crashes import JobEnded
from deepreg_wf.engine.job_logs import termination_reason
from deepreg_wf.engine.multiproc import uses_gpu
from deepreg_wf.engine.progress import STEP_LABELS
from deepreg_wf.engine.schedulers import SUBMIT_COMMANDS
from deepreg_wf.errors import InputError

POLLING = {'poll_sleep_duration': '1', 'job_finished_timeout': '20'}
"""Configuration of Nipype, in seconds: jobs take long, and the network may delay their results."""

_LOCAL_STEPS = ('RaiseIfImplausible',)
_MIN_MEMORY_MB = 512
_NO_RESULT = 'unknown'
"""Host that Nipype gives in place of one for a job that has left no result."""

logger = logging.getLogger('nipype.workflow')


class SlurmPlugin(plugins.SLURMPlugin):
    """Nipype's SLURM plugin, with one query for all jobs.

    Nipype's own calls ``squeue`` for each job in each round, does not say why a job was ended,
    and leaves its jobs in the queue when it is interrupted.

    `_submit_batchtask`, `_is_pending` and `_get_result` are the methods by which Nipype's
    base class for clusters leaves the scheduler to its subclasses.

    Parameters
    ----------
    plugin_args : dict
        Arguments of Nipype's plugin, and ``squeue_interval``: seconds between two queries.
    """

    def __init__(self, plugin_args: dict[str, Any]) -> None:
        super().__init__(plugin_args=plugin_args)
        self._interval = float(plugin_args.get('squeue_interval', 5))
        self._queried = 0.0
        self._queue: set[str] = set()
        self._submitted: dict[int, tuple[float, Path]] = {}

    def run(self, graph: Any, config: Any, updatehash: bool = False) -> None:
        """Run a graph; its jobs are cancelled if the run ends early.

        Parameters
        ----------
        graph : networkx.DiGraph
            Expanded graph of nodes.
        config : mapping
            Nipype's configuration.
        updatehash : bool
            Only update the hashes of nodes that were run before.
        """
        try:
            super().run(graph, config, updatehash)
        finally:
            if self._pending:
                subprocess.run(['scancel', *map(str, self._pending)], check=False)

    def _submit_batchtask(self, scriptfile: str, node: Any) -> int:
        taskid: int = super()._submit_batchtask(scriptfile, node)
        self._submitted[taskid] = time.monotonic(), Path(scriptfile).parent
        return taskid

    def _get_result(self, taskid: int) -> dict[str, Any] | None:
        """Return the result of a job, or the reason why it has none; None while it runs."""
        result: dict[str, Any] | None = super()._get_result(taskid)
        if result and result.get('hostname') == _NO_RESULT:
            log = self._submitted[taskid][1] / f'slurm-{taskid}.out'
            reason = termination_reason(log) or 'it left no result'
            result['traceback'] = [
                'Traceback (most recent call last):\n',
                f'{JobEnded.__name__}: job {taskid} of SLURM: {reason}; its log is {log}\n',
            ]
        return result

    def _is_pending(self, taskid: int) -> bool:
        now = time.monotonic()
        if now - self._queried >= self._interval:
            self._query_queue(now)
        return self._submitted[taskid][0] >= self._queried or str(taskid) in self._queue

    def _query_queue(self, now: float) -> None:
        """Ask for all jobs of the user; if the controller is busy, it is asked again later."""
        words = ['squeue', '--noheader', '--format=%i', f'--user={os.getuid()}']
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            self._queue, self._queried = set(done.stdout.split()), now
        else:
            logger.warning('squeue: %s', done.stderr.strip())


def check_plugin(name: str) -> None:
    """Check that a plugin can be used on this machine.

    Parameters
    ----------
    name : str
        Name in the plugin file.

    Raises
    ------
    InputError
        If Nipype has no such plugin, it does not wait for its jobs, or this machine lacks the
        command that submits them.
    """
    plugin = getattr(plugins, f'{name}Plugin', None)
    if plugin is None:
        raise InputError(f'{name}: Nipype has no such plugin', advice='correct the plugin file')
    if issubclass(plugin, GraphPluginBase):
        raise InputError(
            f'{name}: this plugin does not wait for its jobs, so that failures could not be '
            'reported',
            advice=f'use {name.removesuffix("Graph")}, or deepreg_wf-batch',
        )
    command = SUBMIT_COMMANDS.get(name)
    if command and shutil.which(command) is None:
        raise InputError(
            f'{name}: there is no {command} on this machine',
            advice='start deepreg_wf on a machine that submits jobs, and not in a container',
        )


def prepare_jobs(workflow: Any, name: str, plugin_args: Mapping[str, Any]) -> None:
    """Prepare a workflow for nodes that run as jobs.

    Nodes that take no time run in the process that submits the others. With SLURM each job asks
    for the processors, the memory and the GPU of its node, unless `plugin_args` says otherwise.

    Parameters
    ----------
    workflow : nipype.Workflow
        The workflow, which is changed.
    name : str
        Plugin of Nipype.
    plugin_args : mapping
        Its arguments.

    Raises
    ------
    InputError
        If the scheduler could not read the paths of its scripts.
    """
    if re.search(r'[\s\[\]*?]', str(workflow.base_dir)):
        raise InputError(
            f'the work folder has a blank or one of [ ] * ? in its path, where {name} finds no '
            'script',
            advice='give another',
            path=workflow.base_dir,
        )
    for path in workflow.list_node_names():
        node = workflow.get_node(path)
        interface = type(node.interface).__name__
        node.run_without_submitting = interface not in STEP_LABELS or interface in _LOCAL_STEPS
        if name == 'SLURM':
            options = str(plugin_args.get('sbatch_args') or '')
            node.plugin_args = {
                'sbatch_args': f'{_sbatch_options(node)} {options}',
                'overwrite': True,
            }
    if 'LOGNAME' not in os.environ:  # Nipype's plugins need it for the names of their jobs
        os.environ['LOGNAME'] = _user()


def _sbatch_options(node: Any) -> str:
    memory = max(_MIN_MEMORY_MB, math.ceil(1024 * node.mem_gb))
    gpu = ' --gres=gpu:1' if uses_gpu(node) else ''
    return f'--cpus-per-task={node.n_procs or 1} --mem={memory}M{gpu}'


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container, the user may have no name
        return str(os.getuid())

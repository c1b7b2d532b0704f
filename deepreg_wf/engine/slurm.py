"""Nipype's plugins for the schedulers of clusters, and what they leave to be done."""

from __future__ import annotations

import getpass
import logging
import math
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nipype.pipeline import plugins
from nipype.pipeline.plugins.base import GraphPluginBase

from deepreg_wf.engine.job_logs import reason_of_end
from deepreg_wf.engine.progress import STEPS
from deepreg_wf.engine.schedulers import SUBMITS_WITH
from deepreg_wf.errors import InputError

POLLING = {'poll_sleep_duration': '1', 'job_finished_timeout': '20'}
"""For Nipype, in seconds: a step is a job of its own, so there is no hurry, and its result may
come late over a network."""

_QUICK = ('StopOnDoubt',)
_LEAST_MB = 512

logger = logging.getLogger('nipype.workflow')


class SlurmPlugin(plugins.SLURMPlugin):
    """Nipype's SLURM plugin that asks once for all jobs, and leaves none behind.

    Nipype's own calls ``squeue`` for each job in each round, does not tell why a job was ended,
    and leaves its jobs in the queue when it is interrupted.

    Parameters
    ----------
    plugin_args
        Those of Nipype's plugin, and ``squeue_interval``: seconds between two looks at the queue.

    """

    def __init__(self, plugin_args: dict[str, Any]) -> None:
        super().__init__(plugin_args=plugin_args)
        self._interval = float(plugin_args.get('squeue_interval', 5))
        self._looked = 0.0
        self._queue: set[str] = set()
        self._submitted: dict[int, tuple[float, Path]] = {}

    def run(self, graph: Any, config: Any, updatehash: bool = False) -> None:
        """Run a graph; whatever cuts it short, its jobs are cancelled.

        Parameters
        ----------
        graph
            Expanded graph of nodes.
        config
            Nipype's configuration.
        updatehash
            As Nipype has it.

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
        """Result of a job that has ended, or why there is none; None as long as it has not."""
        result: dict[str, Any] | None = super()._get_result(taskid)
        if result and 'results file does not exist' in ''.join(result['traceback'] or ''):
            log = self._submitted[taskid][1] / f'slurm-{taskid}.out'
            why = reason_of_end(log) or 'it left no result'
            result['traceback'] = [
                'Traceback (most recent call last):\n',
                f'JobEnded: job {taskid} of SLURM: {why}; its log is {log}\n',
            ]
        return result

    def _is_pending(self, taskid: int) -> bool:
        now = time.monotonic()
        if now - self._looked >= self._interval:
            self._look(now)
        return self._submitted[taskid][0] >= self._looked or str(taskid) in self._queue

    def _look(self, now: float) -> None:
        """Ask which jobs there are; a controller that is busy is asked again later."""
        words = ['squeue', '--noheader', '--format=%i', f'--user={os.getuid()}']
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            self._queue, self._looked = set(done.stdout.split()), now
        else:
            logger.warning('squeue: %s', done.stderr.strip())


def check_plugin(name: str) -> None:
    """See that a plugin can be used here.

    Parameters
    ----------
    name
        As in the plugin file.

    Raises
    ------
    InputError
        If Nipype has no such plugin, it does not wait for its jobs, or the command that it
        submits them with is not on this machine.

    """
    plugin = getattr(plugins, f'{name}Plugin', None)
    if plugin is None:
        raise InputError(f'{name}: Nipype has no such plugin; mend the plugin file.')
    if issubclass(plugin, GraphPluginBase):
        raise InputError(
            f'{name}: this plugin does not wait for its jobs, so that nobody would tell what '
            f'failed; use {name.removesuffix("Graph")}, or deepreg_wf-batch, instead.'
        )
    command = SUBMITS_WITH.get(name)
    if command and shutil.which(command) is None:
        raise InputError(
            f'{name}: there is no {command} on this machine; start deepreg_wf where jobs are '
            'submitted from, and outside of a container.'
        )


def prepare_jobs(workflow: Any, name: str, plugin_args: Mapping[str, Any]) -> None:
    """Get a graph ready for its nodes to become jobs.

    Steps that take no time are run by the process that submits the others. With SLURM each job
    asks for what its step needs, unless `plugin_args` says otherwise.

    Parameters
    ----------
    workflow
        The graph.
    name, plugin_args
        Of the plugin.

    Raises
    ------
    InputError
        If the scheduler could not read the paths of its scripts.

    """
    if len(str(workflow.base_dir).split()) != 1:
        raise InputError(
            f'{workflow.base_dir}: the work folder has a blank in its path, where {name} finds no '
            'script; give another.'
        )
    for path in workflow.list_node_names():
        node = workflow.get_node(path)
        interface = type(node.interface).__name__
        node.run_without_submitting = interface not in STEPS or interface in _QUICK
        if name == 'SLURM':
            asked = str(plugin_args.get('sbatch_args') or '')
            node.plugin_args = {'sbatch_args': f'{_request(node)} {asked}', 'overwrite': True}
    if 'LOGNAME' not in os.environ:  # Nipype's plugins name their jobs by it
        os.environ['LOGNAME'] = _user()


def _request(node: Any) -> str:
    """What SLURM is asked for a step."""
    memory = max(_LEAST_MB, math.ceil(1024 * node.mem_gb))
    gpu = ' --gres=gpu:1' if getattr(node.interface.inputs, 'use_gpu', False) is True else ''
    return f'--cpus-per-task={node.n_procs or 1} --mem={memory}M{gpu}'


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container whose user has no name
        return str(os.getuid())

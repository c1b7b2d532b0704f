"""Nipype plugin that runs the nodes of a graph in worker processes on this machine."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections import deque
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from traceback import format_exception
from typing import Any

from nipype.pipeline.plugins.base import PluginBase
from nipype.pipeline.plugins.tools import report_crash
from nipype.utils.misc import str2bool
from nipype.utils.profiler import get_system_total_memory_gb

from deepreg_wf.engine.crashes import (
    Crash,
    ErrorRecord,
    WorkerDied,
    describe_exception,
    write_facts,
)
from deepreg_wf.engine.ordering import NodeQueue
from deepreg_wf.engine.worker import run_node, start_worker

_MEMORY_SHARE = 0.9

logger = logging.getLogger('nipype.workflow')


@dataclass
class _Job:
    """A node that was sent to a worker."""

    index: int
    node: Any
    is_alone: bool = False


class WorkerPool(PluginBase):
    """Run nodes in worker processes.

    In place of Nipype's ``MultiProc``, which waits for ever for a worker that was killed, leaves
    workers behind when it is interrupted, and for hundreds of images spends more time on its
    matrix of dependencies than on the nodes. The schedule is that of `NodeQueue`: an image ends
    before the next begins, as far as there are processors.

    A node whose worker is killed, or that runs out of memory, runs once more with no other beside
    it, and has failed only if it fails again. When a worker is killed, all nodes that run at that
    time run again, since each of them may have taken the memory. A node that runs out of memory
    on a GPU runs again on the CPU.

    Only public interfaces of Nipype are used: `PluginBase.run` and the methods of a node.

    Parameters
    ----------
    plugin_args : dict, optional
        As for Nipype's ``MultiProc``: ``n_procs``, ``memory_gb`` (GB), ``n_gpu_procs`` and
        ``status_callback``; and for the workers ``log_level`` and ``resource_monitor``. A node
        that needs more than there is runs with no other beside it.

    Attributes
    ----------
    unwritten_crashes : list of Crash
        Crashes whose file could not be written.
    """

    def __init__(self, plugin_args: dict[str, Any] | None = None) -> None:
        super().__init__(plugin_args=plugin_args)
        arguments = self.plugin_args
        self.processors: int = arguments.get('n_procs', multiprocessing.cpu_count())
        self.memory_gb: float = arguments.get(
            'memory_gb', _MEMORY_SHARE * get_system_total_memory_gb()
        )
        self.n_gpu_procs: int = arguments.get('n_gpu_procs', 1)
        self.unwritten_crashes: list[Crash] = []
        self._running: dict[Future[ErrorRecord | None], _Job] = {}
        self._retries: deque[_Job] = deque()
        self._errors: list[str] = []
        self._pool = self._new_pool()

    def run(self, graph: Any, config: Mapping[str, Any], updatehash: bool = False) -> None:
        """Run a graph; when this returns or raises, no worker is left.

        Parameters
        ----------
        graph : networkx.DiGraph
            Expanded graph of nodes.
        config : mapping
            Nipype's configuration.
        updatehash : bool
            Only update the hashes of nodes that were run before.

        Raises
        ------
        RuntimeError
            If a node failed: at once with ``stop_on_first_crash``, or else at the end.
        """
        self._queue = NodeQueue(graph)
        self._updatehash = updatehash
        self._stops_on_crash = str2bool(config['execution']['stop_on_first_crash'])
        others = set(multiprocessing.active_children())
        try:
            self._start_jobs()
            while self._running:
                done, _ = wait(self._running, return_when=FIRST_COMPLETED)
                for future in sorted(done, key=lambda each: self._running[each].index):
                    self._finish(future)
                self._start_jobs()
            self._pool.shutdown()
        finally:
            self._pool.shutdown(wait=False, cancel_futures=True)
            for worker in set(multiprocessing.active_children()) - others:
                worker.terminate()
        if self._errors:
            raise RuntimeError(f'{len(self._errors)} nodes failed, first: {self._errors[0]}')

    def _new_pool(self) -> ProcessPoolExecutor:
        level = self.plugin_args.get('log_level', logging.INFO)
        return ProcessPoolExecutor(
            max_workers=self.processors,
            # A fork of a process that has used torch may hang.
            mp_context=multiprocessing.get_context('forkserver'),
            initializer=start_worker,
            initargs=(os.getcwd(), level, self.plugin_args.get('resource_monitor', False)),
        )

    def _start_jobs(self) -> None:
        """Start all nodes that are ready and fit, or the next retry once nothing else runs."""
        if self._retries or any(job.is_alone for job in self._running.values()):
            if self._retries and not self._running:
                job = self._retries.popleft()
                job.is_alone = True
                self._notify(job.node, 'retry')
                self._submit(job)
            return
        while (index := self._next()) is not None:
            self._queue.start(index)
            self._start(index)

    def _next(self) -> int | None:
        """Return the first node that is ready and for which there are resources."""
        if len(self._running) >= self.processors:
            return None
        nodes = [job.node for job in self._running.values()]
        processors = self.processors - sum(node.n_procs for node in nodes)
        memory = self.memory_gb - sum(node.mem_gb for node in nodes)
        gpus = self.n_gpu_procs - sum(node.n_procs for node in nodes if uses_gpu(node))
        for index in self._queue.ready:
            node = self._queue.nodes[index]
            if (
                min(node.n_procs, self.processors) <= processors
                and min(node.mem_gb, self.memory_gb) <= memory
                and (not uses_gpu(node) or min(node.n_procs, self.n_gpu_procs) <= gpus)
            ):
                return index
        return None

    def _start(self, index: int) -> None:
        node = self._queue.nodes[index]
        if _is_up_to_date(node):
            self._succeed(index)
        elif node.run_without_submitting:
            error = run_node(node, self._updatehash)
            if error is None:
                self._succeed(index)
            else:
                self._fail(node, error)
        else:
            self._notify(node, 'start')
            self._submit(_Job(index, node))

    def _submit(self, job: _Job) -> None:
        try:
            future = self._pool.submit(run_node, job.node, self._updatehash)
        except BrokenProcessPool:
            self._pool = self._new_pool()
            future = self._pool.submit(run_node, job.node, self._updatehash)
        self._running[future] = job

    def _finish(self, future: Future[ErrorRecord | None]) -> None:
        job = self._running.pop(future)
        error, is_retried = _outcome(future)
        if error is None:
            self._succeed(job.index)
        elif is_retried and not job.is_alone:
            if error.is_gpu_error:
                _move_to_cpu(job.node)
            self._retries.append(job)
        else:
            self._fail(job.node, error)

    def _succeed(self, index: int) -> None:
        self._notify(self._queue.nodes[index], 'end')
        self._queue.finish(index)

    def _fail(self, node: Any, error: ErrorRecord) -> None:
        self._notify(node, 'exception')
        self._errors.append(error.traceback)
        self._write_crash(node, error)
        if self._stops_on_crash:
            raise RuntimeError(error.traceback)

    def _write_crash(self, node: Any, error: ErrorRecord) -> None:
        folder = Path(node.config['execution']['crashdump_dir'])
        before = set(folder.glob('crash-*'))
        try:
            path = report_crash(node, traceback=error.traceback.splitlines(keepends=True))
            write_facts(Path(path), error)
        except OSError as problem:  # the node may have failed for the full disk of this folder
            logger.warning('%s: no crash file could be written: %s', node.fullname, problem)
            for incomplete in set(folder.glob('crash-*')) - before:
                incomplete.unlink(missing_ok=True)
            self.unwritten_crashes.append(Crash(node.fullname, error))

    def _notify(self, node: Any, status: str) -> None:
        callback = self.plugin_args.get('status_callback')
        if callback is not None:
            callback(node, status)


def uses_gpu(node: Any) -> bool:
    """Return whether a node asks for a GPU by its input ``use_gpu``."""
    return getattr(node.inputs, 'use_gpu', False) is True


def _move_to_cpu(node: Any) -> None:
    """Make a node compute on the CPU; these inputs are no part of Nipype's hash."""
    if hasattr(node.inputs, 'device'):
        node.inputs.device = 'cpu'
    if hasattr(node.inputs, 'use_gpu'):
        node.inputs.use_gpu = False


def _is_up_to_date(node: Any) -> bool:
    """Return whether an earlier run has left the result of a node for the same inputs."""
    try:
        cached, updated = node.is_cached()
    except Exception:  # the worker meets it again, and reports it
        logger.warning('%s: its hash could not be checked.', node.fullname, exc_info=True)
        return False
    reruns = node.interface.always_run if node.overwrite is None else node.overwrite
    return bool(cached and updated and not reruns)


def _outcome(future: Future[ErrorRecord | None]) -> tuple[ErrorRecord | None, bool]:
    """Return the error of a node, None if it succeeded, and whether a retry may help."""
    try:
        error = future.result()
    except BrokenProcessPool as broken:
        died = WorkerDied(
            'its process was killed twice, the second time with no other step beside it, most '
            'likely because the memory was full; give the run more memory, or smaller images'
        )
        died.__cause__ = broken
        return describe_exception(died, traceback=''.join(format_exception(died))), True
    except Exception as problem:  # such as a node that cannot be sent to a worker
        lines = format_exception(problem)
        return describe_exception(problem, traceback=''.join(lines)), False
    return error, error is not None and error.is_out_of_memory

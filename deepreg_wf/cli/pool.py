"""Nipype's MultiProc with workers that may die and that leave with their master."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from traceback import format_exception
from typing import Any

from nipype.pipeline.plugins.multiproc import MultiProcPlugin, run_node


class WorkerDied(RuntimeError):
    """A worker process ended in the middle of a step."""


class WorkerPool(MultiProcPlugin):
    """Run nodes in processes of their own.

    Nipype's own plugin waits for ever for a worker that was killed, and leaves workers behind
    when it is interrupted.

    Parameters
    ----------
    plugin_args
        Those of Nipype's plugin, and `log_level` and `resource_monitor` for the workers.

    """

    def __init__(self, plugin_args: dict[str, Any] | None = None) -> None:
        super().__init__(plugin_args=plugin_args)
        self.pool = self._new_pool()

    def run(self, graph: Any, config: Any, updatehash: bool = False) -> None:
        """Run a graph; whatever cuts it short, no worker stays behind.

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
            self._dismiss()

    def _new_pool(self) -> ProcessPoolExecutor:
        level = self.plugin_args.get('log_level', logging.INFO)
        return ProcessPoolExecutor(
            max_workers=self.processors,
            # A fork of a process that has used torch may hang.
            mp_context=multiprocessing.get_context('forkserver'),
            initializer=_start_worker,
            initargs=(os.getcwd(), level, self.plugin_args.get('resource_monitor', False)),
        )

    def _submit_job(self, node: Any, updatehash: bool = False) -> int:
        self._taskid += 1
        work = (run_node, node, updatehash, self._taskid)
        try:
            future = self.pool.submit(*work)
        except BrokenProcessPool:
            self.pool = self._new_pool()
            future = self.pool.submit(*work)
        self._task_obj[self._taskid] = future
        future.add_done_callback(partial(self._keep_result, self._taskid))
        return self._taskid

    def _keep_result(self, taskid: int, future: Future[dict[str, Any]]) -> None:
        if future.cancelled():
            return
        try:
            self._taskresult[taskid] = _result_of(future)
        except Exception as error:
            lines = format_exception(error)
            self._taskresult[taskid] = {'result': None, 'traceback': lines, 'taskid': taskid}

    def _dismiss(self) -> None:
        workers = list((getattr(self.pool, '_processes', None) or {}).values())
        self.pool.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.terminate()


def _result_of(future: Future[dict[str, Any]]) -> dict[str, Any]:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise WorkerDied(
            'a worker process died, most likely for want of memory; '
            'give the run more memory, or fewer processors with --nprocs'
        ) from error


def _start_worker(folder: str, log_level: int, resource_monitor: bool) -> None:
    """Prepare a worker: the terminal's interrupt is for the master, which then ends the rest."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.chdir(folder)
    from nipype import config

    for name in ('workflow', 'utils', 'interface'):
        logging.getLogger(f'nipype.{name}').setLevel(log_level)
    if resource_monitor:
        config.enable_resource_monitor()

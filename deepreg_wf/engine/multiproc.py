"""Nipype's MultiProc with workers that may die, for want of memory or with their master."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import signal
import threading
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from traceback import format_exception
from typing import Any

import numpy as np
from nipype.pipeline.plugins.multiproc import MultiProcPlugin

from deepreg_wf.engine.crashes import Crash, crash_of, reason_of
from deepreg_wf.engine.ordering import Waiting, image_by_image
from deepreg_wf.utils.os_errors import is_out_of_memory


class WorkerDied(RuntimeError):
    """A worker process ended in the middle of a step."""


@dataclass
class _Task:
    """A step that was sent to the workers."""

    number: int
    node: Any
    updatehash: bool
    future: Future[dict[str, Any]] | None = None
    is_alone: bool = False


class WorkerPool(MultiProcPlugin):
    """Run nodes in processes of their own.

    Nipype's own plugin waits for ever for a worker that was killed, and leaves workers behind
    when it is interrupted. Here a step whose worker dies, or that lacks memory, is done once more
    with nothing beside it; only if it fails then, too, has it failed. Nobody can tell which of
    the steps at work made the kernel kill one of them, so that all of them are done again. A step
    that lacks the memory of a GPU is done on the CPU.

    One image is done after the other, as far as there are processors; see `image_by_image`.

    Parameters
    ----------
    plugin_args
        Those of Nipype's plugin, and `log_level` and `resource_monitor` for the workers.

    """

    def __init__(self, plugin_args: dict[str, Any] | None = None) -> None:
        super().__init__(plugin_args=plugin_args)
        self.pool = self._new_pool()
        self.untold: list[Crash] = []
        """Crashes of which no file could be written."""
        self._again: deque[_Task] = deque()

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
        # Nipype collects garbage before each step; the graph of a cohort is not to be searched.
        gc.freeze()
        try:
            super().run(graph, config, updatehash)
        finally:
            gc.unfreeze()
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

    def _generate_dependency_list(self, graph: Any) -> None:
        self.procs = image_by_image(graph)
        self.depidx = Waiting(graph, self.procs)
        self.proc_done, self.proc_pending = np.zeros((2, len(self.procs)), dtype=bool)

    def _task_finished_cb(self, jobid: int, cached: bool = False) -> None:
        if self._status_callback:
            self._status_callback(self.procs[jobid], 'end')
        self.proc_pending[jobid] = False
        self.depidx.end(jobid)

    def _remove_node_dirs(self) -> None:
        """Keep what the next run goes on from."""

    def _submit_job(self, node: Any, updatehash: bool = False) -> int:
        self._taskid += 1
        task = _Task(self._taskid, node, updatehash)
        self._task_obj[task.number] = task
        self._send(task)
        return task.number

    def _send(self, task: _Task) -> None:
        work = (_run, task.node, task.updatehash, task.number)
        try:
            task.future = self.pool.submit(*work)
        except BrokenProcessPool:
            self.pool = self._new_pool()
            task.future = self.pool.submit(*work)
        task.future.add_done_callback(partial(self._keep_result, task))

    def _send_procs_to_workers(self, updatehash: bool = False, graph: Any = None) -> None:
        at_work = [task for task in self._task_obj.values() if not task.future.done()]
        if any(task.is_alone for task in at_work):
            return
        if not self._again:
            super()._send_procs_to_workers(updatehash=updatehash, graph=graph)
        elif not at_work:
            task = self._again.popleft()
            task.is_alone = True
            if self._status_callback:
                self._status_callback(task.node, 'again')
            self._send(task)

    def _keep_result(self, task: _Task, future: Future[dict[str, Any]]) -> None:
        """Take note of what came of a task, in a thread of the pool."""
        if future.cancelled():
            return
        try:
            result = _result_of(future)
            said = result['traceback'] and reason_of(''.join(result['traceback']))
            is_worth_another = bool(said) and is_out_of_memory(said)
        except Exception as error:
            said, lines = '', format_exception(error)
            result = {'result': None, 'traceback': lines, 'taskid': task.number}
            is_worth_another = isinstance(error, WorkerDied)
        if is_worth_another and not task.is_alone:
            if said and 'CUDA' in said:
                _move_to_cpu(task.node)
            self._again.append(task)
        else:
            self._taskresult[task.number] = result

    def _report_crash(self, node: Any, result: dict[str, Any] | None = None) -> str:
        try:
            return str(super()._report_crash(node, result=result))
        except OSError:  # the disk that is to hold it may be what the node complains of
            for half in Path(node.config['execution']['crashdump_dir']).glob(f'*-{node._id}-*'):
                half.unlink(missing_ok=True)
            lines = (result or {}).get('traceback') or []
            self.untold.append(crash_of(node.fullname, ''.join(lines)))
            return 'not written'

    def _dismiss(self) -> None:
        workers = list((getattr(self.pool, '_processes', None) or {}).values())
        self.pool.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.terminate()


def _move_to_cpu(node: Any) -> None:
    """Have a node compute on the CPU; Nipype's hash does not look at where it does."""
    if hasattr(node.inputs, 'device'):
        node.inputs.device = 'cpu'
    if hasattr(node.inputs, 'use_gpu'):
        node.inputs.use_gpu = False


def _run(node: Any, updatehash: bool, number: int) -> dict[str, Any]:
    """Run a node in a worker, as Nipype does, whose own loses what failed if nothing is stored."""
    result: dict[str, Any] = {'result': None, 'traceback': None, 'taskid': number}
    try:
        result['result'] = node.run(updatehash=updatehash)
    except BaseException as error:  # it ends in the report of a crash
        result['traceback'] = format_exception(error)
        with suppress(Exception):
            result['result'] = node.result
    return result


def _result_of(future: Future[dict[str, Any]]) -> dict[str, Any]:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise WorkerDied(
            'its process was ended twice, the second time with no other step beside it, most '
            'likely for want of memory; give the run more memory, or smaller images'
        ) from error


def _start_worker(folder: str, log_level: int, resource_monitor: bool) -> None:
    """Prepare a worker: the terminal's interrupt is for the master, which then ends the rest."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_master, daemon=True).start()
    os.chdir(folder)
    from nipype import config

    for name in ('workflow', 'utils', 'interface'):
        logging.getLogger(f'nipype.{name}').setLevel(log_level)
    if resource_monitor:
        config.enable_resource_monitor()


def _leave_with_master() -> None:
    """A master that is killed dismisses nobody, and the next run is to find nobody at work."""
    master = multiprocessing.parent_process()
    if master is not None:
        master.join()
        os.kill(os.getpid(), signal.SIGKILL)

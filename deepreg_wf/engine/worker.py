"""Worker processes: start them, run nodes in them and describe what fails."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from traceback import format_exception
from typing import Any

from deepreg_wf.engine.crashes import ErrorRecord, describe_exception
from deepreg_wf.engine.literal_paths import use_literal_folders
from deepreg_wf.utils.parent_process import kill_with_parent

TEMPORARIES = 'temporary-'
"""First part of the name of the folder of a node for temporary files of libraries."""


def run_node(node: Any, updatehash: bool = False) -> ErrorRecord | None:
    """Run a node.

    Temporary files that libraries make meanwhile are in the folder of the node, so that none with
    data of a subject stays outside the work folder, however the process ends.

    Parameters
    ----------
    node : nipype.Node
        With the configuration of its workflow.
    updatehash : bool
        Only update the hash of a node that was run before.

    Returns
    -------
    ErrorRecord or None
        None if the node succeeded.
    """
    with _interface_errors(type(node.interface)) as errors:
        try:
            node.run(updatehash=updatehash)
        except BaseException as error:  # reported as a crash of the node
            cause = errors[-1] if errors else error
            return describe_exception(cause, traceback=''.join(format_exception(error)))
    return None


@contextmanager
def _interface_errors(interface: type) -> Iterator[list[BaseException]]:
    """Collect the exceptions that an interface raises.

    Nipype turns an exception of an interface into text and raises an error of its own, without
    a cause, so that the type of the exception and its fields would be lost.
    """
    errors: list[BaseException] = []
    method = interface._run_interface  # type: ignore[attr-defined]

    def run_interface(self: Any, runtime: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            with _temporary_files_in(runtime.cwd):
                return method(self, runtime, *args, **kwargs)
        except BaseException as error:
            errors.append(error)
            raise

    own = '_run_interface' in vars(interface)
    interface._run_interface = run_interface  # type: ignore[attr-defined]
    try:
        yield errors
    finally:
        if own:
            interface._run_interface = method  # type: ignore[attr-defined]
        else:
            del interface._run_interface  # type: ignore[attr-defined]


@contextmanager
def _temporary_files_in(folder: str) -> Iterator[None]:
    """Place temporary files of this process and of its children in a folder, and remove them."""
    before, variable = tempfile.tempdir, os.environ.get('TMPDIR')
    with TemporaryDirectory(prefix=TEMPORARIES, dir=folder, ignore_cleanup_errors=True) as own:
        tempfile.tempdir = os.environ['TMPDIR'] = own
        try:
            yield
        finally:
            tempfile.tempdir = before
            del os.environ['TMPDIR']
            if variable is not None:
                os.environ['TMPDIR'] = variable


def start_worker(folder: str, log_level: int, resource_monitor: bool) -> None:
    """Set up a worker process.

    Parameters
    ----------
    folder : str
        Working directory.
    log_level : int
        Level of Nipype's loggers.
    resource_monitor : bool
        Whether Nipype records the memory and the processor time of each node.
    """
    # An interrupt from the terminal goes to all processes; the main one then ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    kill_with_parent()  # the process that forks the workers, which ends with the main one
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    os.chdir(folder)
    from nipype import config

    use_literal_folders()
    for name in ('workflow', 'utils', 'interface'):
        logging.getLogger(f'nipype.{name}').setLevel(log_level)
    if resource_monitor:
        config.enable_resource_monitor()


def _exit_with_parent() -> None:
    """End this process when the main one has ended, which a killed one cannot ask for."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)

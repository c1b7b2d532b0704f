"""Run a Nipype workflow to its end, even where steps of it fail."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from signal import SIGINT, SIGTERM
from typing import Any

from deepreg_wf.engine.failures import Failure, collect_failures, participant_of
from deepreg_wf.engine.literal_paths import (
    set_default_crash_dir,
    unescape_crash_dirs,
    use_literal_folders,
)
from deepreg_wf.engine.progress import ALL_IMAGES, Display, StatusCallback, StepLabels
from deepreg_wf.engine.resources import Resources
from deepreg_wf.engine.work_folder import WorkFolder
from deepreg_wf.settings import Execution


def configure(resources: Resources, execution: Execution, *, crash_dir: Path) -> None:
    """Set the number of threads of libraries, and configure Nipype.

    To be called before a workflow is built.

    Parameters
    ----------
    resources : Resources
        Threads and plugin of the run.
    execution : Execution
        Settings of the call.
    crash_dir : Path
        Folder of the crash files of nodes that have none of their own.
    """
    os.environ['NIPYPE_NO_ET'] = '1'  # or Nipype contacts a host when it is imported
    os.environ.update(resources.environment())
    from nipype import config, logging

    level = 'DEBUG' if execution.verbose > 1 else 'INFO'
    polling: dict[str, str] = {}
    if resources.on_cluster:
        from deepreg_wf.engine.slurm import POLLING as polling
    config.update_config(
        {
            'execution': {
                'crashfile_format': 'txt',
                'create_report': 'false',
                **polling,
                'stop_on_first_crash': str(execution.stop_on_first_crash).lower(),
            },
            'logging': {'workflow_level': level, 'utils_level': level, 'interface_level': level},
        }
    )
    set_default_crash_dir(config, crash_dir)
    use_literal_folders()
    logging.update_logging(config)
    if execution.resource_monitor:
        config.enable_resource_monitor()


def execute(
    workflow: Any,
    *,
    resources: Resources,
    display: Display,
    step_labels: StepLabels,
    crash_dirs: Iterable[Path],
    stop_on_first_crash: bool = False,
) -> list[Failure]:
    """Run a workflow.

    Parameters
    ----------
    workflow : nipype.Workflow
        The workflow; Nipype has been configured by `configure`.
    resources : Resources
        Processors, memory and plugin.
    display : Display
        Shows the steps.
    step_labels : StepLabels
        Names of the steps for the user.
    crash_dirs : iterable of Path
        Folders of the crash files of this run, without files so far.
    stop_on_first_crash : bool
        Whether Nipype is configured so: then images that are not complete have failed, too.

    Returns
    -------
    list of Failure
        Empty if all steps succeeded. If the work folder is removed meanwhile, the run ends, and
        images that are not complete have failed.

    Raises
    ------
    KeyboardInterrupt
        If the user or the scheduler of a cluster ends the run.
    """
    from nipype import config

    unescape_crash_dirs(config, workflow)
    if resources.on_cluster:
        from deepreg_wf.engine.slurm import prepare_jobs

        prepare_jobs(workflow, resources.plugin_name, resources.plugin_args)
    status = StatusCallback(display, step_labels)
    problem = None
    with (
        _work_folder(workflow) as folder,
        _interruptible(_checking(status, folder)) as callback,
    ):
        plugin, plugin_args = resources.plugin(callback)
        try:
            workflow.run(plugin=plugin, plugin_args=plugin_args)
        except Exception as error:  # raised for a failed node, when all others have ended
            problem = error
        removed = folder.problem()
    unwritten = getattr(plugin, 'unwritten_crashes', ())
    failures = collect_failures(crash_dirs, step_labels, unwritten)
    if problem is not None and removed is not None:
        rejected = [failure for failure in failures if failure.is_input_error]
        # These come first, since other failures may follow from the removal.
        failures = [*_incomplete_images(step_labels, status, rejected, str(removed)), *failures]
        return failures or [_failure_of(ALL_IMAGES, str(removed))]
    if problem is not None and not failures:
        raise problem
    if stop_on_first_crash and failures:
        reason = 'the run was stopped by the failure of another image'
        failures += _incomplete_images(step_labels, status, failures, reason)
    return failures


def _incomplete_images(
    step_labels: StepLabels, status: StatusCallback, failures: Sequence[Failure], reason: str
) -> list[Failure]:
    """Return a failure with a given reason for each incomplete image that has none yet."""
    failed = {ALL_IMAGES, *(failure.image for failure in failures)}
    return [
        _failure_of(image, reason)
        for image, n_steps in step_labels.totals().items()
        if image not in failed and status.steps_done.get(image, 0) < n_steps
    ]


def _failure_of(image: str, reason: str) -> Failure:
    return Failure(
        participant=participant_of(image), image=image, step='processing', reason=reason
    )


@contextmanager
def _work_folder(workflow: Any) -> Iterator[WorkFolder]:
    """Make the folder of a workflow, and work in it.

    The resource monitor of Nipype writes its files in the working directory.
    """
    before, folder = Path.cwd(), Path(workflow.base_dir) / workflow.name
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    try:
        with WorkFolder(folder, Path(workflow.base_dir)) as work_folder:
            yield work_folder
    finally:
        os.chdir(before)


def _checking(
    callback: Callable[[Any, str], None], folder: WorkFolder
) -> Callable[[Any, str], None]:
    """Add a check of the work folder, which raises an error and so ends the run, to a callback."""

    def checked(node: Any, event: str) -> None:
        if (removed := folder.problem()) is not None:
            raise removed
        callback(node, event)

    return checked


@contextmanager
def _interruptible(
    callback: Callable[[Any, str], None],
) -> Iterator[Callable[[Any, str], None]]:
    """Make SIGINT and SIGTERM end the run.

    For a node that runs in this process, Nipype takes an interrupt for a failure of the node and
    continues with the next one. Therefore the callback raises it again.
    """
    received: list[int] = []

    def interrupt(number: int, _: Any) -> None:
        received.append(number)
        raise KeyboardInterrupt

    def interruptible(node: Any, event: str) -> None:
        if received:
            raise KeyboardInterrupt
        callback(node, event)

    if threading.current_thread() is not threading.main_thread():  # it receives no signals
        yield interruptible
        return
    before = {number: signal.signal(number, interrupt) for number in (SIGINT, SIGTERM)}
    try:
        yield interruptible
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

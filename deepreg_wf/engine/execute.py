"""Run a graph to its end, whatever fails on the way."""

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
from deepreg_wf.engine.progress import EVERYBODY, Display, Glossary, Monitor
from deepreg_wf.engine.resources import Resources
from deepreg_wf.settings import Execution


def configure(resources: Resources, execution: Execution, *, crash_dir: Path) -> None:
    """Hold libraries to their threads, and set up Nipype; before any graph is built.

    Parameters
    ----------
    resources, execution
        What is used, and what was asked for.
    crash_dir
        Where crash files go, unless a node says otherwise.

    """
    os.environ['NIPYPE_NO_ET'] = '1'  # or Nipype looks up a host when it is imported
    os.environ.update(resources.environment())
    from nipype import config, logging

    level = 'DEBUG' if execution.verbose > 1 else 'INFO'
    polling = {'poll_sleep_duration': '0.03'}
    if resources.on_cluster:
        from deepreg_wf.engine.slurm import POLLING as polling
    config.update_config(
        {
            'execution': {
                'crashdump_dir': str(crash_dir),
                'crashfile_format': 'txt',
                'create_report': 'false',
                **polling,
                'stop_on_first_crash': str(execution.stop_on_first_crash).lower(),
            },
            'logging': {'workflow_level': level, 'utils_level': level, 'interface_level': level},
        }
    )
    logging.update_logging(config)
    if execution.resource_monitor:
        config.enable_resource_monitor()


def execute(
    workflow: Any,
    *,
    resources: Resources,
    display: Display,
    glossary: Glossary,
    crash_dirs: Iterable[Path],
    stop_on_first_crash: bool = False,
) -> list[Failure]:
    """Run a graph to its end.

    Parameters
    ----------
    workflow
        The graph; Nipype has been configured.
    resources
        What it may use.
    display, glossary
        Where its steps are shown, and what they are called.
    crash_dirs
        Folders of its crash files, empty so far.
    stop_on_first_crash
        Whether Nipype was told so: then images that are not at their end have failed too.

    Returns
    -------
    list of Failure
        None where all went well.

    Raises
    ------
    KeyboardInterrupt
        If a person, or the scheduler of a cluster, ends the run.

    """
    if resources.on_cluster:
        from deepreg_wf.engine.slurm import prepare_jobs

        prepare_jobs(workflow, resources.plugin_name, resources.plugin_args)
    monitor = Monitor(display, glossary)
    problem = None
    with _inside(Path(workflow.base_dir) / workflow.name), _interruptible(monitor) as callback:
        plugin, plugin_args = resources.plugin(callback)
        try:
            workflow.run(plugin=plugin, plugin_args=plugin_args)
        except Exception as error:  # Nipype raises the first one once all the rest has ended
            problem = error
    untold = getattr(plugin, 'untold', ())
    failures = collect_failures(crash_dirs, glossary, untold)
    if problem is not None and not failures:
        raise problem
    return failures + (_cut_short(glossary, monitor, failures) if stop_on_first_crash else [])


def _cut_short(glossary: Glossary, monitor: Monitor, failures: Sequence[Failure]) -> list[Failure]:
    """Images that the crash of another kept from their end."""
    failed = {EVERYBODY, *(failure.image for failure in failures)}
    return [
        Failure(
            participant=participant_of(image),
            image=image,
            step='processing',
            reason='the run ended with the first crash, of another',
        )
        for image, steps in glossary.totals().items()
        if failures and image not in failed and monitor.steps_done.get(image, 0) < steps
    ]


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """Work in a folder: Nipype's resource monitor drops its files where it happens to be."""
    before = Path.cwd()
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextmanager
def _interruptible(monitor: Monitor) -> Iterator[Callable[[Any, str], None]]:
    """Make SIGINT and SIGTERM end the run.

    In this process Nipype takes an interrupt for the failure of the node at work, and goes on with
    the next one: so it is remembered until Nipype calls again.
    """
    seen: list[int] = []

    def interrupt(number: int, _: Any) -> None:
        seen.append(number)
        raise KeyboardInterrupt

    def callback(node: Any, status: str) -> None:
        if seen:
            raise KeyboardInterrupt
        monitor(node, status)

    if threading.current_thread() is not threading.main_thread():  # signals do not come here
        yield callback
        return
    before = {number: signal.signal(number, interrupt) for number in (SIGINT, SIGTERM)}
    try:
        yield callback
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

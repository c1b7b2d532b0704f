"""The app: from the settings of a call to an exit status."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from uuid import uuid4

from deepreg_wf import __version__
from deepreg_wf.app.cleanup import remove_partial_results
from deepreg_wf.app.context import DETERMINISTIC, WORKFLOW, Run, image_name
from deepreg_wf.app.exit_status import ALL_DONE
from deepreg_wf.app.folders import check_folders, make_writable
from deepreg_wf.app.graph import build_workflow, draw_graph
from deepreg_wf.app.group import run_group
from deepreg_wf.app.inputs import UNREADABLE, find_inputs
from deepreg_wf.app.locks import check_unlocked, lock_participants
from deepreg_wf.app.records import write_origins, write_resource_usage, write_settings
from deepreg_wf.app.reports import find_last_run, write_reports
from deepreg_wf.app.summary import FAILURES_TABLE, print_failures, write_summary
from deepreg_wf.engine.execute import execute
from deepreg_wf.engine.failures import Failure, participant_of, update_failures
from deepreg_wf.engine.logs import Streams, redirect_output
from deepreg_wf.engine.progress import PlainDisplay, StepLabels, open_display
from deepreg_wf.engine.resources import limit_thread_spinning, plan_resources
from deepreg_wf.engine.usage import ResourceMonitor
from deepreg_wf.errors import InputError
from deepreg_wf.settings import Settings
from deepreg_wf.templates.locate import get_custom_template, get_template
from deepreg_wf.templates.spaces import SpaceSpec
from deepreg_wf.templates.template import Template, merge_resolutions

_LOGS = f'{WORKFLOW}_logs'
_TEMPLATES = f'{WORKFLOW}_templates'


def run_app(settings: Settings, *, command_line: str = '') -> int:
    """Run the app.

    Parameters
    ----------
    settings : Settings
        Settings of the call.
    command_line : str
        The call itself, for the reports.

    Returns
    -------
    int
        Exit status.

    Raises
    ------
    InputError
        If the call, or all of its input, cannot be used.
    """
    limit_thread_spinning()
    if settings.selection.analysis_level == 'group':
        return run_group(settings)
    os.environ['NIPYPE_NO_ET'] = '1'  # otherwise Nipype contacts a server when it is imported
    execution, started = settings.execution, datetime.now().astimezone()
    check_folders(settings)
    inputs = find_inputs(settings.selection)
    if execution.clean_workdir:
        check_unlocked(execution.work_dir)
        _clean(execution.work_dir)
    for folder in (settings.output.output_dir, execution.work_dir):
        make_writable(folder)
    run_id = f'{started:%Y%m%d-%H%M%S}_{uuid4().hex[:8]}'
    log_file = execution.work_dir / _LOGS / f'{run_id}.txt'
    with redirect_output(None if execution.verbose else log_file) as streams:
        run = Run(
            settings=settings,
            inputs=inputs,
            templates=_find_templates(settings),
            resources=plan_resources(execution, images=len(inputs.images)),
            run_id=run_id,
            started=started,
            command_line=command_line,
        )
        if settings.output.boilerplate_only:
            return _write_boilerplate(run, streams)
        if settings.output.reports_only:
            return _rewrite_reports(run, streams)
        if not inputs.images:
            return _end(run, _input_failures(run), streams)
        with lock_participants(inputs, run.output_dir, execution.work_dir) as (locked, skipped):
            return _process(replace(run, inputs=locked), skipped, streams)


def _find_templates(settings: Settings) -> tuple[Template, ...]:
    if settings.output.template is not None:
        return (get_custom_template(settings.output.template),)
    cache_dir = settings.execution.work_dir / _TEMPLATES
    spaces = settings.output.output_spaces
    specs = [spec for space in spaces for spec in SpaceSpec.all_from_string(space)]
    return merge_resolutions(
        get_template(spec, cache_dir=cache_dir, allow_download=settings.output.allow_download)
        for spec in dict.fromkeys(specs)
    )


def _process(run: Run, skipped: Sequence[Failure], streams: Streams) -> int:
    """Process all images, write the reports and the summary; return the exit status."""
    execution, workflow = run.settings.execution, build_workflow(run)
    from deepreg_wf.workflows.base import image_names

    images = image_names(run.inputs.images)
    remove_partial_results(run.output_dir, run.base_dir / WORKFLOW, run.inputs.subjects, images)
    write_settings(run, images)
    labels = StepLabels.from_workflow(workflow, images)
    display = open_display(streams, labels, plain=execution.verbose > 0)
    with ResourceMonitor() as monitor, display:
        display.log(_announcement(run))
        if execution.write_graph:
            display.log(f'Graph: {draw_graph(workflow)}')
        failures = _input_failures(run)
        failures += execute(
            workflow,
            resources=run.resources,
            display=display,
            step_labels=labels,
            crash_dirs=[run.common_log_dir, *map(run.log_dir, run.inputs.subjects)],
            stop_on_first_crash=execution.stop_on_first_crash,
        )
        # The reports read these. A full disk is reported by write_summary.
        with suppress(OSError):
            update_failures(run.output_dir / FAILURES_TABLE, failures, run.participants)
            write_origins(run, labels, failures)
        reported = dict.fromkeys(run.inputs.subjects, run.run_id)
        started = run.started.timestamp()
        failures += write_reports(run.output_dir, reported, display, started=started)
    status = _end(run, failures, streams, skipped)
    write_resource_usage(run, monitor)
    return status


def _end(
    run: Run, failures: Sequence[Failure], streams: Streams, skipped: Sequence[Failure] = ()
) -> int:
    return write_summary(
        failures,
        skipped=skipped,
        images=run.image_names,
        output_dir=run.output_dir,
        seconds=time.time() - run.started.timestamp(),
        streams=streams,
    )


def _write_boilerplate(run: Run, streams: Streams) -> int:
    """Write the methods text, which is part of the workflow."""
    build_workflow(run)
    print(f'Methods: {run.output_dir / "logs" / "CITATION.md"}', file=streams.out)
    return ALL_DONE


def _rewrite_reports(run: Run, streams: Streams) -> int:
    """Write the reports again, each about the last run of its participant."""
    last = {label: find_last_run(run.output_dir, label) for label in run.participants}
    runs = {label: run_id for label, run_id in last.items() if run_id is not None}
    failures = [
        _unusable(
            label, 'report', f'no run is in {run.output_dir}; run without --reports-only first.'
        )
        for label in last.keys() - runs.keys()
    ]
    failures += write_reports(run.output_dir, runs, PlainDisplay(streams.out))
    return print_failures(failures, images=run.image_names, streams=streams)


def _input_failures(run: Run) -> list[Failure]:
    """List the images and participants that cannot be used, found before anything runs."""
    step = 'finding the T1w image'
    named = run.settings.selection.participant_label
    reason = 'no T1-weighted image is selected for this participant; check the dataset.'
    without = [
        _unusable(label, step, reason) for label in run.inputs.without_t1w if label in named
    ]
    problem, advice = UNREADABLE
    unreadable = [
        _unusable(label, step, str(InputError(problem, advice=advice, path=folder)))
        for label, folder in run.inputs.unreadable.items()
    ]
    rejected = [
        Failure(
            participant=participant_of(image_name(path)),
            image=image_name(path),
            step=step,
            reason=str(error),
            is_input_error=True,
        )
        for path, error in run.inputs.rejected.items()
    ]
    return without + unreadable + rejected


def _unusable(label: str, step: str, reason: str) -> Failure:
    return Failure(
        participant=label, image=f'sub-{label}', step=step, reason=reason, is_input_error=True
    )


def _announcement(run: Run) -> str:
    images, resources = len(run.inputs.images), run.resources
    spaces = ', '.join(template.name for template in run.templates)
    text = (
        f'deepreg_wf {__version__}: registering {_count(images, "image")} to {spaces} on '
        f'{resources.device} ({_count(resources.nprocs, "processor")}, '
        f'{_count(resources.omp_nthreads, "thread")} for each step)'
    )
    without = set(run.inputs.without_t1w) - set(run.settings.selection.participant_label)
    names = ', '.join(f'sub-{label}' for label in sorted(without))
    return f'{text}; no T1w image: {names}' if without else text


def _count(number: int, noun: str) -> str:
    return f'{number} {noun}{"s" * (number != 1)}'


def _clean(work_dir: Path) -> None:
    """Remove the results of earlier runs; other files in the folder stay."""
    for name in (WORKFLOW, DETERMINISTIC, _TEMPLATES, _LOGS):
        shutil.rmtree(work_dir / name, ignore_errors=True)

"""One run: from settings to an exit status."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from deepreg_wf import __version__
from deepreg_wf.app.cleanup import tidy
from deepreg_wf.app.context import DETERMINISTIC, NAME, Run
from deepreg_wf.app.group import run_group
from deepreg_wf.app.inputs import (
    MAY_NOT_BE_READ,
    check_folders,
    find_inputs,
    make_writable,
)
from deepreg_wf.app.locks import check_idle, claimed
from deepreg_wf.app.records import write_records, write_usages
from deepreg_wf.app.reports import last_run, write_reports
from deepreg_wf.app.summary import ALL_DONE, conclude, tell
from deepreg_wf.engine.execute import configure, execute
from deepreg_wf.engine.failures import Failure, update_table
from deepreg_wf.engine.logs import Streams, libraries_to
from deepreg_wf.engine.progress import Glossary, PlainDisplay, open_display
from deepreg_wf.engine.resources import plan_resources, share_processors
from deepreg_wf.engine.usage import Meter
from deepreg_wf.settings import Settings
from deepreg_wf.templates.spaces import SpaceSpec
from deepreg_wf.templates.template import (
    Template,
    get_custom_template,
    get_template,
    merge_resolutions,
)


def run(settings: Settings, *, command_line: str = '') -> int:
    """Do what the settings ask.

    Parameters
    ----------
    settings
        Of the call.
    command_line
        The call itself, for the report.

    Returns
    -------
    int
        Exit status.

    Raises
    ------
    InputError
        If nothing can be run.

    """
    share_processors()
    if settings.selection.analysis_level == 'group':
        return run_group(settings)
    os.environ['NIPYPE_NO_ET'] = '1'  # or Nipype looks up a host when it is imported
    execution, started = settings.execution, datetime.now().astimezone()
    check_folders(settings)
    inputs = find_inputs(settings.selection)
    if execution.clean_workdir:
        check_idle(execution.work_dir)
        _clean(execution.work_dir)
    for folder in (settings.output.output_dir, execution.work_dir):
        make_writable(folder)
    run_id = f'{started:%Y%m%d-%H%M%S}_{uuid4().hex[:8]}'
    log_file = execution.work_dir / f'{NAME}_logs' / f'{run_id}.txt'
    with libraries_to(None if execution.verbose else log_file) as streams:
        this = Run(
            settings=settings,
            inputs=inputs,
            templates=_find_templates(settings),
            resources=plan_resources(execution, images=len(inputs.images)),
            run_id=run_id,
            started=started,
            command_line=command_line,
        )
        if settings.output.boilerplate_only:
            return _write_boilerplate(this, streams)
        if settings.output.reports_only:
            return _rewrite_reports(this, streams)
        with claimed(inputs, this.output_dir, execution.work_dir) as (ours, elsewhere):
            return _process(replace(this, inputs=ours), elsewhere, streams)


def _find_templates(settings: Settings) -> tuple[Template, ...]:
    if settings.output.template is not None:
        return (get_custom_template(settings.output.template),)
    cache_dir = settings.execution.work_dir / f'{NAME}_templates'
    specs = [spec for words in settings.output.output_spaces for spec in SpaceSpec.several(words)]
    return merge_resolutions(
        get_template(spec, cache_dir=cache_dir, allow_download=settings.output.allow_download)
        for spec in dict.fromkeys(specs)
    )


def _process(this: Run, elsewhere: Sequence[Failure], streams: Streams) -> int:
    """Process all images but those that another run has in hand, and tell how it went."""
    execution, workflow = this.settings.execution, _build(this)
    from deepreg_wf.workflows.base import image_names

    images = image_names(this.inputs.images)
    tidy(this.output_dir, this.base_dir / NAME, this.inputs.subjects, images)
    write_records(this)
    glossary = Glossary.of(workflow, images)
    display = open_display(streams, glossary, plain=execution.verbose > 0)
    with Meter() as meter, display:
        display.say(_announcement(this))
        if execution.write_graph:
            display.say(f'Graph: {_draw(workflow)}')
        failures = execute(
            workflow,
            resources=this.resources,
            display=display,
            glossary=glossary,
            crash_dirs=[this.common_log_dir, *map(this.log_dir, this.inputs.subjects)],
            stop_on_first_crash=execution.stop_on_first_crash,
        )
        runs = dict.fromkeys(this.inputs.subjects, this.run_id)
        failures = [*_without_t1w(this), *_unreadable(this), *failures]
        # The pages read from it what the steps are called; a full disk is told of at the end.
        with suppress(OSError):
            update_table(this.output_dir / 'failed.tsv', failures, this.participants)
        failures += write_reports(this.output_dir, runs, display, begun=this.begun)
    status = conclude(
        failures,
        elsewhere=elsewhere,
        participants=this.participants,
        output_dir=this.output_dir,
        seconds=time.time() - this.begun,
        streams=streams,
    )
    write_usages(this, meter)
    return status


def _write_boilerplate(this: Run, streams: Streams) -> int:
    """Write the text on the methods, which the graph has."""
    _build(this)
    print(f'Methods: {this.output_dir / "logs" / "CITATION.md"}', file=streams.out)
    return ALL_DONE


def _rewrite_reports(this: Run, streams: Streams) -> int:
    """Write the pages anew, each from the last run of its participant."""
    last = {label: last_run(this.output_dir, label) for label in this.participants}
    runs = {label: run_id for label, run_id in last.items() if run_id is not None}
    failures = [
        Failure(
            participant=label,
            image=f'sub-{label}',
            step='report',
            reason=f'no run is in {this.output_dir}; run without --reports-only first.',
            is_input_error=True,
        )
        for label in last.keys() - runs.keys()
    ]
    display = PlainDisplay(streams.out)
    failures += write_reports(this.output_dir, runs, display)
    return tell(failures, participants=this.participants, streams=streams)


def _build(this: Run) -> Any:
    """Build the graph, and write what the output folder says of itself."""
    configure(this.resources, this.settings.execution, crash_dir=this.common_log_dir)
    from deepreg_wf.bids.dataset import write_citation, write_dataset_files
    from deepreg_wf.workflows.base import init_deepreg_wf

    settings = this.settings
    workflow = init_deepreg_wf(
        subjects=this.inputs.subjects,
        bids_dir=settings.selection.bids_dir,
        output_dir=this.output_dir,
        templates=this.templates,
        level=settings.output.level,
        anatomical=settings.anatomical,
        precomputed=this.inputs.precomputed,
        lesions=this.inputs.lesions,
        registration=settings.registration,
        device=this.resources.device,
        omp_nthreads=this.resources.omp_nthreads,
        batch_size=this.resources.batch_size,
        random_seed=settings.execution.random_seed,
        sloppy=settings.execution.sloppy,
        run_id=this.run_id,
        name=NAME,
    )
    workflow.base_dir = str(this.base_dir)
    write_dataset_files(
        this.output_dir, settings.selection.bids_dir, derivatives=this.inputs.derivatives
    )
    write_citation(this.output_dir, workflow.visit_desc())
    return workflow


def _without_t1w(this: Run) -> list[Failure]:
    """Participants that were asked for by name and have no image."""
    named = this.settings.selection.participant_label
    return [
        Failure(
            participant=label,
            image=f'sub-{label}',
            step='finding the T1w image',
            reason='no T1-weighted image is selected for this participant; check the dataset.',
            is_input_error=True,
        )
        for label in this.inputs.without_t1w
        if label in named
    ]


def _unreadable(this: Run) -> list[Failure]:
    """Participants with a folder that is closed to this user."""
    return [
        Failure(
            participant=label,
            image=f'sub-{label}',
            step='finding the T1w image',
            reason=f'{folder}: {MAY_NOT_BE_READ}.',
            is_input_error=True,
        )
        for label, folder in this.inputs.unreadable.items()
    ]


def _announcement(this: Run) -> str:
    images, resources = len(this.inputs.images), this.resources
    spaces = ', '.join(template.name for template in this.templates)
    text = (
        f'deepreg_wf {__version__}: registering {_counted(images, "image")} to {spaces} on '
        f'{resources.device} ({_counted(resources.nprocs, "processor")}, '
        f'{_counted(resources.omp_nthreads, "thread")} for each step)'
    )
    skipped = set(this.inputs.without_t1w) - set(this.settings.selection.participant_label)
    names = ', '.join(f'sub-{label}' for label in sorted(skipped))
    return f'{text}; no T1w image: {names}' if skipped else text


def _counted(number: int, noun: str) -> str:
    return f'{number} {noun}{"s" * (number != 1)}'


def _draw(workflow: Any) -> str:
    """Draw the graph; without graphviz its description in the dot language is kept."""
    picture = 'svg' if shutil.which('dot') else 'dot'
    return str(workflow.write_graph(graph2use='colored', format=picture))


def _clean(work_dir: Path) -> None:
    """Remove what runs have left, and nothing else that lies in that folder."""
    for name in (NAME, DETERMINISTIC, f'{NAME}_templates', f'{NAME}_logs'):
        shutil.rmtree(work_dir / name, ignore_errors=True)

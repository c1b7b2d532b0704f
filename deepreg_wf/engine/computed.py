"""Record of the runs that computed the results of each image.

A run reuses results that an earlier one has left in the work folder. Therefore each run leaves its
settings there before it starts, beside the results of each image. A result belongs to the last run
whose settings are older than the result. What is found is stored in the log of the run, so that a
report can be written without the work folder.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepreg_wf.engine.progress import StepLabels, format_duration
from deepreg_wf.utils.atomic import write_json, write_text
from deepreg_wf.utils.json_file import read_json_object

COMPUTED_FILE = 'computed.json'
"""Name of the record in the log of a run."""

SETTINGS_FOLDER = 'runs'
"""Folder of the settings of the runs, in that of the workflow of an image."""

UNKNOWN = 'unknown'
"""Name of a run that has left no settings."""


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """Steps of an image that one run has computed.

    Parameters
    ----------
    run_id : str
        Name of the run; `UNKNOWN` if it has left no settings.
    steps : tuple of str
        Names of the steps, in the order of the workflow.
    seconds : float
        Time from the start of the first of these steps to the end of the last.
    is_all : bool
        Whether these are all steps of the image.
    """

    run_id: str
    steps: tuple[str, ...]
    seconds: float
    is_all: bool

    @property
    def text(self) -> str:
        """Steps and their duration in words."""
        steps = f'all {len(self.steps)} steps' if self.is_all else ', '.join(self.steps)
        return f'{steps}, in {format_duration(self.seconds)}'


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """Run that computed results.

    Parameters
    ----------
    run_id : str
        Name of the run.
    settings : mapping of str to mapping
        Tables of its settings file; empty if they are not known.
    computed : mapping of str to Contribution
        Steps that it computed, by image.
    """

    run_id: str
    settings: Mapping[str, Mapping[str, Any]]
    computed: Mapping[str, Contribution]


def leave_settings(workflow_dir: Path, images: Collection[str], run_id: str, text: str) -> None:
    """Write the settings of a run beside the results of each image, before any step starts.

    Parameters
    ----------
    workflow_dir : Path
        Folder of the workflow in the work folder.
    images : collection of str
        Names of the workflows of the images.
    run_id : str
        Name of the run.
    text : str
        Content of its settings file.
    """
    for name in images:
        write_text(workflow_dir / name / SETTINGS_FOLDER / f'{run_id}.toml', text)


def write_computed(
    log_dir: Path, base_dir: Path, step_labels: StepLabels, images: Collection[str]
) -> None:
    """Find the runs that computed the results of images, and write them to the log of a run.

    Parameters
    ----------
    log_dir : Path
        Folder of the log of the run.
    base_dir : Path
        Folder that contains the workflow.
    step_labels : StepLabels
        Steps of the workflow.
    images : collection of str
        Names of the images of a participant that are done. Without any, nothing is written, and
        the record of an earlier run stays valid.
    """
    settings: dict[str, Any] = {}
    content: dict[str, Any] = {}
    for workflow_name, image in step_labels.images.items():
        if image in images:
            found = list(_contributions(base_dir, workflow_name, step_labels))
            content[image] = [vars(each) for each in found]
            for run_id in {each.run_id for each in found} - settings.keys():
                folder = _settings_folder(base_dir, workflow_name, step_labels)
                settings[run_id] = read_settings(folder / f'{run_id}.toml')
    if content:
        write_json(log_dir / COMPUTED_FILE, {'Images': content, 'Settings': settings})


def read_computed(log_dir: Path) -> list[RunRecord]:
    """Read the runs that computed the present results of a participant.

    Parameters
    ----------
    log_dir : Path
        Folder with the logs of all runs of the participant.

    Returns
    -------
    list of RunRecord
        The oldest run first. For each image the last record counts; damaged records are left out.
    """
    images: dict[str, list[Contribution]] = {}
    settings: dict[str, Any] = {}
    for path in sorted(log_dir.glob(f'*/{COMPUTED_FILE}')):
        try:
            content = read_json_object(path)
            found = {
                image: [_read_contribution(each) for each in contributions]
                for image, contributions in content['Images'].items()
            }
            settings |= {run_id: dict(tables) for run_id, tables in content['Settings'].items()}
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError):
            continue
        images |= found
    by_run: dict[str, dict[str, Contribution]] = {}
    for image, contributions in images.items():
        for each in contributions:
            by_run.setdefault(each.run_id, {})[image] = each
    return [
        RunRecord(run_id=run_id, settings=settings.get(run_id, {}), computed=by_run[run_id])
        for run_id in sorted(by_run, key=lambda run_id: (run_id != UNKNOWN, run_id))
    ]


def _read_contribution(content: Any) -> Contribution:
    """Make a contribution of its JSON; raise an error if it is damaged."""
    return Contribution(
        run_id=str(content['run_id']),
        steps=tuple(map(str, content['steps'])),
        seconds=float(content['seconds']),
        is_all=bool(content['is_all']),
    )


def read_settings(path: Path) -> dict[str, dict[str, Any]]:
    """Read the tables of the settings file of a run; empty if it is missing or damaged."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        settings = tomllib.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError):
        return {}
    return {name: table for name, table in settings.items() if isinstance(table, dict)}


@dataclass(frozen=True)
class _StepResult:
    """Step with the times at which it started and ended, in seconds since the epoch."""

    label: str
    started: float
    ended: float


def _contributions(
    base_dir: Path, workflow_name: str, step_labels: StepLabels
) -> Iterator[Contribution]:
    """Assign the results of an image to the runs that computed them."""
    results = list(_results(base_dir, workflow_name, step_labels))
    files = _settings_folder(base_dir, workflow_name, step_labels).glob('*.toml')
    starts = sorted((file.stat().st_mtime, file.stem) for file in files)
    by_run: dict[str, list[_StepResult]] = {}
    for result in results:
        earlier = [run_id for start, run_id in starts if start <= result.ended]
        by_run.setdefault(earlier[-1] if earlier else UNKNOWN, []).append(result)
    for run_id, found in by_run.items():
        yield Contribution(
            run_id=run_id,
            steps=tuple(each.label for each in found),
            seconds=max(each.ended for each in found) - min(each.started for each in found),
            is_all=len(found) == len(results),
        )


def _settings_folder(base_dir: Path, workflow_name: str, step_labels: StepLabels) -> Path:
    """Return the folder of the settings of the runs of an image."""
    parts = next(node.split('.') for node in step_labels.steps if workflow_name in node.split('.'))
    return base_dir.joinpath(*parts[: parts.index(workflow_name) + 1], SETTINGS_FOLDER)


def _results(base_dir: Path, workflow_name: str, step_labels: StepLabels) -> Iterator[_StepResult]:
    """Find the results of the steps of an image in the work folder."""
    for node, label in step_labels.steps.items():
        *_, name = parts = node.split('.')
        if workflow_name in parts:
            folder = base_dir.joinpath(*parts)
            # Nipype writes the inputs when it starts a step, and the result when it has ended.
            inputs, result = folder / '_inputs.pklz', folder / f'result_{name}.pklz'
            if result.is_file():
                ended = result.stat().st_mtime
                started = inputs.stat().st_mtime if inputs.is_file() else ended
                yield _StepResult(label, min(started, ended), ended)

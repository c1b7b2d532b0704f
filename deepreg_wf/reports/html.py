"""Tables and text of the reports, rendered from the HTML templates in ``data/report``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepreg_wf.engine.computed import Contribution, RunRecord
from deepreg_wf.engine.crashes import Crash
from deepreg_wf.qc.criteria import CRITERIA, Criterion, Grade, overall_grade

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parents[1] / 'data' / 'report'
"""Folder of the HTML templates."""

# Description and note for each method of skull stripping.
_SKULL_STRIP_METHODS = {
    'already-extracted': ('the image already shows only the brain', 'used as it is'),
    'deepbet': ('extracted by deepbet', ''),
    'hdbet': ('extracted by HD-BET', ''),
    'synthstrip': ('extracted by SynthStrip', ''),
    'template': ('found by matching the MNI152 template', ''),
    'precomputed': ('computed beforehand by another program', 'from --derivatives'),
    'none': ('skull stripping skipped on request', 'all voxels above zero count as brain'),
}
_SETTINGS_TITLES = {
    'registration': 'Registration',
    'anatomical': 'Anatomical',
    'selection': 'Input',
    'output': 'Output',
    'execution': 'Execution',
}
_RUN_TITLES = {
    'software': 'Software versions',
    'hardware': 'Hardware',
    'networks_sha256': 'Networks (SHA-256)',
}


def summary_table(
    t1w_file: Path,
    mask_file: Path,
    *,
    templates: Mapping[str, str],
    skull_strip_method: str,
    lesion_file: Path | None = None,
) -> str:
    """List the image, its brain mask and the templates of a registration.

    Parameters
    ----------
    t1w_file : Path
        Raw T1-weighted image, of which only the header is read.
    mask_file : Path
        Brain mask of the image.
    templates : mapping of str to str
        Source of each template by its name.
    skull_strip_method : str
        Method of skull stripping, as ``SkullStrip`` reports it.
    lesion_file : Path, optional
        Mask of a lesion that was excluded from the registration.

    Returns
    -------
    str
        HTML.
    """
    method, note = _SKULL_STRIP_METHODS.get(skull_strip_method, (skull_strip_method, ''))
    rows = [
        ('T1-weighted image', t1w_file.name, str(t1w_file.parent)),
        ('Grid', *_describe_grid(t1w_file)),
        ('Brain mask', method, note),
        ('Volume of the brain mask', _mask_volume(mask_file), ''),
        *(('Template', name, uri) for name, uri in templates.items()),
    ]
    if lesion_file is not None:
        note = f'{lesion_file.name}; excluded from the deformable registration'
        rows.append(('Lesion', _mask_volume(lesion_file), note))
    return render('summary.html', rows=rows)


@dataclass(frozen=True)
class _QualityRow:
    """A row of the table of measures."""

    criterion: Criterion
    grade: Grade
    value: str
    note: str


def quality_table(measures: Mapping[str, float | None]) -> str:
    """Compare the measures of a registration with their limits.

    Parameters
    ----------
    measures : mapping of str to float or None
        Content of the QC file.

    Returns
    -------
    str
        HTML table with a row for each criterion: grade, value, limits and their reason.
    """
    rows = [_quality_row(criterion, measures) for criterion in CRITERIA]
    return render('quality.html', rows=rows, overall_grade=overall_grade(measures))


def header(
    participant: str, date: str, verdicts: Sequence[tuple[str, str, Grade]], failures: int
) -> str:
    """Render the head of a page: the verdicts and the number of failed steps.

    Parameters
    ----------
    participant : str
        Label without ``sub-``.
    date : str
        Day of the run.
    verdicts : sequence of (str, str, Grade)
        Name of each registration, anchor of its table on the page, and overall grade.
    failures : int
        Number of failed steps.

    Returns
    -------
    str
        HTML.
    """
    return render(
        'header.html', participant=participant, date=date, verdicts=verdicts, failures=failures
    )


def methods(markdown: str, rendered: str) -> str:
    """Render the methods section.

    Parameters
    ----------
    markdown : str
        Methods text as Markdown, to be copied.
    rendered : str
        The same text as HTML.

    Returns
    -------
    str
        HTML.
    """
    return render('methods.html', markdown=markdown, rendered=rendered)


def errors(crashes: Sequence[Crash]) -> str:
    """Render the list of failed steps.

    Parameters
    ----------
    crashes : sequence of Crash
        Failed steps; may be empty.

    Returns
    -------
    str
        HTML.
    """
    return render('errors.html', crashes=crashes)


@dataclass(frozen=True)
class _ProvenanceBlock:
    """A run on the page: facts, the steps that it computed by image, and tables of settings."""

    title: str
    facts: list[tuple[str, str]]
    computed: Mapping[str, Contribution]
    tables: list[tuple[str, list[tuple[str, str]]]]


def provenance(computed: Sequence[RunRecord], last: RunRecord, elapsed: float | None) -> str:
    """Render the runs that computed the results: command, duration, settings and versions.

    Parameters
    ----------
    computed : sequence of RunRecord
        Runs that computed the results of the images, the oldest first; empty if no image is done.
    last : RunRecord
        The run that the report is about, which may have computed nothing.
    elapsed : float or None
        Duration of the last run in seconds, if known.

    Returns
    -------
    str
        HTML.
    """
    if not computed:
        return render('provenance.html', blocks=[_provenance_block('', last, elapsed)])
    blocks = [_provenance_block('Run that computed results', run) for run in computed]
    if last.run_id not in [run.run_id for run in computed]:
        title = 'Last run, which computed none of the results'
        blocks.append(_provenance_block(title, last, elapsed))
    return render('provenance.html', blocks=blocks)


def _provenance_block(
    title: str, run: RunRecord, elapsed: float | None = None
) -> _ProvenanceBlock:
    """Collect what the page says of a run, as the run itself has recorded it."""
    if not run.settings and run.computed:
        return _ProvenanceBlock('Run that has left no record', [], run.computed, [])
    record = _table(run.settings, 'run')
    facts = [
        ('deepreg_wf', record.get('version', '')),
        ('Started', record.get('started', '')),
        ('Time taken', '' if elapsed is None else _format_duration(elapsed)),
        ('Command line', record.get('command_line', '')),
    ]
    groups = [(title, _table(run.settings, name)) for name, title in _SETTINGS_TITLES.items()]
    groups += [(title, _table(record, name)) for name, title in _RUN_TITLES.items()]
    tables = [
        (title, [_format_setting(*setting) for setting in table.items()])
        for title, table in groups
        if table
    ]
    shown = [(name, str(value)) for name, value in facts if value]
    return _ProvenanceBlock(title, shown, run.computed, tables)


def _table(tables: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a table of a settings file; empty if there is none."""
    table = tables.get(name)
    return table if isinstance(table, dict) else {}


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader

    return Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )


def render(name: str, **context: object) -> str:
    """Render a template of ``data/report``.

    Parameters
    ----------
    name : str
        File name of the template.
    **context : object
        Variables of the template.

    Returns
    -------
    str
        HTML that is marked as safe, so that it is not escaped when another template includes it.
    """
    from markupsafe import Markup

    return Markup(_environment().get_template(name).render(**context).strip())


def _describe_grid(path: Path) -> tuple[str, str]:
    """Describe the size and the voxels of an image, and the orientation of its axes."""
    import nibabel as nb

    image = nb.Nifti1Image.from_filename(path)
    size = ' × '.join(str(n) for n in image.shape[:3])
    spacing = ' × '.join(f'{h:.2f}' for h in image.header.get_zooms()[:3])
    tilt = math.degrees(float(np.max(nb.affines.obliquity(image.affine))))
    axes = f'stored as {"".join(nb.aff2axcodes(image.affine))}'
    oblique = f', oblique by {tilt:.0f}°' if tilt >= 1 else ''
    return f'{size} voxels of {spacing} mm', axes + oblique


def _mask_volume(path: Path) -> str:
    import nibabel as nb

    mask = nb.Nifti1Image.from_filename(path)
    voxel = abs(np.linalg.det(mask.affine[:3, :3]))
    return f'{np.count_nonzero(np.asanyarray(mask.dataobj)) * voxel / 1000:.0f} mL'


def _quality_row(criterion: Criterion, measures: Mapping[str, float | None]) -> _QualityRow:
    grade, value = criterion.grade(measures), criterion.value(measures)
    if value is None:
        return _QualityRow(criterion, grade, '–', '')
    before = measures[criterion.baseline] if criterion.baseline else None
    after = measures[criterion.key]
    note = ''
    if before is not None and after is not None:
        note = f'from {criterion.format(before)} to {criterion.format(after)}'
    return _QualityRow(criterion, grade, criterion.format(value), note)


def _format_duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, 'h'), (minutes, 'min'), (rest, 's'))
    return ' '.join(f'{number} {unit}' for number, unit in parts if number) or '0 s'


def _format_setting(key: str, value: object) -> tuple[str, str]:
    name = key.replace('_', ' ')
    if isinstance(value, bool):
        return name, 'yes' if value else 'no'
    return name, ', '.join(map(str, value)) if isinstance(value, list) else str(value)

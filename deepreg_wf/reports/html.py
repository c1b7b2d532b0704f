"""The parts of the page that are text and tables, as fragments of HTML."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepreg_wf.engine.crashes import Crash
from deepreg_wf.qc.criteria import CRITERIA, Criterion, Grade, overall

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parents[1] / 'data' / 'report'

_MASKS = {
    'already-extracted': ('the image already shows only a brain; used as it is', ''),
    'deepbet': ('extracted by deepbet', ''),
    'hdbet': ('extracted by HD-BET', ''),
    'synthstrip': ('extracted by SynthStrip', ''),
    'template': ('found by matching the MNI152 brain', ''),
    'precomputed': ('computed beforehand by another program', 'from --derivatives'),
    'none': ('skull stripping was skipped on request', 'all voxels above zero count as brain'),
}
_PACKAGES = (
    'torch', 'antspyx', 'deepbet', 'nipype', 'niworkflows', 'nireports', 'nitransforms',
    'nibabel', 'numpy', 'scipy',
)  # fmt: skip
_GROUPS = {
    'registration': 'Registration',
    'anatomical': 'Anatomical',
    'selection': 'Input',
    'output': 'Output',
    'execution': 'Execution',
}


def summary(
    t1w_file: Path,
    mask_file: Path,
    *,
    templates: Mapping[str, str],
    skull_strip_method: str,
    lesion_file: Path | None = None,
) -> str:
    """Say what was registered to what.

    Parameters
    ----------
    t1w_file : Path
        The raw image; only its header is read.
    mask_file : Path
        Its brain mask.
    templates : mapping of str to str
        Where each template comes from, by its name.
    skull_strip_method : str
        How the mask came about, as ``SkullStrip`` tells.
    lesion_file : Path, optional
        Mask of a lesion that took no part in the registration.

    Returns
    -------
    str
        HTML.
    """
    method, note = _MASKS.get(skull_strip_method, (skull_strip_method, ''))
    rows = [
        ('T1-weighted image', t1w_file.name, str(t1w_file.parent)),
        ('Grid', *_describe_grid(t1w_file)),
        ('Brain mask', method, note),
        ('Volume in the mask', _volume(mask_file), ''),
        *(('Template', name, uri) for name, uri in templates.items()),
    ]
    if lesion_file is not None:
        note = f'{lesion_file.name}; excluded from the deformable registration'
        rows.append(('Lesion', _volume(lesion_file), note))
    return render('summary.html', rows=rows)


@dataclass(frozen=True)
class _Row:
    criterion: Criterion
    grade: Grade
    value: str
    note: str


def quality_table(figures: Mapping[str, float | None]) -> str:
    """Hold a registration against the table of limits.

    Parameters
    ----------
    figures : mapping of str to float or None
        What the QC file holds.

    Returns
    -------
    str
        HTML: a row with a light for every criterion, with its limits and their reason.
    """
    rows = [_row(criterion, figures) for criterion in CRITERIA]
    return render('quality.html', rows=rows, overall=overall(figures))


def header(
    subject: str, date: str, verdicts: Sequence[tuple[str, str, Grade]], failures: int
) -> str:
    """Head the page with verdicts and the number of failed steps.

    Parameters
    ----------
    subject, date : str
        Label of the subject, and the day of the run.
    verdicts : sequence of (str, str, Grade)
        Name of each registration, the place of its table on the page, and its light.
    failures : int
        Number of steps that failed.

    Returns
    -------
    str
        HTML.
    """
    return render('header.html', subject=subject, date=date, verdicts=verdicts, failures=failures)


def methods(markdown: str, rendered: str) -> str:
    """Show the methods text, rendered and as Markdown to copy."""
    return render('methods.html', markdown=markdown, rendered=rendered)


def errors(crashes: Sequence[Crash]) -> str:
    """Show what failed, or that nothing did."""
    return render('errors.html', crashes=crashes)


def provenance(settings: Mapping[str, Mapping[str, Any]], elapsed: float | None) -> str:
    """Show how to make the same result again.

    Parameters
    ----------
    settings : mapping
        Tables of the settings file of the run; ``run`` tells version, start and command line.
    elapsed : float, optional
        Seconds that the run took.

    Returns
    -------
    str
        HTML.
    """
    run = settings.get('run', {})
    facts = [
        ('deepreg_wf', run.get('version', '')),
        ('Started', run.get('started', '')),
        ('Time taken', '' if elapsed is None else _duration(elapsed)),
        ('Command line', run.get('command_line', '')),
    ]
    tables = [
        (title, [(_words(key), _setting(value)) for key, value in settings[group].items()])
        for group, title in _GROUPS.items()
        if settings.get(group)
    ]
    tables.append(('Software versions', _versions()))
    return render('provenance.html', facts=[fact for fact in facts if fact[1]], tables=tables)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader

    return Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )


def render(name: str, **context: Any) -> str:
    """Fill a template of ``data/report``; what comes out is not escaped again in another."""
    from markupsafe import Markup

    return Markup(_environment().get_template(name).render(**context).strip())


def _describe_grid(path: Path) -> tuple[str, str]:
    """Size and spacing of an image, and how its axes lie."""
    import nibabel as nb

    image = nb.Nifti1Image.from_filename(path)
    size = ' × '.join(str(n) for n in image.shape[:3])
    spacing = ' × '.join(f'{h:.2f}' for h in image.header.get_zooms()[:3])
    tilt = math.degrees(float(np.max(nb.affines.obliquity(image.affine))))
    axes = f'stored as {"".join(nb.aff2axcodes(image.affine))}'
    oblique = f', oblique by {tilt:.0f}°' if tilt >= 1 else ''
    return f'{size} voxels of {spacing} mm', axes + oblique


def _volume(path: Path) -> str:
    import nibabel as nb

    mask = nb.Nifti1Image.from_filename(path)
    voxel = abs(np.linalg.det(mask.affine[:3, :3]))
    return f'{np.count_nonzero(np.asanyarray(mask.dataobj)) * voxel / 1000:.0f} mL'


def _row(criterion: Criterion, figures: Mapping[str, float | None]) -> _Row:
    grade, value = criterion.grade(figures), criterion.value(figures)
    if value is None:
        return _Row(criterion, grade, '–', '')
    note = ''
    if criterion.minus:
        before, after = (criterion.show(figures[k]) for k in (criterion.minus, criterion.key))
        note = f'from {before} to {after}'
    return _Row(criterion, grade, criterion.show(value), note)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, 'h'), (minutes, 'min'), (rest, 's'))
    return ' '.join(f'{number} {unit}' for number, unit in parts if number) or '0 s'


def _words(key: str) -> str:
    return key.replace('_', ' ')


def _setting(value: Any) -> str:
    if isinstance(value, bool):
        return 'yes' if value else 'no'
    return ', '.join(map(str, value)) if isinstance(value, list) else str(value)


def _versions() -> list[tuple[str, str]]:
    """Versions of Python and of what is installed."""
    installed = ((package, _version(package)) for package in _PACKAGES)
    return [('Python', platform.python_version()), *(item for item in installed if item[1])]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ''

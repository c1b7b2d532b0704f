"""The page of a subject, put together from what its run has left behind."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepreg_wf.bids.entities import parse_entities
from deepreg_wf.engine.crashes import read_crashes
from deepreg_wf.qc.criteria import Grade, overall_grade
from deepreg_wf.reports import html as fragments
from deepreg_wf.reports.citations import read_bibliography, render_methods
from deepreg_wf.utils.atomic import atomic_write

if TYPE_CHECKING:
    from nireports.assembler.report import Report

_DATA = Path(__file__).parents[1] / 'data'
_QC = '_desc-registration_qc.json'
_ORDERING = ('session', 'acquisition', 'ceagent', 'reconstruction', 'run', 'space', 'cohort')
"""Entities in the titles of the page, as in ``data/report.yml``."""


def write_subject_report(
    output_dir: Path, subject: str, run_id: str, *, elapsed: float | None = None
) -> Path:
    """Write ``sub-X.html`` from the figures and files of a subject.

    Nothing is computed again, so that a report can be written at any time, also of a subject
    that has failed.

    Parameters
    ----------
    output_dir : Path
        Folder of the derivatives. Figures are taken from ``sub-X/figures``, errors and settings
        from ``sub-X/log/<run_id>``, the methods text from ``logs/CITATION.md``; what is missing
        is left out.
    subject : str
        Label, without ``sub-``.
    run_id : str
        Names the run whose errors and settings are shown.
    elapsed : float, optional
        Seconds that the run took.

    Returns
    -------
    Path
        The page, which loads nothing but the figures beside it.
    """
    page = output_dir / f'sub-{subject}.html'
    folder = output_dir / f'sub-{subject}'
    folder.mkdir(parents=True, exist_ok=True)
    settings = _read_settings(folder / 'log' / run_id / 'deepreg_wf.toml')
    crashes = read_crashes(folder / 'log' / run_id, output_dir / 'failed.tsv')
    report = _collect_figures(output_dir, subject, run_id)
    report.title = f'sub-{subject}: registration report'
    date = str(settings.get('run', {}).get('started', ''))[:10]
    report.header = [fragments.header(subject, date, _verdicts(folder), len(crashes))]
    _add(report, 'Methods', _methods(output_dir / 'logs' / 'CITATION.md'))
    # Where something failed, that is what the reader has come for.
    _add(report, 'Errors', fragments.errors(crashes), at=0 if crashes else None)
    _add(report, 'Provenance', fragments.provenance(settings, elapsed))
    with atomic_write(page) as temporary:
        report.out_filename = temporary
        report.generate_report()
    return page


def _collect_figures(output_dir: Path, subject: str, run_id: str) -> Report:
    """Let NiReports find the figures in the folder of the subject.

    Searching there takes no longer in a large cohort, and needs no filter by subject, which
    would fail where a folder above the dataset is called ``sub-`` something.
    """
    from nireports.assembler.report import Report

    # Resolved as pybids does, or figures would not be found to lie in the folder of the page.
    output_dir = output_dir.resolve()
    report = Report(
        output_dir,
        run_id,
        bootstrap_file=_DATA / 'report.yml',
        out_filename=f'sub-{subject}.html',
        reportlets_dir=output_dir / f'sub-{subject}',
    )
    # Set here rather than in the specification, where a path would have to survive YAML.
    report.template_path = fragments.TEMPLATES / 'page.html'
    return report


@dataclass
class _Text:
    """A reportlet of ours among those of NiReports."""

    components: list[tuple[str, None]]
    title: str = ''
    subtitle: str = ''
    description: str = ''


def _add(report: Report, name: str, content: str, *, at: int | None = None) -> None:
    from nireports.assembler.report import SubReport

    if content:
        section = SubReport(name, reportlets=[_Text([(content, None)])])
        report.sections.insert(len(report.sections) if at is None else at, section)


def _methods(citation: Path) -> str:
    if not citation.is_file():
        return ''
    markdown = citation.read_text(encoding='utf-8')
    bibliography = read_bibliography(_DATA / 'boilerplate.bib')
    return fragments.methods(markdown, render_methods(markdown, bibliography))


def _verdicts(folder: Path) -> list[tuple[str, str, Grade]]:
    """Overall light of each registration of the subject, by session and space."""
    paths = sorted(folder.glob(f'**/anat/*{_QC}'))
    verdicts = []
    for path in paths:
        _, *labels = path.name.removesuffix(_QC).split('_')
        name = ' · '.join(label.removeprefix('space-') for label in labels)
        place = _place(path) if len(paths) > 1 else 'quality'
        verdicts.append((name, place, overall_grade(json.loads(path.read_text(encoding='utf-8')))))
    return verdicts


def _place(path: Path) -> str:
    """Anchor of the table of a registration, which the page makes of the title by NiReports."""
    entities = parse_entities(path)
    return '-'.join(['quality', *(f'{k}-{entities[k]}' for k in _ORDERING if k in entities)])


def _read_settings(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    return tomllib.loads(path.read_text(encoding='utf-8')) if path.is_file() else {}

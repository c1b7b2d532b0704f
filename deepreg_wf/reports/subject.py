"""Report of one participant, assembled from the figures and files of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deepreg_wf.bids.entities import parse_entities
from deepreg_wf.engine.computed import RunRecord, read_computed, read_settings
from deepreg_wf.engine.crashes import read_crashes
from deepreg_wf.errors import InputError
from deepreg_wf.qc.criteria import Grade, overall_grade
from deepreg_wf.qc.measures import read_measures
from deepreg_wf.reports import html
from deepreg_wf.reports.citations import read_bibliography, render_methods
from deepreg_wf.utils.atomic import atomic_write

if TYPE_CHECKING:
    from nireports.assembler.report import Report

_DATA = Path(__file__).parents[1] / 'data'
_QC_SUFFIX = '_desc-registration_qc.json'

# Entities in the headings of the page, in the order of ``data/report.yml``.
_ENTITIES = ('session', 'acquisition', 'ceagent', 'reconstruction', 'run', 'space', 'cohort')


def write_subject_report(
    output_dir: Path, participant: str, run_id: str, *, elapsed: float | None = None
) -> Path:
    """Write ``sub-X.html`` from the figures and files of a participant.

    Nothing is computed again, so that the report can be written at any time, even if the run of
    the participant has failed.

    Parameters
    ----------
    output_dir : Path
        Folder of the derivatives. Figures are read from ``sub-X/figures``, errors and settings
        from ``sub-X/log/<run_id>``, the runs that computed the results from all of ``sub-X/log``,
        the methods text from ``logs/CITATION.md``. Missing files are
        left out.
    participant : str
        Label without ``sub-``.
    run_id : str
        Name of the run whose errors and settings are shown.
    elapsed : float, optional
        Duration of the run in seconds.

    Returns
    -------
    Path
        The page, which loads only the figures beside it.
    """
    page = output_dir / f'sub-{participant}.html'
    folder = output_dir / f'sub-{participant}'
    folder.mkdir(parents=True, exist_ok=True)
    settings = read_settings(folder / 'log' / run_id / 'deepreg_wf.toml')
    crashes = read_crashes(folder / 'log' / run_id, output_dir / 'failed.tsv')
    report = _collect_figures(output_dir, participant, run_id)
    report.title = f'sub-{participant}: registration report'
    date = str(settings.get('run', {}).get('started', ''))[:10]
    report.header = [html.header(participant, date, _verdicts(folder), len(crashes))]
    _add_section(report, 'Methods', _methods(output_dir / 'logs' / 'CITATION.md'))
    # Errors come first, because they are the reason to open the report of a failed run.
    _add_section(report, 'Errors', html.errors(crashes), index=0 if crashes else None)
    last = RunRecord(run_id=run_id, settings=settings, computed={})
    computed = read_computed(folder / 'log')
    _add_section(report, 'Provenance', html.provenance(computed, last, elapsed))
    with atomic_write(page) as temporary:
        report.out_filename = temporary
        report.generate_report()
    return page


def _collect_figures(output_dir: Path, participant: str, run_id: str) -> Report:
    """Find the figures of a participant with NiReports.

    NiReports searches the folder of the participant, so that the search is as fast in a large
    cohort. It needs no filter by participant, which would fail if the name of a parent folder
    starts with ``sub-``.
    """
    from nireports.assembler.report import Report

    # NiReports compares this path with those from pybids, which resolves symbolic links.
    output_dir = output_dir.resolve()
    report = Report(
        output_dir,
        run_id,
        bootstrap_file=_DATA / 'report.yml',
        out_filename=f'sub-{participant}.html',
        reportlets_dir=output_dir / f'sub-{participant}',
    )
    # Not set in the YAML file, where special characters in the path would have to be escaped.
    report.template_path = html.TEMPLATES / 'page.html'
    return report


@dataclass
class _TextReportlet:
    """Text with the attributes of a reportlet of NiReports."""

    components: list[tuple[str, None]]
    title: str = ''
    subtitle: str = ''
    description: str = ''


def _add_section(report: Report, name: str, content: str, *, index: int | None = None) -> None:
    """Add a section at an index, or at the end; without content there is no section."""
    from nireports.assembler.report import SubReport

    if content:
        section = SubReport(name, reportlets=[_TextReportlet([(content, None)])])
        report.sections.insert(len(report.sections) if index is None else index, section)


def _methods(citation: Path) -> str:
    if not citation.is_file():
        return ''
    markdown = citation.read_text(encoding='utf-8', errors='replace')
    bibliography = read_bibliography(_DATA / 'boilerplate.bib')
    return html.methods(markdown, render_methods(markdown, bibliography))


def _verdicts(folder: Path) -> list[tuple[str, str, Grade]]:
    """Name, anchor and overall grade of each registration of a participant."""
    paths = sorted(folder.glob(f'**/anat/*{_QC_SUFFIX}'))
    verdicts = []
    for path in paths:
        _, *labels = path.name.removesuffix(_QC_SUFFIX).split('_')
        name = ' · '.join(label.removeprefix('space-') for label in labels)
        anchor = _quality_anchor(path) if len(paths) > 1 else 'quality'
        try:
            verdicts.append((name, anchor, overall_grade(read_measures(path))))
        except InputError as error:
            verdicts.append((f'{path.name}: {error.problem}', anchor, Grade.NONE))
    return verdicts


def _quality_anchor(path: Path) -> str:
    """Anchor of the table of a registration, as ``page.html`` makes it of the heading."""
    entities = parse_entities(path)
    labels = (f'{key}-{entities[key]}' for key in _ENTITIES if key in entities)
    return '-'.join(['quality', *labels])

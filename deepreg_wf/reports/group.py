"""Report of a group: all registrations, the distribution of measures, and average images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from deepreg_wf.qc.criteria import CRITERIA, Grade, overall_grade
from deepreg_wf.reports.distributions import distribution_figure
from deepreg_wf.reports.figures import alignment_figure, log_jacobian_figure, magnitude_figure
from deepreg_wf.reports.html import render
from deepreg_wf.reports.images import ScalarImage
from deepreg_wf.reports.reference import Reference
from deepreg_wf.reports.scores import scores_figure
from deepreg_wf.utils.atomic import write_text

if TYPE_CHECKING:
    from deepreg_wf.group import Atlas, RegistrationRecord


@dataclass(frozen=True)
class _Reportlet:
    """A figure, a table or a text, with the attributes that ``page.html`` reads."""

    components: list[tuple[str, None]]
    subtitle: str = ''
    description: str = ''
    title: str = ''


@dataclass(frozen=True)
class _Section:
    """A section, with the attributes that ``page.html`` reads."""

    name: str
    reportlets: list[_Reportlet]
    title: str = ''


def write_group_report(
    output_dir: Path,
    records: Sequence[RegistrationRecord],
    atlases: Sequence[Atlas],
    missing: Mapping[str, str],
) -> Path:
    """Write ``group.html`` and its figures, in ``group/figures``.

    Parameters
    ----------
    output_dir : Path
        Folder of the derivatives.
    records : sequence of RegistrationRecord
        Registrations, in the order of the table.
    atlases : sequence of Atlas
        Average images of each space.
    missing : mapping of str to str
        Participants and images that are missing or were left out, with the reason.

    Returns
    -------
    Path
        The page, which loads only the figures beside it.
    """
    grades = [overall_grade(record.measures) for record in records]
    counts = [(grade, grades.count(grade)) for grade in Grade if grade in grades]
    several = len({record.space for record in records}) > 1
    table = render('group_table.html', rows=_rows(output_dir, records), several=several)
    sections = [_text_section('Registrations', table)]
    if missing:
        sections.append(_text_section('Missing', render('group_missing.html', missing=missing)))
    sections.append(_distributions(records))
    sections += [_averages(output_dir, atlas) for atlas in atlases if atlas.images]
    header = render('group_header.html', records=records, counts=counts, missing=missing)
    page = output_dir / 'group.html'
    title = f'group: {len(records)} registrations'
    write_text(page, render('page.html', title=title, header=[header], sections=sections))
    return page


_INTRODUCTIONS = {
    'Registrations': 'The worst registrations come first. The order follows the verdict, then the '
    'number of measures that are not good, then the correlation with the template. Each image '
    'links to the report of its participant.',
    'Missing': 'These participants and images are not in the tables and averages.',
    'Measures': 'Each dot is an image; hold the mouse over a dot to see its name. The background '
    'shows the limits of the grades: green is good, amber needs review, red is bad.',
}
"""Text at the beginning of a section."""


def _text_section(name: str, content: str) -> _Section:
    return _Section(name, [_Reportlet([(content, None)])], _INTRODUCTIONS[name])


@dataclass(frozen=True)
class _TableRow:
    """A registration in the table of the group."""

    record: RegistrationRecord
    grade: Grade
    page: str
    warnings: list[tuple[Grade, str]]
    values: list[str]


_COLUMNS = ('correlation_final', 'mask_dice_final', 'jacobian_min', 'displacement_median_mm')
"""Measures that the table shows for every image, whatever their grade."""


def _rows(output_dir: Path, records: Sequence[RegistrationRecord]) -> list[_TableRow]:
    return [
        _TableRow(
            record,
            overall_grade(record.measures),
            _report_of(output_dir, record),
            _warnings(record.measures),
            _column_values(record.measures),
        )
        for record in records
    ]


def _report_of(output_dir: Path, record: RegistrationRecord) -> str:
    """Name of the report of a participant; empty if there is none."""
    page = f'sub-{record.participant}.html'
    return page if (output_dir / page).is_file() else ''


def _warnings(measures: Mapping[str, float | None]) -> list[tuple[Grade, str]]:
    """Grade and text of each measure that is not good."""
    graded = [(criterion, criterion.grade(measures)) for criterion in CRITERIA]
    return [
        (grade, f'{criterion.label}: {criterion.format(value)}')
        for criterion, grade in graded
        if grade in (Grade.BAD, Grade.REVIEW) and (value := criterion.value(measures)) is not None
    ]


def _column_values(measures: Mapping[str, float | None]) -> list[str]:
    """Text of the measures in `_COLUMNS`."""
    criteria = {criterion.key: criterion for criterion in CRITERIA if not criterion.baseline}
    values = ((criteria[key], criteria[key].value(measures)) for key in _COLUMNS)
    return ['–' if value is None else criterion.format(value) for criterion, value in values]


def _distributions(records: Sequence[RegistrationRecord]) -> _Section:
    figures: list[tuple[str, None]] = []
    for criterion in CRITERIA:
        found = [(record.image, criterion.value(record.measures)) for record in records]
        known = [(image, value) for image, value in found if value is not None]
        if known:
            figures.append((Markup(distribution_figure(criterion, known)), None))
    return _Section('Measures', [_Reportlet(figures)], _INTRODUCTIONS['Measures'])


def _averages(output_dir: Path, atlas: Atlas) -> _Section:
    """Show the average images and the principal modes of one space."""
    # The mean takes the place of the template, whose file may no longer exist.
    mean = Reference.load(atlas.images['mean'], atlas.images['mask'], name='mean')
    reportlets = []
    for desc, figure in _AVERAGE_FIGURES.items():
        if desc in atlas.images:
            drawn = figure.draw(mean, ScalarImage.load(atlas.images[desc]))
            reportlets.append(_figure_reportlet(output_dir, atlas, desc, drawn, *figure.text))
    if atlas.scores:
        scores = scores_figure(list(atlas.scores.items()), atlas.explained_variance_ratio)
        reportlets.append(_Reportlet([(Markup(scores), None)], 'Modes', _MODES_TEXT))
    for number, ratio in enumerate(atlas.explained_variance_ratio, start=1):
        ends = [atlas.images.get(f'mode{number}{end}') for end in ('minus', 'plus')]
        if ends[0] is not None and ends[1] is not None:
            low, high = ScalarImage.load(ends[0]), ScalarImage.load(ends[1])
            shown = Reference(low, mean.mask, mean.contours)
            drawn = alignment_figure(shown, high, mean.mask, names=('−2 SD', '+2 SD'))
            title = f'Mode {number}, {100 * ratio:.0f} % of the variance'
            reportlets.append(
                _figure_reportlet(output_dir, atlas, f'mode{number}', drawn, title, _MODE_TEXT)
            )
    introduction = (
        f'Computed from {atlas.n_images} images. The images are in the folder "group", as NIfTI.'
    )
    return _Section(f'Average in {atlas.space}', reportlets, introduction)


def _draw_average(mean: Reference, average: ScalarImage) -> str:
    return alignment_figure(mean, average, mean.mask, names=('mean', 'average'))


def _draw_deviation(mean: Reference, deviation: ScalarImage) -> str:
    known = ScalarImage(np.nan_to_num(deviation.data), deviation.affine)
    description = 'standard deviation of the log-Jacobian'
    return magnitude_figure(mean, known, symbol='SD', description=description, unit='')


def _draw_momentum(mean: Reference, momentum: ScalarImage) -> str:
    description = 'length of the mean momentum'
    return magnitude_figure(mean, momentum, symbol='|m₀|', description=description, unit='mm')


@dataclass(frozen=True)
class _AverageFigure:
    """Function that draws an average image, and the title and description of the figure."""

    draw: Callable[[Reference, ScalarImage], str]
    text: tuple[str, str]


_AVERAGE_FIGURES = {
    'average': _AverageFigure(
        _draw_average,
        (
            'Average brain',
            'Two images alternate: the mean of the images in template space, and the same mean '
            'deformed to the average shape of the group by the geodesic of the mean momentum. '
            'The images agree where the mean is sharp. Press and hold the mouse button to pause.',
        ),
    ),
    'meanlogjacobian': _AverageFigure(
        partial(log_jacobian_figure, subject_name='group'),
        (
            'Mean change of volume',
            'Regions in which the group is larger or smaller than the template, without the '
            'affine.',
        ),
    ),
    'sdlogjacobian': _AverageFigure(
        _draw_deviation,
        (
            'Standard deviation of the change of volume',
            'Regions in which the images differ most from each other.',
        ),
    ),
    'meanmomentum': _AverageFigure(
        _draw_momentum,
        (
            'Mean momentum',
            'The geodesic of the mean momentum leads from the template to the average brain.',
        ),
    ),
}
"""Figures by the label of the ``desc`` entity of their image."""

_MODES_TEXT = (
    'Principal components of the momenta, in the metric of the registration. A dot far from all '
    'others is an unusual brain or a failed registration.'
)
_MODE_TEXT = 'Two standard deviations below and above the average, along the mode.'


def _figure_reportlet(
    output_dir: Path, atlas: Atlas, desc: str, figure: str, title: str, description: str
) -> _Reportlet:
    """Write a figure to a file that the page loads."""
    mean = atlas.images['mean']
    name = mean.name.replace('_desc-mean_T1w.nii.gz', f'_desc-{desc}_T1w.svg')
    path = mean.parent / 'figures' / name
    write_text(path, figure)
    link = render('figure.html', source=path.relative_to(output_dir).as_posix())
    return _Reportlet([(link, None)], title, description)

"""The page of a group: the worst first, how figures are spread, and what brains have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from deepreg_wf.bids.entities import write_text
from deepreg_wf.qc.criteria import CRITERIA, Grade, overall
from deepreg_wf.reports.distributions import distribution_figure, scores_figure
from deepreg_wf.reports.figures import (
    Reference,
    alignment_figure,
    log_jacobian_figure,
    magnitude_figure,
)
from deepreg_wf.reports.html import render
from deepreg_wf.reports.volumes import Volume

if TYPE_CHECKING:
    from deepreg_wf.group import Atlas, Member


@dataclass(frozen=True)
class _Part:
    """A figure, a table or a text of the page, in the words of its template."""

    components: list[tuple[str, None]]
    subtitle: str = ''
    description: str = ''
    title: str = ''


@dataclass(frozen=True)
class _Section:
    name: str
    reportlets: list[_Part]
    title: str = ''


def write_group_report(
    output_dir: Path,
    members: Sequence[Member],
    atlases: Sequence[Atlas],
    lacking: Mapping[str, str],
) -> Path:
    """Write ``group.html`` and its figures, in ``group/figures``.

    Parameters
    ----------
    output_dir : Path
        Folder of the derivatives.
    members : sequence of Member
        Registrations, in the order of the table.
    atlases : sequence of Atlas
        One for each space.
    lacking : mapping of str to str
        What is missing or was left out, and why.

    Returns
    -------
    Path
        The page, which loads nothing but the figures beside it.
    """
    grades = [overall(member.figures) for member in members]
    counts = [(grade, grades.count(grade)) for grade in Grade if grade in grades]
    several = len({member.space for member in members}) > 1
    table = render('group_table.html', rows=_rows(output_dir, members), several=several)
    sections = [_Section('Registrations', [_Part([(table, None)])], _LEADS['Registrations'])]
    if lacking:
        words = render('group_lacking.html', lacking=lacking)
        sections.append(_Section('Missing', [_Part([(words, None)])], _LEADS['Missing']))
    sections.append(_distributions(members))
    sections += [_averages(output_dir, atlas) for atlas in atlases if atlas.images]
    header = render('group_header.html', members=members, counts=counts, lacking=lacking)
    page = output_dir / 'group.html'
    title = f'group: {len(members)} registrations'
    write_text(page, render('page.html', title=title, header=[header], sections=sections))
    return page


_LEADS = {
    'Registrations': 'Worst first: by verdict, then by the number of measures that are not good, '
    'then by correlation with the template. Each row links to the report of its participant.',
    'Missing': 'Participants and images that are not among the above, and why.',
    'Measures': 'Each dot is an image; hold the mouse over it to see its name. Green, amber and '
    'red backgrounds show the limits that the verdicts follow.',
}


@dataclass(frozen=True)
class _Row:
    member: Member
    grade: Grade
    page: str
    doubts: list[tuple[Grade, str]]
    values: list[str]


_COLUMNS = ('correlation_final', 'mask_dice_final', 'jacobian_min', 'displacement_median_mm')
"""Figures that the table shows of every image, whatever their light."""


def _rows(output_dir: Path, members: Sequence[Member]) -> list[_Row]:
    return [
        _Row(member, overall(member.figures), _page_of(output_dir, member), *_judge(member))
        for member in members
    ]


def _page_of(output_dir: Path, member: Member) -> str:
    page = f'sub-{member.participant}.html'
    return page if (output_dir / page).is_file() else ''


def _judge(member: Member) -> tuple[list[tuple[Grade, str]], list[str]]:
    doubts, shown = [], {}
    for criterion in CRITERIA:
        grade, value = criterion.grade(member.figures), criterion.value(member.figures)
        words = '–' if value is None else criterion.show(value)
        if grade in (Grade.BAD, Grade.LOOK):
            doubts.append((grade, f'{criterion.label}: {words}'))
        if not criterion.minus:
            shown[criterion.key] = words
    return doubts, [shown[key] for key in _COLUMNS]


def _distributions(members: Sequence[Member]) -> _Section:
    figures = []
    for criterion in CRITERIA:
        found = [(member.image, criterion.value(member.figures)) for member in members]
        known = [(image, value) for image, value in found if value is not None]
        if known:
            figures.append((Markup(distribution_figure(criterion, known)), None))
    return _Section('Measures', [_Part(figures)], _LEADS['Measures'])


def _averages(output_dir: Path, atlas: Atlas) -> _Section:
    """Figures of the mean images, the average brain and the modes of one space."""
    reference = _mean_as_reference(atlas)
    parts = [
        _picture(output_dir, atlas, desc, draw(reference, Volume.load(atlas.images[desc])), *words)
        for desc, (draw, *words) in _FIGURES.items()
        if desc in atlas.images
    ]
    if atlas.scores:
        scores = scores_figure(list(atlas.scores.items()), atlas.shares)
        parts.append(_Part([(Markup(scores), None)], 'Modes', _MODES))
    for number, share in enumerate(atlas.shares, start=1):
        ends = [atlas.images.get(f'mode{number}{end}') for end in ('minus', 'plus')]
        if ends[0] is not None and ends[1] is not None:
            figure = _draw_mode(reference, Volume.load(ends[0]), Volume.load(ends[1]))
            title = f'Mode {number}, {100 * share:.0f} % of the variance'
            parts.append(_picture(output_dir, atlas, f'mode{number}', figure, title, _MODE))
    lead = f'Computed from {atlas.members} images; stored as NIfTI images in the folder "group".'
    return _Section(f'Average in {atlas.space}', parts, lead)


def _mean_as_reference(atlas: Atlas) -> Reference:
    """The mean image in the place of the template, which need not be there any more."""
    mean = Reference.load(atlas.images['mean'], atlas.images['mask'])
    outlines = (replace(o, label=o.label.replace('template', 'mean')) for o in mean.outlines)
    return replace(mean, outlines=tuple(outlines))


def _draw_average(reference: Reference, average: Volume) -> str:
    return alignment_figure(reference, average, reference.mask, names=('mean', 'average'))


def _draw_deviation(reference: Reference, deviation: Volume) -> str:
    known = Volume(np.nan_to_num(deviation.data), deviation.affine)
    meaning = 'standard deviation of the log-Jacobian'
    return magnitude_figure(reference, known, symbol='SD', meaning=meaning, unit='')


def _draw_momentum(reference: Reference, momentum: Volume) -> str:
    meaning = 'length of the mean momentum'
    return magnitude_figure(reference, momentum, symbol='|m₀|', meaning=meaning, unit='mm')


def _draw_mode(reference: Reference, low: Volume, high: Volume) -> str:
    shown = Reference(low, reference.mask, reference.outlines)
    return alignment_figure(shown, high, reference.mask, names=('−2 SD', '+2 SD'))


_FIGURES: dict[str, tuple[Callable[[Reference, Volume], str], str, str]] = {
    'average': (
        _draw_average,
        'Average brain',
        'The mean of the images in template space, alternating with the same image carried along '
        'the geodesic of the mean momentum, which gives it the average shape of the group. Where '
        'the mean is sharp, the images agree. Press and hold the mouse button to pause.',
    ),
    'meanlogjacobian': (
        partial(log_jacobian_figure, whose='group'),
        'Mean change of volume',
        'Where the group is larger or smaller than the template, without the affine.',
    ),
    'sdlogjacobian': (
        _draw_deviation,
        'Spread of the change of volume',
        'Where the images differ most from each other.',
    ),
    'meanmomentum': (
        _draw_momentum,
        'Mean momentum',
        'Its geodesic leads from the template to the average brain.',
    ),
}
"""By image: what draws it, its title and what it shows."""

_MODES = (
    'Principal components of the momenta, in the metric of the registration. A dot far from all '
    'others is an unusual brain or a failed registration.'
)
_MODE = 'Two standard deviations below and above the average, along the mode.'


def _picture(
    output_dir: Path, atlas: Atlas, desc: str, figure: str, title: str, words: str
) -> _Part:
    """Put a figure into a file beside the page."""
    mean = atlas.images['mean']
    name = mean.name.replace('_desc-mean_T1w.nii.gz', f'_desc-{desc}_T1w.svg')
    path = mean.parent / 'figures' / name
    write_text(path, figure)
    shown = render('figure.html', source=path.relative_to(output_dir).as_posix())
    return _Part([(shown, None)], title, words)

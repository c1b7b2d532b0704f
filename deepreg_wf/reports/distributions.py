"""How figures are spread over a group: a dot for each image on the scale of its limits."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from deepreg_wf.qc.criteria import Criterion, Grade
from deepreg_wf.reports import svg

_WIDTH, _HEIGHT = 1200, 74
_LEFT, _RIGHT = 400, 130  # beside the scale: the name of the figure, and its median
_MIDDLE = 30
_RADIUS = 5.0
_INK, _FAINT = '#1c2430', '#6b7480'
_COLOURS = {Grade.GOOD: '#007d5c', Grade.LOOK: '#a86500', Grade.BAD: '#c43c00'}
_GROUND = {Grade.GOOD: '#e3f2ed', Grade.LOOK: '#faf0dd', Grade.BAD: '#f9e6de'}


def distribution_figure(criterion: Criterion, values: Sequence[tuple[str, float]]) -> str:
    """Draw the values of one figure of merit over its limits.

    Parameters
    ----------
    criterion : Criterion
    values : sequence of (str, float)
        Name of an image, to be read where the mouse rests on its dot, and its value.

    Returns
    -------
    str
        SVG.
    """
    numbers = np.array([value for _, value in values if np.isfinite(value)])
    low, high = _range(criterion, numbers)
    body = [svg.rectangle(0, 0, _WIDTH, _HEIGHT, '#fff'), *_ground(criterion, low, high)]
    body += [
        svg.text(_LEFT - 16, _MIDDLE + 5, criterion.label, size=16, colour=_INK, anchor='end')
    ]
    for value, anchor in ((low, 'start'), (high, 'end')):
        x = _place(value, low, high)
        words = criterion.show(value)
        body.append(svg.text(x, _HEIGHT - 6, words, size=14, colour=_FAINT, anchor=anchor))
    rise = _jitter(numbers)
    body += [
        _dot(criterion, name, value, _place(value, low, high), _MIDDLE + rise[i])
        for i, (name, value) in enumerate(pair for pair in values if np.isfinite(pair[1]))
    ]
    median = criterion.show(float(np.median(numbers))) if numbers.size else '–'
    x = _WIDTH - _RIGHT + 16
    body += [
        svg.text(x, _MIDDLE + 5, median, size=16, colour=_INK, weight=600),
        svg.text(x, _MIDDLE + 23, 'median', size=13, colour=_FAINT),
    ]
    return svg.document(_WIDTH, _HEIGHT, f'{criterion.label} over the group', body)


def scores_figure(scores: Sequence[tuple[str, Sequence[float]]], shares: Sequence[float]) -> str:
    """Draw where images lie along the first two modes, and what each mode explains.

    Parameters
    ----------
    scores : sequence of (str, sequence of float)
        Name of an image and its place along the modes, in standard deviations.
    shares : sequence of float
        Of the variance that each mode explains.

    Returns
    -------
    str
        SVG.
    """
    width, height, side = 1200, 520, 420
    reach = max(3.0, *(abs(place) for _, places in scores for place in places[:2]))
    centre, middle, unit = 330.0, 240.0, side / 2 / reach
    body = [svg.rectangle(0, 0, width, height, '#fff')]
    body += [svg.rectangle(centre - side / 2, middle - side / 2, side, side, '#f6f8fa')]
    for deviations in range(-int(reach), int(reach) + 1):
        along = deviations * unit
        colour = '#b9c2cc' if deviations == 0 else '#fff'
        lines = [
            np.array([[centre + along, middle - side / 2], [centre + along, middle + side / 2]]),
            np.array([[centre - side / 2, middle + along], [centre + side / 2, middle + along]]),
        ]
        words = f'{deviations:d}'.replace('-', '−')
        below, beside = middle + side / 2 + 20, centre - side / 2 - 10
        body += [
            svg.path(lines, colour, 1),
            svg.text(centre + along, below, words, size=14, colour=_FAINT, anchor='middle'),
            svg.text(beside, middle - along + 5, words, size=14, colour=_FAINT, anchor='end'),
        ]
    for name, places in scores:
        x, y = centre + places[0] * unit, middle - (places[1] if len(places) > 1 else 0) * unit
        body.append(_circle(x, y, '#0b62a4', name))
    across, upwards = (f'mode {number}, in standard deviations' for number in (1, 2))
    body.append(svg.text(centre, height - 24, across, size=15, colour=_INK, anchor='middle'))
    label = svg.text(0, 0, upwards, size=15, colour=_INK, anchor='middle')
    left = centre - side / 2 - 52
    body.append(f'<g transform="translate({left:g} {middle:g}) rotate(-90)">{label}</g>')
    body += _bars(shares, 720, middle + side / 2, side)
    title = 'Images along the first two modes, and the share of the variance of each mode'
    return svg.document(width, height, title, body)


def _bars(shares: Sequence[float], left: float, bottom: float, height: float) -> list[str]:
    step, top = 84, max(shares)
    elements = [svg.text(left, bottom - height - 8, 'share of the variance', size=15, colour=_INK)]
    for number, share in enumerate(shares):
        tall, x = share / top * (height - 40), left + number * step
        words = f'{100 * share:.0f} %'
        elements += [
            svg.rectangle(x, bottom - tall, step - 20, tall, '#0b62a4', radius=3),
            svg.text(
                x + (step - 20) / 2,
                bottom - tall - 8,
                words,
                size=15,
                colour=_INK,
                anchor='middle',
            ),
            svg.text(
                x + (step - 20) / 2,
                bottom + 20,
                f'mode {number + 1}',
                size=14,
                colour=_FAINT,
                anchor='middle',
            ),
        ]
    return elements


def _range(criterion: Criterion, numbers: np.ndarray) -> tuple[float, float]:
    """Ends of the scale: all values, and the limits that lie among or next to them."""
    limits = [criterion.good.low, criterion.good.high]
    ends = [*numbers.tolist(), *(limit for limit in limits if np.isfinite(limit))]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    room = 0.04 * (high - low) or max(abs(high), 1e-6) * 0.1
    return low - room if low < 0 or low - room > 0 else 0.0, high + room


def _place(value: float, low: float, high: float) -> float:
    share = (min(max(value, low), high) - low) / (high - low)
    return float(_LEFT + share * (_WIDTH - _LEFT - _RIGHT))


def _ground(criterion: Criterion, low: float, high: float) -> list[str]:
    """Colour the scale as the limits grade it, from the outside in."""
    layers = [(Grade.BAD, low, high)]
    for grade, interval in ((Grade.LOOK, criterion.fair), (Grade.GOOD, criterion.good)):
        layers.append((grade, max(low, interval.low), min(high, interval.high)))
    elements = []
    for grade, start, end in layers:
        if end >= start:
            x = _place(start, low, high)
            width = max(_place(end, low, high) - x, 2)
            elements.append(svg.rectangle(x, _MIDDLE - 18, width, 36, _GROUND[grade]))
    return elements


def _jitter(numbers: np.ndarray) -> np.ndarray:
    """Heights that keep dots of like values apart, the same in every drawing."""
    # Multiples of the golden ratio are spread evenly, however many there are.
    return (np.arange(len(numbers)) * 0.618034 % 1 - 0.5) * 22


def _dot(criterion: Criterion, name: str, value: float, x: float, y: float) -> str:
    # A difference is given as it is: nothing more is to be subtracted.
    figures = {criterion.key: value} | ({criterion.minus: 0.0} if criterion.minus else {})
    return _circle(x, y, _COLOURS[criterion.grade(figures)], f'{name}: {criterion.show(value)}')


def _circle(x: float, y: float, colour: str, name: str) -> str:
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{_RADIUS:g}" fill="{colour}" fill-opacity=".7" '
        f'stroke="#fff"><title>{escape(name)}</title></circle>'
    )

"""Distribution of each measure over a group: one dot for each image, above the limits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deepreg_wf.qc.criteria import Criterion, Grade
from deepreg_wf.reports import svg

_WIDTH, _HEIGHT = 1200, 74
_LEFT, _RIGHT = 460, 130  # margins for the name of the measure and for its median
_MIDDLE = 30
_BAND_HEIGHT = 36
_JITTER = 22  # pixels over which dots are spread vertically
_GOLDEN_RATIO = 0.618034
_TEXT_COLOUR, _MUTED_COLOUR = '#1c2430', '#6b7480'
_DOT_COLOURS = {Grade.GOOD: '#007d5c', Grade.REVIEW: '#a86500', Grade.BAD: '#c43c00'}
_BAND_COLOURS = {Grade.GOOD: '#e3f2ed', Grade.REVIEW: '#faf0dd', Grade.BAD: '#f9e6de'}


def distribution_figure(criterion: Criterion, values: Sequence[tuple[str, float]]) -> str:
    """Draw the values of one measure over its limits.

    Parameters
    ----------
    criterion : Criterion
        The measure and its limits.
    values : sequence of (str, float)
        Name and value of each image. The name is the tooltip of the dot. Values that are not
        finite are left out.

    Returns
    -------
    str
        SVG document.
    """
    shown = [(name, value) for name, value in values if np.isfinite(value)]
    numbers = np.array([value for _, value in shown])
    axis = _Axis(*_axis_limits(criterion, numbers))
    median = criterion.format(float(np.median(numbers))) if shown else '–'
    x, y = _WIDTH - _RIGHT + 16, _MIDDLE + 5
    body = [
        svg.rectangle(0, 0, _WIDTH, _HEIGHT, '#fff'),
        *_bands(criterion, axis),
        svg.text(_LEFT - 16, y, criterion.label, size=16, colour=_TEXT_COLOUR, anchor='end'),
        *_axis_labels(criterion, axis),
        *_dots(criterion, shown, axis),
        svg.text(x, y, median, size=16, colour=_TEXT_COLOUR, weight=600),
        svg.text(x, y + 18, 'median', size=13, colour=_MUTED_COLOUR),
    ]
    return svg.document(_WIDTH, _HEIGHT, f'{criterion.label} over the group', body)


class _Axis:
    """Conversion of values to horizontal pixels."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def x(self, value: float) -> float:
        fraction = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return float(_LEFT + fraction * (_WIDTH - _LEFT - _RIGHT))


def _axis_limits(criterion: Criterion, numbers: np.ndarray) -> tuple[float, float]:
    """Compute the ends of the axis: all values, the good interval and a margin are inside."""
    limits = [criterion.good.low, criterion.good.high]
    ends = [*numbers.tolist(), *(limit for limit in limits if np.isfinite(limit))]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    margin = 0.04 * (high - low) or max(abs(high), 1e-6) * 0.1
    # The margin of values that are not negative ends at zero.
    return low - margin if low < 0 or low - margin > 0 else 0.0, high + margin


def _bands(criterion: Criterion, axis: _Axis) -> list[str]:
    """Colour the background by grade; each grade covers part of the worse one."""
    layers = [
        (Grade.BAD, axis.low, axis.high),
        (Grade.REVIEW, criterion.acceptable.low, criterion.acceptable.high),
        (Grade.GOOD, criterion.good.low, criterion.good.high),
    ]
    elements, top = [], _MIDDLE - _BAND_HEIGHT / 2
    for grade, low, high in layers:
        low, high = max(axis.low, low), min(axis.high, high)
        if high >= low:
            width = max(axis.x(high) - axis.x(low), 2)
            colour = _BAND_COLOURS[grade]
            elements.append(svg.rectangle(axis.x(low), top, width, _BAND_HEIGHT, colour))
    return elements


def _axis_labels(criterion: Criterion, axis: _Axis) -> list[str]:
    return [
        svg.text(
            axis.x(value),
            _HEIGHT - 6,
            criterion.format(value),
            size=14,
            colour=_MUTED_COLOUR,
            anchor=anchor,
        )
        for value, anchor in ((axis.low, 'start'), (axis.high, 'end'))
    ]


def _dots(criterion: Criterion, values: Sequence[tuple[str, float]], axis: _Axis) -> list[str]:
    # Multiples of the golden ratio spread dots of similar values evenly, without chance.
    offsets = (np.arange(len(values)) * _GOLDEN_RATIO % 1 - 0.5) * _JITTER
    dots = []
    for (name, value), offset in zip(values, offsets, strict=True):
        # The baseline has been subtracted from the value already.
        baseline = {criterion.baseline: 0.0} if criterion.baseline else {}
        grade = criterion.grade({criterion.key: value} | baseline)
        tooltip = f'{name}: {criterion.format(value)}'
        dots.append(svg.dot(axis.x(value), _MIDDLE + offset, _DOT_COLOURS[grade], tooltip))
    return dots

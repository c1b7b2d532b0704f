"""Chart of the energy over the iterations of the matching."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from deepreg_wf.qc.criteria import format_number
from deepreg_wf.reports import svg

_WIDTH, _HEIGHT = 1200, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 90, 190, 40, 56  # margins around the axes
_FONT_SIZE = 15
_TEXT_COLOUR, _MUTED_COLOUR, _CURVE_COLOUR = '#333', '#8a8f98', '#0072b2'
_BAND_COLOURS = ('#f4f6f8', '#e9edf1')
_LETTER_WIDTH = 7.5  # mean, at the size of the font


class Level(TypedDict):
    """One resolution of a matching.

    Attributes
    ----------
    geodesic : int
        Number of the geodesic in its chain, from 1.
    spacing : float
        Voxel size in millimetres.
    energy : list of float
        Energy before the first and after each iteration.
    """

    geodesic: int
    spacing: float
    energy: list[float]


class Trace(TypedDict):
    """Record of a matching, as the step that optimises the momentum writes it.

    Attributes
    ----------
    levels : list of Level
        Resolutions of each geodesic, coarsest first.
    """

    levels: list[Level]


def convergence_figure(trace: Trace) -> str:
    """Draw the energy over the iterations of the matching, from coarse to fine.

    Parameters
    ----------
    trace : Trace
        Energies of each resolution. Energies on different grids are not comparable, so that each
        resolution has its own curve.

    Returns
    -------
    str
        SVG document.
    """
    levels = trace['levels']
    axes = _Axes.fit(levels)
    starts = np.cumsum([0, *(len(level['energy']) for level in levels)]).tolist()
    body = [svg.rectangle(0, 0, _WIDTH, _HEIGHT, '#fff')]
    for number, (level, start) in enumerate(zip(levels, starts, strict=False)):
        body += _band(axes, level, start, _BAND_COLOURS[number % 2])
        body += _iteration_labels(axes, level, start)
    body += _energy_labels(axes)
    body += _curves(axes, levels, starts)
    return svg.document(_WIDTH, _HEIGHT, 'Energy of the matching over the iterations', body)


@dataclass(frozen=True)
class _Axes:
    """Conversion of iterations and energies to the coordinates of the figure.

    Parameters
    ----------
    iterations : int
        Number of points along the horizontal axis.
    ticks : tuple of float
        Energies at the ticks; the first and the last are the ends of the vertical axis.
    """

    iterations: int
    ticks: tuple[float, ...]

    @classmethod
    def fit(cls, levels: Sequence[Level]) -> _Axes:
        from matplotlib.ticker import MaxNLocator

        values = [value for level in levels for value in level['energy']]
        finite = [value for value in values if np.isfinite(value)] or [1.0]
        ticks = MaxNLocator(5).tick_values(min(finite), max(finite))
        return cls(len(values), tuple(map(float, ticks)))

    def x(self, iteration: float) -> float:
        return _LEFT + iteration / max(self.iterations - 1, 1) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, energy: float) -> float:
        fraction = (energy - self.ticks[0]) / (self.ticks[-1] - self.ticks[0])
        return _HEIGHT - _BOTTOM - fraction * (_HEIGHT - _TOP - _BOTTOM)


def _band(axes: _Axes, level: Level, start: int, colour: str) -> list[str]:
    """Draw the background of one resolution, with its name above."""
    left = axes.x(max(start - 0.5, 0))
    right = axes.x(min(start + len(level['energy']) - 0.5, axes.iterations - 1))
    height = _HEIGHT - _TOP - _BOTTOM
    spacing = f'{level["spacing"]:g} mm'
    if level.get('geodesic', 1) > 1:
        spacing = f'geodesic {level["geodesic"]}, {spacing}'
    name = f'{spacing}, {len(level["energy"]) - 1} iterations'
    if right - left < _LETTER_WIDTH * len(name):
        name = spacing
    return [
        svg.rectangle(left, _TOP, right - left, height, colour),
        svg.text(
            (left + right) / 2,
            _TOP - 12,
            name,
            size=_FONT_SIZE,
            colour=_MUTED_COLOUR,
            anchor='middle',
        ),
    ]


def _energy_labels(axes: _Axes) -> list[str]:
    """Draw the ticks of the vertical axis, and the name of the horizontal one."""
    elements = []
    for tick in axes.ticks:
        y, label = axes.y(tick), format_number(tick)
        line = np.array([[_LEFT, y], [_WIDTH - _RIGHT, y]])
        elements += [svg.path([line], '#fff', 1), _label(_LEFT - 10, y + 5, label, 'end')]
    return [*elements, _label((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 12, 'iteration')]


def _iteration_labels(axes: _Axes, level: Level, start: int) -> list[str]:
    """Write the numbers of the iterations of one resolution, as densely as its width allows."""
    from matplotlib.ticker import MaxNLocator

    last = len(level['energy']) - 1
    intervals = max(1, int((axes.x(last) - axes.x(0)) / 100))
    ticks = MaxNLocator(intervals, integer=True).tick_values(0, last) if last else [0]
    y = _HEIGHT - _BOTTOM + 20
    return [_label(axes.x(start + i), y, f'{i:.0f}') for i in ticks if i <= last]


def _curves(axes: _Axes, levels: Sequence[Level], starts: Sequence[int]) -> list[str]:
    """Draw the curve of each resolution, with the last energy at the end."""
    lines = [
        np.array([[axes.x(start + i), axes.y(energy)] for i, energy in enumerate(level['energy'])])
        for level, start in zip(levels, starts, strict=False)
    ]
    x, y = lines[-1][-1]
    x, y = x + 12, min(y, _HEIGHT - _BOTTOM - 20)
    last = format_number(levels[-1]['energy'][-1])
    return [
        svg.path(lines, _CURVE_COLOUR, 2.2),
        svg.text(x, y + 1, 'energy', size=_FONT_SIZE, colour=_CURVE_COLOUR, weight=600),
        svg.text(x, y + 19, last, size=_FONT_SIZE, colour=_CURVE_COLOUR),
    ]


def _label(x: float, y: float, content: str, anchor: str = 'middle') -> str:
    return svg.text(x, y, content, size=_FONT_SIZE, colour=_TEXT_COLOUR, anchor=anchor)

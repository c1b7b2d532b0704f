"""Curves over the iterations of the matching."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepreg_wf.qc.criteria import format_number
from deepreg_wf.reports import svg

_WIDTH, _HEIGHT = 1200, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 90, 190, 40, 56  # margins around the axes
_INK, _FAINT = '#333', '#8a8f98'
_BANDS = ('#f4f6f8', '#e9edf1')

# Key in the trace, name, colour; what a trace does not hold is not drawn.
_CURVES = (
    ('energy', 'energy', '#0072b2'),
    ('mismatch', 'mismatch of the images', '#d55e00'),
    ('regularity', 'energy of the deformation', '#009e73'),
)


def convergence_figure(trace: Mapping[str, Any]) -> str:
    """Draw how the energy fell as the images were matched, from coarse to fine.

    Parameters
    ----------
    trace : mapping
        ``levels``: a list, coarsest first, of mappings with the ``spacing`` in millimetres and
        the ``energy`` before and after each iteration. ``mismatch`` and ``regularity``, its two
        parts, are drawn where they are given.

    Returns
    -------
    str
        SVG.
    """
    levels = trace['levels']
    axes = _Axes.around(levels)
    body = [svg.rectangle(0, 0, _WIDTH, _HEIGHT, '#fff')]
    for number, (level, start) in enumerate(zip(levels, _starts(levels), strict=True)):
        body += _band(axes, level, start, _BANDS[number % 2])
        body += _iterations(axes, level, start)
    body += _scale(axes)
    for key, name, colour in _CURVES:
        body += _curve(axes, levels, key, name, colour)
    title = 'Energy of the matching against the iteration'
    return svg.document(_WIDTH, _HEIGHT, title, body)


@dataclass(frozen=True)
class _Axes:
    """From iterations and energies to the page."""

    iterations: int
    ticks: tuple[float, ...]

    @classmethod
    def around(cls, levels: Sequence[Mapping[str, Any]]) -> _Axes:
        from matplotlib.ticker import MaxNLocator

        values = [v for level in levels for key, *_ in _CURVES for v in level.get(key, ())]
        finite = [value for value in values if np.isfinite(value)] or [1.0]
        ticks = MaxNLocator(5).tick_values(min(finite), max(finite))
        return cls(sum(len(level['energy']) for level in levels), tuple(map(float, ticks)))

    def x(self, iteration: float) -> float:
        return _LEFT + iteration / max(self.iterations - 1, 1) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.ticks[0]) / (self.ticks[-1] - self.ticks[0])
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def _starts(levels: Sequence[Mapping[str, Any]]) -> list[int]:
    """Iteration at which each level begins, counted over all of them."""
    return [0, *np.cumsum([len(level['energy']) for level in levels])[:-1].tolist()]


def _band(axes: _Axes, level: Mapping[str, Any], start: int, colour: str) -> list[str]:
    """Lay the ground for one level and name it."""
    left = axes.x(max(start - 0.5, 0))
    right = axes.x(min(start + len(level['energy']) - 0.5, axes.iterations - 1))
    height = _HEIGHT - _TOP - _BOTTOM
    name = f'{level["spacing"]:g} mm, {len(level["energy"]) - 1} iterations'
    # Where a level is too narrow for its name, the spacing alone says enough.
    if right - left < 7.5 * len(name):
        name = f'{level["spacing"]:g} mm'
    return [
        svg.rectangle(left, _TOP, right - left, height, colour),
        svg.text((left + right) / 2, _TOP - 12, name, size=15, colour=_FAINT, anchor='middle'),
    ]


def _scale(axes: _Axes) -> list[str]:
    elements = []
    for tick in axes.ticks:
        y = axes.y(tick)
        line = np.array([[_LEFT, y], [_WIDTH - _RIGHT, y]])
        elements += [
            svg.path([line], '#fff', 1),
            svg.text(_LEFT - 10, y + 5, format_number(tick), size=15, colour=_INK, anchor='end'),
        ]
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    name = svg.text(middle, _HEIGHT - 12, 'iteration', size=15, colour=_INK, anchor='middle')
    return [*elements, name]


def _iterations(axes: _Axes, level: Mapping[str, Any], start: int) -> list[str]:
    """Number the iterations of one level from zero, as far as there is room."""
    from matplotlib.ticker import MaxNLocator

    last = len(level['energy']) - 1
    room = max(1, int((axes.x(last) - axes.x(0)) / 100))
    ticks = MaxNLocator(room, integer=True).tick_values(0, last) if last else [0]
    y = _HEIGHT - _BOTTOM + 20
    return [
        svg.text(axes.x(start + i), y, f'{i:.0f}', size=15, colour=_INK, anchor='middle')
        for i in ticks
        if i <= last
    ]


def _curve(
    axes: _Axes, levels: Sequence[Mapping[str, Any]], key: str, name: str, colour: str
) -> list[str]:
    """One line per level, as energies of different grids do not join, and a name at the end."""
    lines = [
        np.array([[axes.x(start + i), axes.y(value)] for i, value in enumerate(level[key])])
        for level, start in zip(levels, _starts(levels), strict=True)
        if level.get(key)
    ]
    if not lines:
        return []
    x, y = lines[-1][-1]
    y = min(y, _HEIGHT - _BOTTOM - 20)
    last = format_number(next(level[key][-1] for level in reversed(levels) if level.get(key)))
    return [
        svg.path(lines, colour, 2.2),
        svg.text(x + 12, y + 1, name, size=15, colour=colour, weight=600),
        svg.text(x + 12, y + 19, last, size=15, colour=colour),
    ]

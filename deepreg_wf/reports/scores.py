"""Chart of the principal modes of a group: scores of the images, and variance explained."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deepreg_wf.reports import svg

_WIDTH, _HEIGHT = 1200, 520
_CENTRE_X, _CENTRE_Y, _SIDE = 330.0, 240.0, 420  # of the square of the scores
_LEFT, _RIGHT = _CENTRE_X - _SIDE / 2, _CENTRE_X + _SIDE / 2
_TOP, _BOTTOM = _CENTRE_Y - _SIDE / 2, _CENTRE_Y + _SIDE / 2
_BARS_LEFT, _BAR_STEP, _BAR_GAP = 720, 84, 20
_COLOUR, _TEXT_COLOUR, _MUTED_COLOUR = '#0b62a4', '#1c2430', '#6b7480'


def scores_figure(
    scores: Sequence[tuple[str, Sequence[float]]], explained_variance_ratio: Sequence[float]
) -> str:
    """Draw the scores of images along the first two modes, and the variance of each mode.

    Parameters
    ----------
    scores : sequence of (str, sequence of float)
        Name of each image, and its scores along the modes in standard deviations. The name is
        the tooltip of the dot.
    explained_variance_ratio : sequence of float
        Fraction of the variance that each mode explains.

    Returns
    -------
    str
        SVG document.
    """
    extent = max(3.0, *(abs(score) for _, along in scores for score in along[:2]))
    unit = _SIDE / 2 / extent
    body = [
        svg.rectangle(0, 0, _WIDTH, _HEIGHT, '#fff'),
        svg.rectangle(_LEFT, _TOP, _SIDE, _SIDE, '#f6f8fa'),
        *_grid(int(extent), unit),
        *(_dot(name, along, unit) for name, along in scores),
        *_axis_names(),
        *_bars(explained_variance_ratio),
    ]
    title = 'Images along the first two modes, and the variance explained by each mode'
    return svg.document(_WIDTH, _HEIGHT, title, body)


def _grid(extent: int, unit: float) -> list[str]:
    """Draw lines at whole standard deviations, with their numbers below and at the left."""
    elements = []
    for deviations in range(-extent, extent + 1):
        x, y = _CENTRE_X + deviations * unit, _CENTRE_Y - deviations * unit
        lines = [
            np.array([[x, _TOP], [x, _BOTTOM]]),
            np.array([[_LEFT, y], [_RIGHT, y]]),
        ]
        number = str(deviations).replace('-', '−')
        elements += [
            svg.path(lines, '#fff' if deviations else '#b9c2cc', 1),
            svg.text(x, _BOTTOM + 20, number, size=14, colour=_MUTED_COLOUR, anchor='middle'),
            svg.text(_LEFT - 10, y + 5, number, size=14, colour=_MUTED_COLOUR, anchor='end'),
        ]
    return elements


def _dot(name: str, scores: Sequence[float], unit: float) -> str:
    first, second = scores[0], scores[1] if len(scores) > 1 else 0.0
    return svg.dot(_CENTRE_X + first * unit, _CENTRE_Y - second * unit, _COLOUR, name)


def _axis_names() -> list[str]:
    first, second = (f'mode {number}, in standard deviations' for number in (1, 2))
    upright = svg.text(0, 0, second, size=15, colour=_TEXT_COLOUR, anchor='middle')
    return [
        svg.text(_CENTRE_X, _HEIGHT - 24, first, size=15, colour=_TEXT_COLOUR, anchor='middle'),
        f'<g transform="translate({_LEFT - 52:g} {_CENTRE_Y:g}) rotate(-90)">{upright}</g>',
    ]


def _bars(explained_variance_ratio: Sequence[float]) -> list[str]:
    """Draw one bar for each mode, with its percentage above."""
    width, largest = _BAR_STEP - _BAR_GAP, max(explained_variance_ratio)
    elements = [svg.text(_BARS_LEFT, _TOP - 8, 'variance explained', size=15, colour=_TEXT_COLOUR)]
    for number, ratio in enumerate(explained_variance_ratio, start=1):
        height, left = ratio / largest * (_SIDE - 40), _BARS_LEFT + (number - 1) * _BAR_STEP
        elements.append(svg.rectangle(left, _BOTTOM - height, width, height, _COLOUR, radius=3))
        for y, label, size, colour in (
            (_BOTTOM - height - 8, f'{100 * ratio:.0f} %', 15, _TEXT_COLOUR),
            (_BOTTOM + 20, f'mode {number}', 14, _MUTED_COLOUR),
        ):
            x = left + width / 2
            elements.append(svg.text(x, y, label, size=size, colour=colour, anchor='middle'))
    return elements

"""Text around a mosaic: legends, colour bars and slice coordinates, as elements of SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deepreg_wf.reports import svg
from deepreg_wf.reports.colours import colour_map
from deepreg_wf.reports.contours import Contour, contour_lines
from deepreg_wf.reports.mosaic import Mosaic, Panel

PADDING = 16
"""Pixels on the left and on the right of the mosaic."""

HEADER_HEIGHT = 62
"""Pixels above the mosaic, for the legend."""

_FONT_SIZE = 19
_LINE_WIDTH = 1.1
_BAR_WIDTH = 420
_TEXT_COLOUR = '#ddd'


def mosaic_document(mosaic: Mosaic, title: str, body: Sequence[str], style: str = '') -> str:
    """Assemble the figure of a mosaic, with a black background and the slice coordinates.

    Parameters
    ----------
    mosaic : Mosaic
        The slices.
    title : str
        Description of the figure for screen readers.
    body : sequence of str
        Elements, from the back to the front.
    style : str
        CSS rules.

    Returns
    -------
    str
        SVG document.
    """
    width, height = mosaic.width + 2 * PADDING, mosaic.height + HEADER_HEIGHT + 6
    background = svg.rectangle(0, 0, width, height, '#000', radius=10)
    elements = [background, *body, *_slice_labels(mosaic)]
    return svg.document(width, height, title, elements, style)


def mosaic_raster(pixels: np.ndarray) -> str:
    """Place a picture of all panels below the header.

    Parameters
    ----------
    pixels : numpy.ndarray of uint8, shape (height, width) or (height, width, 3)
        Grey values or RGB, of the size of the mosaic.

    Returns
    -------
    str
        One SVG element.
    """
    return svg.raster(pixels, PADDING, HEADER_HEIGHT)


def draw_contours(mosaic: Mosaic, contours: Sequence[Contour]) -> list[str]:
    """Draw contours in all panels.

    Parameters
    ----------
    mosaic : Mosaic
        The slices.
    contours : sequence of Contour
        Contours, from the back to the front.

    Returns
    -------
    list of str
        One SVG element for each contour.
    """
    return [
        svg.path(
            contour_lines(mosaic, contour.image, contour.level),
            contour.colour,
            _LINE_WIDTH,
            shift=(PADDING, HEADER_HEIGHT),
        )
        for contour in contours
    ]


def name_label(name: str, colour: str) -> list[str]:
    """Write the name of the image that is shown, on a coloured ground at the left."""
    return [
        svg.rectangle(PADDING, 16, 102, 30, colour, radius=15),
        svg.text(
            PADDING + 51, 37, name, size=_FONT_SIZE, colour='#000', anchor='middle', weight=600
        ),
    ]


def contour_legend(contours: Sequence[Contour], x: float = PADDING) -> list[str]:
    """Write the labels of contours beside their colours, from `x` to the right."""
    elements = []
    for contour in contours:
        elements += [
            svg.rectangle(x, 29, 30, 4, contour.colour, radius=2),
            svg.text(x + 40, 37, contour.label, size=_FONT_SIZE, colour=_TEXT_COLOUR),
        ]
        x += 68 + 8.6 * len(contour.label)
    return elements


def colour_swatch(label: str, colour: str, x: float) -> list[str]:
    """Write a label beside a square of its colour, from `x` to the right."""
    return [
        svg.rectangle(x, 22, 18, 18, colour, radius=3),
        svg.text(x + 26, 37, label, size=_FONT_SIZE, colour=_TEXT_COLOUR),
    ]


def heading(symbol: str, description: str) -> list[str]:
    """Write the symbol of a quantity and its description at the left."""
    x = PADDING + 30 + 11 * len(symbol)
    return [
        svg.text(PADDING, 37, symbol, size=_FONT_SIZE + 2, weight=600),
        svg.text(x, 37, description, size=_FONT_SIZE, colour=_TEXT_COLOUR),
    ]


@dataclass(frozen=True)
class Tick:
    """A tick of a colour bar.

    Parameters
    ----------
    position : float
        Place along the colour bar, from 0 to 1.
    value : str
        Text below the bar.
    note : str
        Text above the bar; empty for none.
    """

    position: float
    value: str
    note: str = ''


def colour_bar(mosaic: Mosaic, name: str, ticks: Sequence[Tick]) -> list[str]:
    """Draw a colour bar at the right of the header.

    Parameters
    ----------
    mosaic : Mosaic
        The slices.
    name : str
        Name of a colour map of matplotlib.
    ticks : sequence of Tick
        Ticks and their text.

    Returns
    -------
    list of str
        SVG elements.
    """
    left = mosaic.width + PADDING - _BAR_WIDTH - 40
    fraction = np.tile(np.linspace(0, 1, _BAR_WIDTH), (12, 1))
    elements = [svg.raster((255 * colour_map(fraction, name)).astype(np.uint8), left, 26)]
    for tick in ticks:
        x = left + tick.position * _BAR_WIDTH
        for y, text in ((54, tick.value), (20, tick.note)):
            if text:
                elements.append(
                    svg.text(x, y, text, size=15, colour=_TEXT_COLOUR, anchor='middle')
                )
    return elements


def format_signed(value: float, spec: str) -> str:
    """Format a number with its sign, a true minus; zero has none.

    Parameters
    ----------
    value : float
        The number.
    spec : str
        Format specification without the sign, such as ``.2f``.

    Returns
    -------
    str
    """
    return f'{value:+{spec}}'.replace('-', '−') if value else '0'


def _slice_labels(mosaic: Mosaic) -> list[str]:
    """Write the coordinate of each slice, and the anatomical sides of each row."""
    elements = []
    for panel in mosaic.panels:
        coordinate = f'{"xyz"[panel.axis]} = {format_signed(round(panel.position), "d")}'
        x = panel.left + panel.width / 2 + PADDING
        y = panel.top + panel.height + HEADER_HEIGHT + 17
        elements.append(svg.text(x, y, coordinate, size=16, colour='#b4b4b4', anchor='middle'))
    for panel in mosaic.leftmost_panels():
        elements += _side_labels(panel)
    return elements


def _side_labels(panel: Panel) -> list[str]:
    left, right = ('P', 'A') if panel.axis == 0 else ('L', 'R')
    x, y = panel.left + PADDING, panel.top + HEADER_HEIGHT + 20
    return [
        svg.text(x + 3, y, left, size=_FONT_SIZE, weight=600),
        svg.text(x + panel.width - 3, y, right, size=_FONT_SIZE, anchor='end', weight=600),
    ]

"""Elements of SVG; documents made of them refer to no other file."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from io import BytesIO

import numpy as np

FONT = "Helvetica, Arial, 'Liberation Sans', sans-serif"

_JPEG_QUALITY = 86  # no difference is visible above it
_STEPS_PER_PIXEL = 10  # path coordinates are whole tenths of a pixel
_DOT_RADIUS = 5


def document(width: float, height: float, title: str, body: Iterable[str], style: str = '') -> str:
    """Assemble a document.

    Parameters
    ----------
    width, height : float
        Size of the view box. The figure has no absolute size and fills the width of its page.
    title : str
        Description of the figure for screen readers.
    body : iterable of str
        Elements, from the back to the front.
    style : str
        CSS rules.

    Returns
    -------
    str
        SVG document.
    """
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'preserveAspectRatio="xMidYMid meet" font-family="{FONT}">'
    )
    rules = f'<style>{style}</style>' if style else ''
    # No newline at the end: NiReports removes it, and would rewrite every file.
    return '\n'.join([head, f'<title>{escape(title)}</title>{rules}', *body, '</svg>'])


def raster(pixels: np.ndarray, left: float = 0, top: float = 0) -> str:
    """Embed a picture as JPEG, one unit per pixel.

    Parameters
    ----------
    pixels : numpy.ndarray of uint8, shape (height, width) or (height, width, 3)
        Grey values or RGB.
    left, top : float
        Position of the upper left corner.

    Returns
    -------
    str
        One ``image`` element.
    """
    from PIL import Image

    stream = BytesIO()
    # No chroma subsampling, since the colours encode values.
    image = Image.fromarray(pixels)
    image.save(stream, 'JPEG', quality=_JPEG_QUALITY, optimize=True, subsampling=0)
    data = b64encode(stream.getvalue()).decode('ascii')
    height, width = pixels.shape[:2]
    return (
        f'<image x="{left:g}" y="{top:g}" width="{width}" height="{height}" '
        f'href="data:image/jpeg;base64,{data}"/>'
    )


def path(
    lines: Iterable[np.ndarray], colour: str, width: float, *, shift: tuple[float, float] = (0, 0)
) -> str:
    """Draw lines.

    Parameters
    ----------
    lines : iterable of numpy.ndarray, shape (N, 2)
        Points (x, y) of each line. A line is closed if its last point equals its first.
    colour : str
        Colour of the stroke.
    width : float
        Width of the stroke in pixels of the screen, at any size of the figure.
    shift : tuple of (float, float)
        Offset of all points.

    Returns
    -------
    str
        One ``path`` element.
    """
    commands = ''.join(_commands(line) for line in lines)
    return (
        f'<path transform="translate({shift[0]:g} {shift[1]:g}) scale({1 / _STEPS_PER_PIXEL:g})" '
        f'd="{commands}" fill="none" stroke="{colour}" stroke-width="{width:g}" '
        'stroke-linejoin="round" stroke-linecap="round" vector-effect="non-scaling-stroke"/>'
    )


def text(
    x: float,
    y: float,
    content: str,
    *,
    size: float,
    colour: str = '#fff',
    anchor: str = 'start',
    weight: int = 400,
) -> str:
    """Write one line of text.

    Parameters
    ----------
    x, y : float
        Point on the baseline.
    content : str
        The text, not escaped.
    size : float
        Size of the font, in pixels.
    colour : str
        Colour of the text.
    anchor : {'start', 'middle', 'end'}
        Part of the text that lies at the point.
    weight : int
        Weight of the font: 400 is regular, 600 semi-bold.

    Returns
    -------
    str
        One ``text`` element.
    """
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" fill="{colour}" '
        f'font-weight="{weight}" text-anchor="{anchor}">{escape(content)}</text>'
    )


def rectangle(
    x: float, y: float, width: float, height: float, colour: str, *, radius: float = 0
) -> str:
    """Draw a filled rectangle.

    Parameters
    ----------
    x, y, width, height : float
        Upper left corner and size, in pixels.
    colour : str
        Colour of the area.
    radius : float
        Radius of the corners, in pixels.

    Returns
    -------
    str
        One ``rect`` element.
    """
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}" '
        f'fill="{colour}"/>'
    )


def group(elements: Sequence[str], name: str) -> str:
    """Put elements into one group with a CSS class.

    Parameters
    ----------
    elements : sequence of str
        SVG elements.
    name : str
        Name of the CSS class.

    Returns
    -------
    str
        One ``g`` element.
    """
    return f'<g class="{name}">{"".join(elements)}</g>'


def dot(x: float, y: float, colour: str, tooltip: str) -> str:
    """Draw a translucent dot with a tooltip.

    Parameters
    ----------
    x, y : float
        Centre, in pixels.
    colour : str
        Colour of the area.
    tooltip : str
        Text that a browser shows while the mouse is over the dot.

    Returns
    -------
    str
        One ``circle`` element.
    """
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{_DOT_RADIUS}" fill="{colour}" fill-opacity=".7" '
        f'stroke="#fff"><title>{escape(tooltip)}</title></circle>'
    )


def _commands(line: np.ndarray) -> str:
    """Path data of a line as relative moves in whole tenths, which are shortest."""
    points = np.rint(np.asarray(line) * _STEPS_PER_PIXEL).astype(int)
    closed = len(points) > 2 and (points[0] == points[-1]).all()
    if closed:
        points = points[:-1]
    steps = np.diff(points, axis=0)
    moves = ' '.join(f'{x} {y}' for x, y in steps[steps.any(axis=1)])
    return f'M{points[0][0]} {points[0][1]}l{moves or "0 0"}' + ('z' if closed else '')

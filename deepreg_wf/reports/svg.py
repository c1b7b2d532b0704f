"""The few elements of SVG that the figures are made of, each self-contained."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from io import BytesIO

import numpy as np

FONT = "Helvetica, Arial, 'Liberation Sans', sans-serif"

_QUALITY = 86  # of JPEG: smaller files cannot be told from larger ones above it
_TENTHS = 10  # path coordinates are whole tenths of a pixel


def document(width: float, height: float, title: str, body: Iterable[str], style: str = '') -> str:
    """Assemble a figure.

    Parameters
    ----------
    width, height : float
        Of the view box. No absolute size is given: the figure fills the width of its page.
    title : str
        What is seen, for those who do not see it.
    body : iterable of str
        Elements, from the back to the front.
    style : str
        Rules of CSS.

    Returns
    -------
    str
        One XML document that refers to nothing outside of itself.
    """
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'preserveAspectRatio="xMidYMid meet" font-family="{FONT}">'
    )
    rules = f'<style>{style}</style>' if style else ''
    # nireports rewrites what it shows without a newline at the end: so it finds nothing to change.
    return '\n'.join([head, f'<title>{escape(title)}</title>{rules}', *body, '</svg>'])


def raster(pixels: np.ndarray, left: float = 0, top: float = 0) -> str:
    """Embed a picture, one unit per pixel.

    Parameters
    ----------
    pixels : numpy.ndarray of uint8, shape (height, width) or (height, width, 3)
        Grey values or RGB.
    left, top : float
        Where its corner lies.

    Returns
    -------
    str
        An ``image`` element that holds the compressed picture.
    """
    from PIL import Image

    stream = BytesIO()
    # Without chroma subsampling: colours carry values here.
    Image.fromarray(pixels).save(stream, 'JPEG', quality=_QUALITY, optimize=True, subsampling=0)
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
        Points (x, y) of each line; closed where the last point is the first.
    colour : str
        Of the stroke.
    width : float
        Of the stroke, in pixels of the screen, whatever the size of the figure.
    shift : tuple of float
        Added to all points.

    Returns
    -------
    str
        One ``path`` element.
    """
    commands = ''.join(_commands(line) for line in lines)
    return (
        f'<path transform="translate({shift[0]:g} {shift[1]:g}) scale({1 / _TENTHS:g})" '
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
    """Write a line of text whose baseline starts (or ends, or is centred) at a point."""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" fill="{colour}" '
        f'font-weight="{weight}" text-anchor="{anchor}">{escape(content)}</text>'
    )


def rectangle(
    x: float, y: float, width: float, height: float, colour: str, *, radius: float = 0
) -> str:
    """Fill a rectangle."""
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}" '
        f'fill="{colour}"/>'
    )


def group(elements: Sequence[str], name: str) -> str:
    """Put elements under one class, so that rules of CSS apply to them together."""
    return f'<g class="{name}">{"".join(elements)}</g>'


def _commands(line: np.ndarray) -> str:
    """Relative moves in whole tenths, the shortest way to write a line."""
    points = np.rint(np.asarray(line) * _TENTHS).astype(int)
    closed = len(points) > 2 and (points[0] == points[-1]).all()
    if closed:
        points = points[:-1]
    steps = np.diff(points, axis=0)
    moves = ' '.join(f'{x} {y}' for x, y in steps[steps.any(axis=1)])
    return f'M{points[0][0]} {points[0][1]}l{moves or "0 0"}' + ('z' if closed else '')

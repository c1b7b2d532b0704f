"""Contours of regions in the slices of a mosaic."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deepreg_wf.reports.images import ScalarImage
from deepreg_wf.reports.mosaic import Mosaic

_SMOOTHING_SIGMA = 0.8  # pixels; just enough to remove the staircase of a binary mask
_TOLERANCE = 0.12  # pixels; vertices nearer to the chord of their neighbours are dropped
_MIN_LENGTH = 12.0  # pixels; shorter lines surround specks and are left out


@dataclass(frozen=True)
class Contour:
    """A contour of an image, with the style in which it is drawn.

    Parameters
    ----------
    image : ScalarImage
        A mask, a tissue probability map, or any other scalar image.
    level : float
        Value of the image along the contour.
    label : str
        Entry in the legend.
    colour : str
        Colour as ``#rrggbb``.
    """

    image: ScalarImage
    level: float
    label: str
    colour: str


def contour_lines(mosaic: Mosaic, image: ScalarImage, level: float) -> list[np.ndarray]:
    """Compute the contour lines of an image in all panels.

    Parameters
    ----------
    mosaic : Mosaic
        The slices.
    image : ScalarImage
        Image on any grid.
    level : float
        Value of the image along the lines.

    Returns
    -------
    list of numpy.ndarray, shape (N, 2)
        Points (x, y) of each line, in pixels of the mosaic.
    """
    from contourpy import LineType, contour_generator
    from scipy.ndimage import gaussian_filter

    canvas = mosaic.sample(image)
    found: list[np.ndarray] = []
    for panel in mosaic.panels:
        smooth = gaussian_filter(panel.crop(canvas), _SMOOTHING_SIGMA)
        origin = np.array([panel.left + 0.5, panel.top + 0.5])
        lines = contour_generator(z=smooth, line_type=LineType.Separate).lines(level)
        found += [
            _simplify(line) + origin
            for line in lines
            if isinstance(line, np.ndarray) and _arc_length(line) > _MIN_LENGTH
        ]
    return found


def _arc_length(line: np.ndarray) -> float:
    return float(np.hypot(*np.diff(line, axis=0).T).sum())


def _simplify(line: np.ndarray) -> np.ndarray:
    """Drop vertices that lie close to the chord of their neighbours.

    Each of three passes considers every second vertex, so that no two neighbours are dropped
    together.
    """
    for _ in range(3):
        before, here, after = line[:-2:2], line[1:-1:2], line[2::2]
        chord, offset = after - before, here - before
        cross = chord[:, 0] * offset[:, 1] - chord[:, 1] * offset[:, 0]
        keep = np.ones(len(line), dtype=bool)
        keep[1:-1:2] = np.abs(cross) > _TOLERANCE * np.hypot(*chord.T)
        line = line[keep]
    return line

"""Outlines of regions in the slices of a mosaic."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deepreg_wf.reports.mosaic import Mosaic
from deepreg_wf.reports.volumes import Volume

_SMOOTHING = 0.8  # pixels; takes the staircase of a binary mask away and little else
_TOLERANCE = 0.12  # pixels that a vertex may lie off the chord of its neighbours to be dropped
_SHORTEST = 12.0  # pixels; outlines of specks only clutter


@dataclass(frozen=True)
class Outline:
    """What is outlined, and how it is shown.

    Parameters
    ----------
    volume : Volume
        A mask, a map of a tissue, or an image.
    level : float
        The outline follows this value.
    label : str
        For the legend.
    colour : str
        ``#rrggbb``
    """

    volume: Volume
    level: float
    label: str
    colour: str


def trace(mosaic: Mosaic, volume: Volume, level: float) -> list[np.ndarray]:
    """Follow a level of an image through all panels.

    Parameters
    ----------
    mosaic : Mosaic
        The slices.
    volume : Volume
        On any grid.
    level : float
        Value that the lines follow.

    Returns
    -------
    list of numpy.ndarray, shape (N, 2)
        Points (x, y) of each line, in pixels of the mosaic.
    """
    from contourpy import contour_generator
    from scipy.ndimage import gaussian_filter

    canvas = mosaic.draw(volume)
    found: list[np.ndarray] = []
    for panel in mosaic.panels:
        smooth = gaussian_filter(panel.take(canvas), _SMOOTHING)
        origin = np.array([panel.left + 0.5, panel.top + 0.5])
        lines = contour_generator(z=smooth).lines(level)
        found += [_simplify(line) + origin for line in lines if _length(line) > _SHORTEST]
    return found


def tissue_levels(t1w: Volume, mask: Volume) -> tuple[float, float]:
    """Split a T1-weighted brain into three classes of brightness.

    Otsu's criterion for two thresholds (IEEE Trans. SMC 9, 1979): the greatest variance between
    the classes.

    Parameters
    ----------
    t1w, mask : Volume
        Image and brain mask on the same grid.

    Returns
    -------
    tuple of float
        Between cerebrospinal fluid and grey matter, and between grey and white matter.
    """
    brain = t1w.data[mask.data > 0.5]
    counts, edges = np.histogram(brain, bins=96, range=(0, float(np.percentile(brain, 99.5))))
    centres = (edges[1:] + edges[:-1]) / 2
    number = np.concatenate([[0], counts.cumsum()])
    total = np.concatenate([[0], (counts * centres).cumsum()])
    i, j = np.meshgrid(range(1, 95), range(2, 96), indexing='ij')

    def spread(start: np.ndarray | int, stop: np.ndarray | int) -> np.ndarray:
        return (total[stop] - total[start]) ** 2 / np.maximum(number[stop] - number[start], 1)

    score = np.where(i < j, spread(0, i) + spread(i, j) + spread(j, 96), -np.inf)
    best = np.unravel_index(score.argmax(), score.shape)
    return float(edges[i[best]]), float(edges[j[best]])


def _length(line: np.ndarray) -> float:
    return float(np.hypot(*np.diff(line, axis=0).T).sum())


def _simplify(line: np.ndarray) -> np.ndarray:
    """Drop every second vertex that its neighbours can do without, three times over."""
    for _ in range(3):
        before, here, after = line[:-2:2], line[1:-1:2], line[2::2]
        chord, offset = after - before, here - before
        cross = chord[:, 0] * offset[:, 1] - chord[:, 1] * offset[:, 0]
        keep = np.ones(len(line), dtype=bool)
        keep[1:-1:2] = np.abs(cross) > _TOLERANCE * np.hypot(*chord.T)
        line = line[keep]
    return line

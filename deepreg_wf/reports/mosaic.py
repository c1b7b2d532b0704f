"""Slices of the world laid out side by side: which, how large, and what an image shows there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deepreg_wf.reports.volumes import Volume

PIXEL = 0.75
"""Width of a pixel in millimetres; a little finer than any image that is shown."""

ROWS = ((2, 7), (1, 7), (0, 6))
"""Rows from the top: axis that is cut (2 axial, 1 coronal, 0 sagittal), number of slices."""

_GAP = 4  # pixels between panels
_CAPTION = 26  # pixels below each row, for the place of each slice
_MARGIN = 6.0  # millimetres around the brain
_ENDS = 0.12  # share of the brain left out at each end, where slices show next to nothing

# What runs to the right and upwards in a slice across each axis.
_IN_PLANE = {0: (1, 2), 1: (0, 2), 2: (0, 1)}


@dataclass(frozen=True)
class Panel:
    """One slice and its place in the mosaic.

    Parameters
    ----------
    axis : int
        Axis that is cut: 0 sagittal, 1 coronal, 2 axial.
    position : float
        Where, in RAS+ millimetres.
    corner : tuple of float
        In-plane coordinates of the lower left corner, in millimetres.
    left, top, width, height : int
        Place and size in the mosaic, in pixels.
    """

    axis: int
    position: float
    corner: tuple[float, float]
    left: int
    top: int
    width: int
    height: int

    def points(self) -> np.ndarray:
        """Centres of the pixels, in RAS+ mm, shape (3, height, width), top row first."""
        right, up = _IN_PLANE[self.axis]
        points = np.empty((3, self.height, self.width))
        points[self.axis] = self.position
        points[right] = self.corner[0] + (np.arange(self.width) + 0.5) * PIXEL
        points[up] = self.corner[1] + (np.arange(self.height)[::-1, None] + 0.5) * PIXEL
        return points

    def take(self, canvas: np.ndarray) -> np.ndarray:
        """View the part of a canvas that is this panel."""
        rows = slice(self.top, self.top + self.height)
        return canvas[rows, self.left : self.left + self.width]


@dataclass(frozen=True)
class Mosaic:
    """Panels in rows, anatomical left on the left, on a canvas measured in pixels."""

    panels: tuple[Panel, ...]
    width: int
    height: int

    def draw(self, volume: Volume) -> np.ndarray:
        """Show an image on all panels.

        Parameters
        ----------
        volume : Volume
            Any grid: values are read where the pixels are in the world.

        Returns
        -------
        numpy.ndarray, shape (height, width)
            Values of the image; zero between the panels.
        """
        canvas = np.zeros((self.height, self.width), dtype=np.float32)
        for panel in self.panels:
            panel.take(canvas)[...] = volume.sample(panel.points())
        return canvas

    def first_of_rows(self) -> list[Panel]:
        """Return the leftmost panel of each row."""
        tops = {panel.top: panel for panel in reversed(self.panels)}
        return [tops[top] for top in sorted(tops)]


def lay_out(mask: Volume, rows: Sequence[tuple[int, int]] = ROWS) -> Mosaic:
    """Choose slices that cover a brain evenly.

    Everything is measured in the world, so that images of one space show the same slices
    whatever their grids.

    Parameters
    ----------
    mask : Volume
        Where the brain is.
    rows : sequence of (int, int)
        Axis and number of slices of each row.

    Returns
    -------
    Mosaic
    """
    low, high = mask.bounds()
    cells = {axis: _cell_size(high - low, axis) for axis, _ in rows}
    width = max(count * (cells[axis][0] + _GAP) - _GAP for axis, count in rows)
    panels: list[Panel] = []
    top = 0
    for axis, count in rows:
        cell = cells[axis]
        centre = (low + high) / 2
        corner = tuple(
            float(centre[i] - n * PIXEL / 2) for i, n in zip(_IN_PLANE[axis], cell, strict=True)
        )
        inset = _ENDS * (high[axis] - low[axis])
        positions = np.linspace(low[axis] + inset, high[axis] - inset, count)
        lefts = np.linspace(0, width - cell[0], count).round().astype(int)
        panels += [
            Panel(axis, float(position), corner, int(left), top, *cell)
            for position, left in zip(positions, lefts, strict=True)
        ]
        top += cell[1] + _CAPTION
    return Mosaic(tuple(panels), width, top)


def _cell_size(extent: np.ndarray, axis: int) -> tuple[int, int]:
    right, up = (int(np.ceil((extent[i] + 2 * _MARGIN) / PIXEL)) for i in _IN_PLANE[axis])
    return right, up

"""Mosaics: slices of the world side by side, and the values of an image in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deepreg_wf.reports.images import ScalarImage

PIXEL_MM = 0.75
"""Width of a pixel in millimetres; a little finer than the images that are shown."""

ROWS = ((2, 7), (1, 7), (0, 6))
"""Rows from the top: axis of the cut (2 axial, 1 coronal, 0 sagittal), number of slices."""

_GAP = 4  # pixels between panels
_CAPTION_HEIGHT = 26  # pixels below each row, for the coordinate of each slice
_MARGIN_MM = 6.0  # around the brain
_END_FRACTION = 0.12  # of the brain, left out at each end, where slices show very little

# Axes that run to the right and upwards in a slice across each axis.
_IN_PLANE = {0: (1, 2), 1: (0, 2), 2: (0, 1)}


@dataclass(frozen=True)
class Panel:
    """One slice and its place in the mosaic.

    Parameters
    ----------
    axis : int
        Axis of the cut: 0 sagittal, 1 coronal, 2 axial.
    position : float
        Coordinate of the slice along that axis, in RAS+ millimetres.
    corner : tuple of (float, float)
        In-plane coordinates of the lower left corner, in RAS+ millimetres.
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

    def pixel_centres(self) -> np.ndarray:
        """Compute the centres of the pixels in world coordinates.

        Returns
        -------
        numpy.ndarray, shape (3, height, width)
            RAS+ millimetres, from the top row to the bottom.
        """
        right, up = _IN_PLANE[self.axis]
        points = np.empty((3, self.height, self.width))
        points[self.axis] = self.position
        points[right] = self.corner[0] + (np.arange(self.width) + 0.5) * PIXEL_MM
        points[up] = self.corner[1] + (np.arange(self.height)[::-1, None] + 0.5) * PIXEL_MM
        return points

    def crop(self, canvas: np.ndarray) -> np.ndarray:
        """Return the part of a canvas that belongs to this panel, as a view.

        Parameters
        ----------
        canvas : numpy.ndarray, shape (height of the mosaic, width of the mosaic, ...)
            Values in the whole mosaic.

        Returns
        -------
        numpy.ndarray, shape (height, width, ...)
            Values in this panel.
        """
        rows = slice(self.top, self.top + self.height)
        return canvas[rows, self.left : self.left + self.width]


@dataclass(frozen=True)
class Mosaic:
    """Panels in rows on a canvas; the anatomical left is on the left.

    Parameters
    ----------
    panels : tuple of Panel
        Row by row from the top, from left to right.
    width, height : int
        Size of the canvas, in pixels.
    """

    panels: tuple[Panel, ...]
    width: int
    height: int

    def sample(self, image: ScalarImage) -> np.ndarray:
        """Interpolate an image at the pixels of all panels.

        Parameters
        ----------
        image : ScalarImage
            Image on any grid.

        Returns
        -------
        numpy.ndarray, shape (height, width)
            Values of the image; zero between the panels.
        """
        canvas = np.zeros((self.height, self.width), dtype=np.float32)
        for panel in self.panels:
            panel.crop(canvas)[...] = image.sample(panel.pixel_centres())
        return canvas

    def leftmost_panels(self) -> list[Panel]:
        """Return the leftmost panel of each row.

        Returns
        -------
        list of Panel
            From the top.
        """
        first = {panel.top: panel for panel in reversed(self.panels)}
        return [first[top] for top in sorted(first)]


def make_mosaic(mask: ScalarImage, rows: Sequence[tuple[int, int]] = ROWS) -> Mosaic:
    """Choose slices that cover a brain evenly.

    Slices are placed in world coordinates, so that all images of one space show the same slices
    on any grid.

    Parameters
    ----------
    mask : ScalarImage
        Brain mask.
    rows : sequence of (int, int)
        Axis and number of slices of each row, from the top.

    Returns
    -------
    Mosaic
    """
    low, high = mask.bounding_box()
    sizes = {axis: _panel_size(high - low, axis) for axis, _ in rows}
    width = max(count * (sizes[axis][0] + _GAP) - _GAP for axis, count in rows)
    panels: list[Panel] = []
    top = 0
    for axis, count in rows:
        size = sizes[axis]
        centre = (low + high) / 2
        right, up = _IN_PLANE[axis]
        corner = (
            float(centre[right] - size[0] * PIXEL_MM / 2),
            float(centre[up] - size[1] * PIXEL_MM / 2),
        )
        inset = _END_FRACTION * (high[axis] - low[axis])
        positions = np.linspace(low[axis] + inset, high[axis] - inset, count)
        lefts = np.linspace(0, width - size[0], count).round().astype(int)
        panels += [
            Panel(axis, float(position), corner, int(left), top, *size)
            for position, left in zip(positions, lefts, strict=True)
        ]
        top += size[1] + _CAPTION_HEIGHT
    return Mosaic(tuple(panels), width, top)


def _panel_size(extent: np.ndarray, axis: int) -> tuple[int, int]:
    """Width and height in pixels of a slice of a brain of some extent in millimetres."""
    pixels = np.ceil((extent + 2 * _MARGIN_MM) / PIXEL_MM)
    right, up = _IN_PLANE[axis]
    return int(pixels[right]), int(pixels[up])

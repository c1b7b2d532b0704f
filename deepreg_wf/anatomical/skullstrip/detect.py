"""Telling, from the image alone, whether a brain has been extracted already.

To take a head for a brain spoils everything after it, to strip a brain once more costs some
seconds. An image is therefore a head until every piece of evidence says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from deepreg_wf.anatomical.mask import BRAIN_ML
from deepreg_wf.spatial import VoxelGrid, resample
from deepreg_wf.spatial.masks import Mask, bounding_box, fill_holes, largest_component, volume_ml

SPACING = 2.0
"""Of the grid on which the evidence is gathered, in mm."""

BACKGROUND = 0.25
"""Least share of the field of view that has exactly the same value around an extracted brain.

A brain fills about half of the smallest box around it.
"""

BORDER = 0.15
"""Largest share that an extracted brain may have of a face of the smallest box around it.

A brain touches the box at its poles, with less than 0.02; a neck that the field of view cuts, or
a head that it halves, takes a quarter of a face and more.
"""

COMPONENT = 0.95
"""Least share of the voxels off the background that hang together in an extracted brain."""

RIM = 0.06
"""Least intensity of the outermost layer of an extracted brain, relative to its brightest parts.

Cortex has more than 0.2; the air around a head, less than 0.02 where it is not exactly zero.
"""

DIP = 0.03
"""Largest fall of the intensity from the surface inwards that noise leaves in a brain.

Under the bright scalp a head has dark bone; from its rim inwards a brain becomes brighter.
"""

LAYERS = 20
"""Number of layers between the surface and the deepest point."""

SHELL = 10
"""Number of the outer layers, in which a scalp and a skull would lie."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What speaks for or against an extracted brain.

    Attributes
    ----------
    background : float
        Share of the field of view that has the value of the background.
    border : float
        Share of a face of the box around the largest piece that this covers, at the most.
    component : float
        Share of the foreground that hangs together.
    volume : float
        Of that part with its holes filled, in mL.
    rim : float
        Median intensity of its outermost layer above the background, relative to its range.
    dip : float
        Largest fall of the intensity from the surface inwards, relative to its range.
    """

    background: float
    border: float
    component: float
    volume: float
    rim: float
    dip: float

    @property
    def objections(self) -> tuple[str, ...]:
        """What speaks against an extracted brain, in words; nothing does if it is one."""
        low, high = BRAIN_ML
        objections = {
            'no constant background': self.background < BACKGROUND,
            'it is cut off flat': self.border > BORDER,
            'it is in pieces': self.component < COMPONENT,
            f'it has {self.volume:.0f} mL': not low <= self.volume <= high,
            'there is air around it': self.rim < RIM,
            'it has a dark layer under a bright one': self.dip > DIP,
        }
        return tuple(words for words, holds in objections.items() if holds)

    @property
    def extracted(self) -> bool:
        """Whether nothing speaks against an extracted brain."""
        return not self.objections


def examine(data: NDArray[np.floating], grid: VoxelGrid) -> Evidence:
    """Gather the evidence on whether an image holds an extracted brain.

    Parameters
    ----------
    data : ndarray, shape (X, Y, Z)
        Finite.
    grid : VoxelGrid

    Returns
    -------
    Evidence
    """
    background = background_value(data)
    foreground = data != background
    small_grid = grid.canonical().resampled(SPACING)
    small = resample(data, grid, small_grid, interpolation='nearest', default_value=background)
    pieces = small != background
    piece = largest_component(pieces)
    body = fill_holes(piece)
    box = body[bounding_box(body)] if body.any() else body
    rim, dip = _rim_and_dip(small - background, body)
    return Evidence(
        background=1 - float(foreground.mean()),
        border=max(float(face.mean()) for face in _faces(box)),
        component=float(piece.sum() / max(1, pieces.sum())),
        volume=volume_ml(body, small_grid),
        rim=rim,
        dip=dip,
    )


def background_value(data: NDArray[np.floating]) -> float:
    """Most frequent value on the faces of the field of view."""
    border = np.concatenate([face.ravel() for face in _faces(data)])
    values, counts = np.unique(border, return_counts=True)
    return float(values[counts.argmax()])


def _faces(data: NDArray[Any]) -> Iterator[NDArray[Any]]:
    # Slices, for `take` would copy all of an image whose first axis is the fastest.
    return (data[(slice(None),) * axis + (end,)] for axis in range(3) for end in (0, -1))


def _rim_and_dip(data: NDArray[np.floating], body: Mask) -> tuple[float, float]:
    """Intensity of the outermost layer, and its largest fall in the layers under it.

    Taken in the upper half, in storage order RAS, where no face and no neck confuse the layers.
    """
    depth = ndimage.distance_transform_edt(np.pad(body, 1))[1:-1, 1:-1, 1:-1]
    height = np.arange(body.shape[2])
    centre = (body.sum(axis=(0, 1)) * height).sum() / max(1, body.sum())
    upper = body & (height > centre)
    if not upper.any():
        return 0.0, 0.0
    low, high = np.percentile(data[body], [1, 99])
    layers = np.ceil(depth[upper] / depth.max() * LAYERS)
    profile = ndimage.median(data[upper], layers, np.unique(layers)) / max(high - low, 1e-6)
    shell = np.asarray(profile)[:SHELL]
    return float(abs(shell[0])), float((np.maximum.accumulate(shell) - shell).max())

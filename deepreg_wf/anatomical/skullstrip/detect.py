"""Detection of images whose brain has already been extracted, from the image alone.

A head that is taken for a brain spoils all later steps; a brain that is extracted again costs a
few seconds. An image therefore counts as a head unless it meets every criterion of a brain.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from deepreg_wf.anatomical.mask import BRAIN_VOLUME_ML
from deepreg_wf.spatial import VoxelGrid, resample
from deepreg_wf.spatial.masks import Mask, bounding_box, fill_holes, largest_component, volume_ml

EVIDENCE_SPACING_MM = 2.0
"""Voxel size of the grid on which the criteria are computed, in mm."""

MINIMUM_BACKGROUND = 0.25
"""Least share of the field of view with exactly the background value around an extracted brain.

A brain fills about half of the smallest box around it.
"""

MAXIMUM_FACE_CONTACT = 0.15
"""Largest share of a face of its bounding box that an extracted brain covers.

A brain touches the box at its poles, with less than 0.02; a neck or a head that the field of view
cuts covers a quarter of a face and more.
"""

MINIMUM_CONNECTED = 0.95
"""Least share of the foreground in its largest component in an extracted brain."""

MINIMUM_RIM_INTENSITY = 0.06
"""Least relative intensity of the outermost layer of an extracted brain.

Cortex has more than 0.2; the air around a head less than 0.02 where it is not exactly zero.
"""

MAXIMUM_INTENSITY_DIP = 0.03
"""Largest relative fall of intensity from the surface inwards in an extracted brain, due to noise.

In a head there is dark bone under the bright scalp; a brain becomes brighter from its rim inwards.
"""

N_LAYERS = 20
"""Number of layers between the surface and the deepest point."""

N_OUTER_LAYERS = 10
"""Number of outer layers that are examined, where scalp and skull would be."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Criteria by which an extracted brain differs from a head.

    Attributes
    ----------
    background_share : float
        Share of the field of view that has the background value.
    face_contact : float
        Largest share of a face of its bounding box that the largest component covers.
    connected_share : float
        Share of the foreground in its largest component.
    volume : float
        Volume of this component with its holes filled, in mL.
    rim_intensity : float
        Median intensity of the outermost layer above the background, relative to the range.
    intensity_dip : float
        Largest fall of intensity from the surface inwards, relative to the range.
    """

    background_share: float
    face_contact: float
    connected_share: float
    volume: float
    rim_intensity: float
    intensity_dip: float

    @property
    def failed_criteria(self) -> tuple[str, ...]:
        """Criteria that an extracted brain would meet and this image does not, in words."""
        low, high = BRAIN_VOLUME_ML
        failed = {
            'it has no constant background': self.background_share < MINIMUM_BACKGROUND,
            'it is cut off at a plane': self.face_contact > MAXIMUM_FACE_CONTACT,
            'it is in pieces': self.connected_share < MINIMUM_CONNECTED,
            f'its volume is {self.volume:.0f} mL': not low <= self.volume <= high,
            'there is air around it': self.rim_intensity < MINIMUM_RIM_INTENSITY,
            'it has a dark layer under a bright one': self.intensity_dip > MAXIMUM_INTENSITY_DIP,
        }
        return tuple(words for words, holds in failed.items() if holds)

    @property
    def extracted(self) -> bool:
        """True if the image meets every criterion of an extracted brain."""
        return not self.failed_criteria


def detect_extracted(data: NDArray[np.floating], grid: VoxelGrid) -> Evidence:
    """Detect whether an image shows an extracted brain.

    Parameters
    ----------
    data : ndarray, shape (X, Y, Z)
        Image, finite.
    grid : VoxelGrid
        Grid of the image.

    Returns
    -------
    Evidence
        The criteria; `Evidence.extracted` is the decision.
    """
    background = background_value(data)
    foreground = data != background
    coarse_grid = grid.canonical().resampled(EVIDENCE_SPACING_MM)
    coarse = resample(data, grid, coarse_grid, interpolation='nearest', default_value=background)
    pieces = coarse != background
    largest = largest_component(pieces)
    body = fill_holes(largest)
    box = body[bounding_box(body)] if body.any() else body
    rim_intensity, intensity_dip = _layer_intensities(coarse - background, body)
    return Evidence(
        background_share=1 - float(foreground.mean()),
        face_contact=max(float(face.mean()) for face in _faces(box)),
        connected_share=float(largest.sum() / max(1, pieces.sum())),
        volume=volume_ml(body, coarse_grid),
        rim_intensity=rim_intensity,
        intensity_dip=intensity_dip,
    )


def background_value(data: NDArray[np.floating]) -> float:
    """Return the most frequent value on the faces of the field of view."""
    border = np.concatenate([face.ravel() for face in _faces(data)])
    values, counts = np.unique(border, return_counts=True)
    return float(values[counts.argmax()])


def _faces(data: NDArray[Any]) -> Iterator[NDArray[Any]]:
    # Slices: `take` would copy the whole of an image whose first axis is the fastest.
    return (data[(slice(None),) * axis + (end,)] for axis in range(3) for end in (0, -1))


def _layer_intensities(data: NDArray[np.floating], body: Mask) -> tuple[float, float]:
    """Compute the intensity of the outermost layer and its largest fall in the layers below.

    Layer k of n = `N_LAYERS` holds the voxels with a depth d under the surface, relative to the
    deepest point, of (k - 1) / n < d <= k / n. With m_k its median intensity divided by the
    range of the body (1st to 99th percentile), the results are |m_1| and
    max_k (max_{j <= k} m_j - m_k) over the outer layers. Only the upper half counts, where
    neither face nor neck lie between the layers.

    Parameters
    ----------
    data : ndarray, shape (X, Y, Z)
        Intensities above the background, in storage order RAS.
    body : ndarray of bool, shape (X, Y, Z)
        Largest component without holes.

    Returns
    -------
    rim_intensity, intensity_dip : float
        Both relative to the range; 0 for an empty body.
    """
    depth = ndimage.distance_transform_edt(np.pad(body, 1))[1:-1, 1:-1, 1:-1]
    height = np.arange(body.shape[2])
    centre = (body.sum(axis=(0, 1)) * height).sum() / max(1, body.sum())
    upper = body & (height > centre)
    if not upper.any():
        return 0.0, 0.0
    low, high = np.percentile(data[body], [1, 99])
    layers = np.ceil(depth[upper] / depth.max() * N_LAYERS)
    medians = ndimage.median(data[upper], layers, np.unique(layers)) / max(high - low, 1e-6)
    outer = np.asarray(medians)[:N_OUTER_LAYERS]
    return float(abs(outer[0])), float((np.maximum.accumulate(outer) - outer).max())

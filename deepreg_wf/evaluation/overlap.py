"""Overlap of the labels of two images."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepreg_wf.errors import InputError
from deepreg_wf.spatial import TransformChain, VoxelGrid, load_image, resample

Labels = NDArray[np.int32]

MAX_LABEL = 2**24
"""Largest label that is exact in single precision, in which images are read and resampled."""

ROUNDING_TOLERANCE = 1e-3
"""Distance from a whole number that scaling and rounding may give a label."""


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Overlap of one label.

    Attributes
    ----------
    label : int
    dice : float or None
        2 |A & B| / (|A| + |B|), where A are the voxels with the label in the resampled moving
        image, and B those in the fixed image; None if only one of the images has the label.
    target_overlap : float or None
        |A & B| / |B| (Klein et al. 2009, NeuroImage 46:786); None as above.
    moving_volume : float
        Volume in the moving image, on its own grid, in ml.
    resampled_volume, fixed_volume : float
        Volumes of A and of B in ml.
    """

    label: int
    dice: float | None
    target_overlap: float | None
    moving_volume: float
    resampled_volume: float
    fixed_volume: float


def read_labels(
    path: str | Path, labels_of_interest: Collection[int] = ()
) -> tuple[Labels, VoxelGrid]:
    """Read an image of labels, which are whole numbers of any data type; 0 is the background.

    Parameters
    ----------
    path : path-like
        Image of a single volume.
    labels_of_interest : collection of int
        Labels to keep; the others become background. If it is empty, all are kept.

    Returns
    -------
    labels : ndarray of int32, shape (X, Y, Z)
    grid : VoxelGrid

    Raises
    ------
    InputError
        If there is no such image, it is damaged, or it is not an image of labels.
    """
    data, grid = load_image(path)
    labels = np.rint(data)
    # Written so that NaN, which compares as false, is refused.
    if not (np.abs(data - labels) <= ROUNDING_TOLERANCE).all():
        raise InputError(
            'it has values that are not whole numbers',
            advice='give an image of labels, resampled by nearest neighbour if at all',
            path=path,
        )
    if not np.abs(labels).max() <= MAX_LABEL:
        raise InputError(
            f'it has a label beyond {MAX_LABEL}',
            advice='give the labels lower numbers',
            path=path,
        )
    kept = labels
    if labels_of_interest:
        kept = np.where(np.isin(labels, list(labels_of_interest)), labels, 0)
    if not kept.any():
        missing = 'no label, only background'
        if labels_of_interest:
            missing = 'none of the labels of interest'
        raise InputError(f'it has {missing}', advice='check that it is the right image', path=path)
    return kept.astype(np.int32), grid


def label_overlaps(
    moving: Labels,
    moving_grid: VoxelGrid,
    fixed: Labels,
    fixed_grid: VoxelGrid,
    mapping: TransformChain,
) -> list[Overlap]:
    """Compare two images of labels; the moving one is resampled by nearest neighbour.

    Parameters
    ----------
    moving, fixed : ndarray of int32, shape (X, Y, Z)
        Labels on their own grids.
    moving_grid, fixed_grid : VoxelGrid
    mapping : Chain
        Map from fixed points to moving points.

    Returns
    -------
    list of Overlap
        One for each label of either image, in the order of the labels.
    """
    resampled = resample(
        moving.astype(np.float32), moving_grid, fixed_grid, mapping, interpolation='nearest'
    ).astype(np.int32)
    before, after, target = (_count(data) for data in (moving, resampled, fixed))
    common = _count(fixed[resampled == fixed])
    voxel, moving_voxel = (_voxel_ml(grid) for grid in (fixed_grid, moving_grid))
    overlaps = []
    for label in sorted({*before, *target}):
        a, b, both = (found.get(label, 0) for found in (after, target, common))
        shared = label in before and label in target
        overlaps.append(
            Overlap(
                label=label,
                dice=2 * both / (a + b) if shared else None,
                target_overlap=both / b if shared else None,
                moving_volume=before.get(label, 0) * moving_voxel,
                resampled_volume=a * voxel,
                fixed_volume=b * voxel,
            )
        )
    return overlaps


def _count(data: Labels) -> dict[int, int]:
    """Count the voxels of each label; the background does not count."""
    labels, counts = np.unique(data[data != 0], return_counts=True)
    return dict(zip(labels.tolist(), counts.tolist(), strict=True))


def _voxel_ml(grid: VoxelGrid) -> float:
    """Return the volume of a voxel in ml."""
    return float(abs(np.linalg.det(grid.affine[:3, :3]))) / 1000

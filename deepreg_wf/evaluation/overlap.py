"""How well the labels of one image lie on those of another, once they are resampled."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import nan
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepreg_wf.errors import InputError
from deepreg_wf.spatial import Chain, VoxelGrid, load_image, resample

Labels = NDArray[np.int32]

LARGEST = 2**24
"""Labels up to here survive single precision, in which images are read and resampled."""

ROUNDING = 1e-3
"""How far from a whole number a label may be that went through a scaling or a float."""


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Overlap of one label; NaN where only one of the two images has it.

    Attributes
    ----------
    label : int
    dice : float
        2 |A & B| / (|A| + |B|), where A is the label of the moving image, resampled, and B that
        of the fixed image.
    target_overlap : float
        |A & B| / |B| (Klein et al. 2009, NeuroImage 46:786).
    moving_volume, resampled_volume, fixed_volume : float
        In ml: in the moving image on its own grid, of A and of B.
    """

    label: int
    dice: float = nan
    target_overlap: float = nan
    moving_volume: float
    resampled_volume: float
    fixed_volume: float


def read_labels(path: str | Path, of_interest: Collection[int] = ()) -> tuple[Labels, VoxelGrid]:
    """Read an image of labels: whole numbers, in whatever type; 0 is the background.

    Parameters
    ----------
    path : path
        A single volume.
    of_interest : collection of int
        Labels to keep, the others become background; all are kept if it is empty.

    Returns
    -------
    labels : ndarray of int32, shape (X, Y, Z)
    grid : VoxelGrid

    Raises
    ------
    InputError
        If there is no such image, it is damaged, or it is no image of labels.
    """
    data, grid = load_image(path)
    labels = np.rint(data)
    # Written so that NaN, which compares as false, is refused.
    if not (np.abs(data - labels) <= ROUNDING).all():
        raise InputError(
            f'{path}: it has values that are not whole numbers; '
            'give an image of labels, resampled by nearest neighbour if at all.'
        )
    if not np.abs(labels).max() <= LARGEST:
        raise InputError(
            f'{path}: it has a label beyond {LARGEST}; give the labels lower numbers.'
        )
    kept = np.where(np.isin(labels, list(of_interest)), labels, 0) if of_interest else labels
    if not kept.any():
        which = 'none of the labels of interest' if of_interest else 'no label, only background'
        raise InputError(f'{path}: it has {which}; check that it is the right image.')
    return kept.astype(np.int32), grid


def label_overlaps(
    moving: Labels, moving_grid: VoxelGrid, fixed: Labels, fixed_grid: VoxelGrid, mapping: Chain
) -> list[Overlap]:
    """Resample the moving labels on the fixed grid, by nearest neighbour, and compare.

    Parameters
    ----------
    moving, fixed : ndarray of int32, shape (X, Y, Z)
        On their own grids.
    moving_grid, fixed_grid : VoxelGrid
    mapping : Chain
        Maps fixed points to moving points.

    Returns
    -------
    list of Overlap
        One for each label that either image has, in the order of the labels.
    """
    moved = resample(
        moving.astype(np.float32), moving_grid, fixed_grid, mapping, interpolation='nearest'
    ).astype(np.int32)
    before, after, target = (_count(data) for data in (moving, moved, fixed))
    common = _count(fixed[moved == fixed])
    voxel, moving_voxel = (_voxel_ml(grid) for grid in (fixed_grid, moving_grid))
    overlaps = []
    for label in sorted({*before, *target}):
        a, b, both = (found.get(label, 0) for found in (after, target, common))
        shared = label in before and label in target
        overlaps.append(
            Overlap(
                label=label,
                dice=2 * both / (a + b) if shared else nan,
                target_overlap=both / b if shared else nan,
                moving_volume=before.get(label, 0) * moving_voxel,
                resampled_volume=a * voxel,
                fixed_volume=b * voxel,
            )
        )
    return overlaps


def _count(data: Labels) -> dict[int, int]:
    """Voxels of each label but the background."""
    labels, counts = np.unique(data[data != 0], return_counts=True)
    return dict(zip(labels.tolist(), counts.tolist(), strict=True))


def _voxel_ml(grid: VoxelGrid) -> float:
    return float(abs(np.linalg.det(grid.affine[:3, :3]))) / 1000

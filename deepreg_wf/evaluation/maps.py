"""Whether a map of points is smooth, does not fold, and agrees with its inverse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepreg_wf.errors import InputError
from deepreg_wf.spatial import Chain, Transform, VoxelGrid, load_chain

Array = NDArray[np.float64]

_SLAB = 250_000
"""Voxels at a time, which bounds the memory."""


@dataclass(frozen=True)
class Step:
    """A file with a transform, and whether its inverse is meant, as ANTs' ``[FILE,1]``."""

    path: Path
    inverted: bool = False


def load_map(steps: Sequence[Step]) -> Chain:
    """Read a chain of transforms, in the order of ``antsApplyTransforms``.

    Parameters
    ----------
    steps : sequence of Step
        The last one is the first to be applied to an image, hence the last to be met by a
        point; without any, the map is the identity.

    Raises
    ------
    InputError
        If a file is not usable, or a displacement field is to be inverted.
    """
    # The stack of ITK, within a file too, is the other way round: a point meets its end first.
    return Chain([link for step in reversed(steps) for link in _load(step)])


def _load(step: Step) -> list[Transform]:
    links = list(load_chain(step.path).links)
    parts = (part for link in links for part in (link.affine, link.warp) if part is not None)
    if not all(np.isfinite(part).all() for part in parts):
        raise InputError(
            f'{step.path}: it has values that are not finite numbers; '
            'run the registration that made it again.'
        )
    if not step.inverted:
        return links
    if any(link.warp is not None for link in links):
        raise InputError(
            f'{step.path}: only an affine can be inverted by [FILE,1]; '
            'give the file of the inverse displacement field.'
        )
    try:
        inverses = [np.linalg.inv(link.affine) for link in reversed(links)]
    except np.linalg.LinAlgError:
        raise InputError(
            f'{step.path}: its matrix has no inverse; run the registration that made it again.'
        ) from None
    return [Transform(affine=np.asarray(inverse, dtype=np.float64)) for inverse in inverses]


def jacobian_determinant(mapping: Chain, grid: VoxelGrid) -> Array:
    """Determinant of the Jacobian of a map, in mm, by differences between neighbouring voxels.

    Central inside, one-sided at the border. An affine has its determinant everywhere.

    Parameters
    ----------
    mapping : Chain
        Maps points in RAS+ mm.
    grid : VoxelGrid
        Where to take it; at least two voxels along each axis.

    Returns
    -------
    ndarray, shape of the grid
    """
    determinant = np.empty(grid.shape)
    length, *across = grid.shape
    thickness = max(1, _SLAB // (across[0] * across[1]))
    for start in range(0, length, thickness):
        stop = min(start + thickness, length)
        low, high = max(start - 1, 0), min(stop + 1, length)
        voxels = np.mgrid[low:high, : across[0], : across[1]].astype(np.float64)
        # Both sides in voxels of this grid: a change of coordinates leaves a determinant alone.
        mapped = mapping.map_coordinates(voxels, start=grid.affine, end=grid.to_voxels)
        along_x, along_y, along_z = np.gradient(mapped, axis=(1, 2, 3))
        volume = (along_x * np.cross(along_y, along_z, axis=0)).sum(axis=0)
        determinant[start:stop] = volume[start - low : stop - low]
    return determinant


def regularity(determinant: Array) -> dict[str, float]:
    """Figures of the Jacobian determinants of a map, in any shape.

    Returns
    -------
    dict
        ``min``, ``p1`` (1st percentile), ``max``, ``folded`` (share that is not positive) and
        ``logsd`` (standard deviation of the natural logarithm of those that are positive, NaN
        if there are none).
    """
    positive = determinant[determinant > 0]
    return {
        'min': float(determinant.min()),
        'p1': float(np.percentile(determinant, 1)),
        'max': float(determinant.max()),
        'folded': (determinant.size - positive.size) / determinant.size,
        'logsd': float(np.log(positive).std()) if positive.size else float('nan'),
    }


def inverse_error(mapping: Chain, inverse: Chain, points: Array) -> Array:
    """Distance in mm between points and where the map and then its inverse take them.

    Parameters
    ----------
    mapping, inverse : Chain
    points : ndarray, shape (N, 3)
        RAS+ mm, in the space that `mapping` starts from.

    Returns
    -------
    ndarray, shape (N,)
    """
    returned = inverse.map_points(mapping.map_points(points))
    return np.asarray(np.linalg.norm(returned - points, axis=1), dtype=np.float64)

"""Grids, orientations and smooth maps that the tests of the geometry share."""

from __future__ import annotations

from itertools import permutations, product

import nibabel as nb
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from deepreg_wf.spatial import VoxelGrid

Array = NDArray[np.float64]

ORIENTATIONS = [
    np.column_stack([order, signs])
    for order in permutations(range(3))
    for signs in product((1, -1), repeat=3)
]
"""The 48 storage orders of a volume as orientations of nibabel: position and sign of each axis."""

CENTRE = (3.0, -11.0, 7.0)

OBLIQUE = (12.0, -8.0, 20.0)

AFFINE = np.array(
    [
        [1.04, 0.07, -0.05, 4.0],
        [-0.09, 0.95, 0.11, -7.0],
        [0.03, -0.08, 1.02, 9.0],
        [0.0, 0.0, 0.0, 1.0],
    ]
)
"""An affine between brains: rotation, scales, a little shear and a shift in mm."""


def rotation(degrees: ArrayLike) -> Array:
    return Rotation.from_euler('xyz', degrees, degrees=True).as_matrix()


def make_grid(
    codes: str = 'RAS',
    *,
    shape: tuple[int, int, int] = (40, 48, 36),
    spacing: ArrayLike = (2.0, 2.0, 2.0),
    oblique: ArrayLike = (0.0, 0.0, 0.0),
    centre: ArrayLike = CENTRE,
) -> VoxelGrid:
    """Make a grid by its orientation, size and centre."""
    places, signs = nb.orientations.axcodes2ornt(codes).T
    directions = np.zeros((3, 3))
    directions[places.astype(int), range(3)] = signs
    affine = np.eye(4)
    affine[:3, :3] = rotation(oblique) @ directions @ np.diag(np.asarray(spacing, dtype=float))
    affine[:3, 3] = centre - affine[:3, :3] @ (np.asarray(shape) - 1) / 2
    return VoxelGrid(shape, affine)


def stored(grid: VoxelGrid, orientation: Array) -> VoxelGrid:
    """The same voxels, stored in another order."""
    shape = np.empty(3, dtype=int)
    shape[orientation[:, 0]] = grid.shape
    return VoxelGrid(
        shape.tolist(),
        grid.affine @ nb.orientations.inv_ornt_aff(orientation, grid.shape),
    )


def wave(points: Array) -> Array:
    """Smooth displacement in mm, up to 5 mm, of RAS points of shape (..., 3)."""
    x, y, z = np.moveaxis(points, -1, 0)
    return np.stack(
        [
            4 * np.sin(x / 43 + 0.3) * np.cos(y / 49),
            3 * np.cos(z / 45) * np.sin(y / 51 + 1),
            4 * np.cos(x / 47 + z / 53),
        ],
        axis=-1,
    )


def wave_on(grid: VoxelGrid) -> Array:
    """The same displacement as a field in voxels along the axes of a grid, (3, X, Y, Z)."""
    return np.tensordot(
        grid.inverse_affine[:3, :3], np.moveaxis(wave(grid.points()), -1, 0), axes=1
    )


def random_points(grid: VoxelGrid, n: int = 500, *, margin: float = 0.0) -> Array:
    """RAS points between the voxel centres of a grid, `margin` voxels from its border."""
    rng = np.random.default_rng(0)
    low, high = margin, np.asarray(grid.shape) - 1 - margin
    return grid.to_mm(rng.uniform(low, high, size=(n, 3)))


def blob(points: Array) -> Array:
    """Smooth textured blob in [0, 1000], 14 mm in size, at RAS points of shape (..., 3)."""
    offset = (points - CENTRE) / 14
    texture = 1 + 0.3 * np.sin(offset @ [2.0, 1.0, -1.5]) * np.cos(offset @ [-1.0, 2.5, 1.0])
    return 750 * texture * np.exp(-0.5 * (offset**2).sum(axis=-1))


def blob_on(grid: VoxelGrid) -> Array:
    """The blob as an image, which fades out towards the border of the grid."""
    return blob(grid.points())

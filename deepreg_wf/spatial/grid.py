"""Voxel grids: shape, affine, and the conversions between voxels and millimetres."""

# mypy: untyped-calls-exclude=nibabel

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from nibabel.orientations import (
    aff2axcodes,
    apply_orientation,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)
from nibabel.spatialimages import SpatialImage
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

MAX_AXIS_COSINE = 1e-4
"""Largest cosine between axes that count as perpendicular; single precision leaves 1e-7."""


@dataclass(frozen=True, eq=False)
class VoxelGrid:
    """Voxel grid with its position in space.

    Parameters
    ----------
    shape : sequence of int
        Number of voxels along each of the three axes.
    affine : array_like, shape (4, 4)
        Voxel indices to RAS+ mm. It may flip, permute, rotate and shear axes. Integer indices are
        centres of voxels.

    Attributes
    ----------
    shape : tuple of 3 int
        Number of voxels along each axis.
    affine : ndarray, shape (4, 4)
        Voxel indices to RAS+ mm; read-only.

    Raises
    ------
    ValueError
        If the grid has not three axes of at least one voxel, or the affine is not invertible.
    """

    shape: tuple[int, int, int]
    affine: Array

    def __init__(self, shape: Sequence[int], affine: ArrayLike) -> None:
        size = tuple(int(n) for n in shape)
        matrix = np.array(affine, dtype=np.float64)
        if len(size) != 3 or min(size) < 1:
            raise ValueError(f'a grid must have three axes of at least one voxel, not {size}')
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
            raise ValueError(f'an affine must be a finite 4x4 matrix, not {matrix}')
        if not abs(np.linalg.det(matrix[:3, :3])) > 1e-12:
            raise ValueError(f'the affine of a grid must be invertible: {matrix}')
        matrix.setflags(write=False)
        object.__setattr__(self, 'shape', size)
        object.__setattr__(self, 'affine', matrix)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, VoxelGrid):
            return NotImplemented
        return self.shape == other.shape and bool(np.array_equal(self.affine, other.affine))

    def __hash__(self) -> int:
        return hash((self.shape, self.affine.tobytes()))

    @classmethod
    def from_image(cls, image: SpatialImage) -> VoxelGrid:
        """Return the grid of an image.

        Parameters
        ----------
        image : SpatialImage
            The image; only its first three axes count.

        Returns
        -------
        VoxelGrid
            Its grid.
        """
        return cls(image.shape[:3], image.affine)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance in mm between neighbouring voxels along each axis."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def axes(self) -> Array:
        """Unit vectors along the voxel axes, in RAS: columns of a matrix of shape (3, 3)."""
        directions: Array = self.affine[:3, :3] / np.asarray(self.spacing)
        return directions

    @property
    def orientation(self) -> str:
        """Anatomical direction that each axis points to most, in three letters such as 'RAS'."""
        return ''.join(aff2axcodes(self.affine))

    @property
    def is_orthogonal(self) -> bool:
        """True if the axes are perpendicular to each other; those of a sheared grid are not."""
        return bool(np.allclose(self.axes.T @ self.axes, np.eye(3), rtol=0, atol=MAX_AXIS_COSINE))

    @property
    def inverse_affine(self) -> Array:
        """Affine from RAS+ mm to voxel indices, shape (4, 4)."""
        return np.asarray(np.linalg.inv(self.affine), dtype=np.float64)

    def canonical(self) -> VoxelGrid:
        """Return the same voxels in the storage order nearest to RAS.

        Axes are permuted and flipped, never rotated: an oblique grid stays oblique.

        Returns
        -------
        VoxelGrid
            The reordered grid.
        """
        orientation = io_orientation(self.affine)
        shape = [self.shape[axis] for axis in np.argsort(orientation[:, 0])]
        return VoxelGrid(shape, self.affine @ inv_ornt_aff(orientation, self.shape))

    def to_canonical(self, data: NDArray[Any]) -> NDArray[Any]:
        """Reorder data on this grid into the order of `canonical`.

        Parameters
        ----------
        data : ndarray, shape (X, Y, Z, ...)
            Data on this grid.

        Returns
        -------
        ndarray
            Data on the canonical grid.
        """
        reordered: NDArray[Any] = apply_orientation(data, io_orientation(self.affine))
        return reordered

    def from_canonical(self, data: NDArray[Any]) -> NDArray[Any]:
        """Reorder data in the order of `canonical` back onto this grid.

        Parameters
        ----------
        data : ndarray
            Data on the canonical grid, with three axes or more.

        Returns
        -------
        ndarray, shape (X, Y, Z, ...)
            Data on this grid.
        """
        back = ornt_transform(io_orientation(np.eye(4)), io_orientation(self.affine))
        return np.ascontiguousarray(apply_orientation(data, back))

    def resampled(self, spacing_mm: float) -> VoxelGrid:
        """Return a grid of isotropic spacing over the same field of view.

        The field of view reaches to the outer faces of the outermost voxels. If it is not a
        multiple of the spacing, the new one is larger by less than a voxel. Both have the same
        centre.

        Parameters
        ----------
        spacing_mm : float
            Voxel size of the new grid.

        Returns
        -------
        VoxelGrid
            The new grid, with the same axes.

        Raises
        ------
        ValueError
            If the spacing is not positive.
        """
        if not spacing_mm > 0:
            raise ValueError(f'a spacing must be positive, not {spacing_mm}')
        extent = np.asarray(self.spacing) * self.shape
        # The tolerance keeps rounding errors from adding a voxel.
        shape = np.ceil(extent / spacing_mm - 1e-3).astype(int).clip(min=1)
        affine = np.eye(4)
        affine[:3, :3] = self.axes * spacing_mm
        centre = self.to_mm((np.asarray(self.shape) - 1) / 2)
        affine[:3, 3] = centre - affine[:3, :3] @ ((shape - 1) / 2)
        return VoxelGrid(shape.tolist(), affine)

    def to_mm(self, voxels: ArrayLike) -> Array:
        """Convert voxel indices to RAS+ mm.

        Parameters
        ----------
        voxels : array_like, shape (..., 3)
            Indices, which need not be integers.

        Returns
        -------
        ndarray, shape (..., 3)
            Points in RAS+ mm.
        """
        return _apply(self.affine, voxels)

    def to_indices(self, points: ArrayLike) -> Array:
        """Convert RAS+ mm to voxel indices.

        Parameters
        ----------
        points : array_like, shape (..., 3)
            Points in RAS+ mm.

        Returns
        -------
        ndarray, shape (..., 3)
            Indices, not rounded.
        """
        return _apply(self.inverse_affine, points)

    def points(self) -> Array:
        """Return the centres of all voxels.

        Returns
        -------
        ndarray, shape (X, Y, Z, 3)
            Points in RAS+ mm.
        """
        return self.to_mm(np.moveaxis(np.indices(self.shape), 0, -1))

    def contains(self, points: ArrayLike) -> NDArray[np.bool_]:
        """Tell which points are in the field of view, that is, in a voxel.

        The voxels include their outer halves, as in ITK.

        Parameters
        ----------
        points : array_like, shape (..., 3)
            Points in RAS+ mm.

        Returns
        -------
        ndarray of bool, shape (...)
            True for points in a voxel.
        """
        voxels = self.to_indices(points)
        within = (voxels >= -0.5) & (voxels <= np.asarray(self.shape) - 0.5)
        return np.asarray(within.all(axis=-1))


def _apply(matrix: Array, points: ArrayLike) -> Array:
    moved: Array = np.asarray(points, dtype=np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
    return moved

"""Point maps that consist of an affine, a displacement field, or both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from deepreg_wf.spatial.grid import VoxelGrid

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Transform:
    """Map of points in RAS+ mm: an affine, a displacement field, or one after the other.

    To resample an image, the map takes points of the target grid to points of the source image.

    Attributes
    ----------
    affine : ndarray, shape (4, 4)
        RAS+ mm to RAS+ mm; the identity by default.
    warp : ndarray, shape (3, X, Y, Z), or None
        Displacement in voxels along the axes of `grid`. It is linear between voxel centres,
        constant in the outer half of the outermost voxels and zero beyond, as in ITK.
    grid : VoxelGrid or None
        Grid of `warp`.
    affine_first : bool
        Apply the affine to a point first and the field then; by default the other way round.

    Raises
    ------
    ValueError
        If the shapes of the field and its grid differ, or only one of them is given.
    """

    affine: Array = field(default_factory=lambda: np.eye(4))
    warp: NDArray[np.floating] | None = None
    grid: VoxelGrid | None = None
    affine_first: bool = False

    def __post_init__(self) -> None:
        shape = None if self.grid is None else (3, *self.grid.shape)
        given = None if self.warp is None else self.warp.shape
        if given != shape:
            raise ValueError(f'the field has shape {given}, but its grid requires {shape}')
        if np.shape(self.affine) != (4, 4):
            raise ValueError(f'an affine must have shape (4, 4), not {np.shape(self.affine)}')

    def map_points(self, points: ArrayLike) -> Array:
        """Map points in RAS+ mm.

        Parameters
        ----------
        points : array_like, shape (..., 3)
            Points to map.

        Returns
        -------
        ndarray, shape (..., 3)
            Mapped points.
        """
        given = np.asarray(points, dtype=np.float64)
        mapped: Array = self.map_coordinates(given.reshape(-1, 3).T).T.reshape(given.shape)
        return mapped

    def map_coordinates(
        self, coordinates: Array, *, to_ras: Array | None = None, from_ras: Array | None = None
    ) -> Array:
        """Map points given in one coordinate system to another coordinate system.

        Parameters
        ----------
        coordinates : ndarray, shape (3, ...)
            Points to map; the components are on the first axis.
        to_ras : ndarray, shape (4, 4), optional
            Given coordinates to RAS+ mm, such as the affine of a target grid; the identity by
            default.
        from_ras : ndarray, shape (4, 4), optional
            RAS+ mm to the coordinates returned, such as the inverse affine of a source image; the
            identity by default.

        Returns
        -------
        ndarray, shape (3, ...)
            Mapped points.
        """
        eye = np.eye(4)
        to_ras, from_ras = (eye if matrix is None else matrix for matrix in (to_ras, from_ras))
        if self.warp is None or self.grid is None:
            return _apply(from_ras @ self.affine @ to_ras, coordinates)
        before, after = (self.affine, eye) if self.affine_first else (eye, self.affine)
        voxels = _apply(self.grid.inverse_affine @ before @ to_ras, coordinates)
        voxels += _displacement(self.warp, voxels)
        return _apply(from_ras @ after @ self.grid.affine, voxels)

    def map_grid(
        self, axes: Sequence[Array], *, to_ras: Array | None = None, from_ras: Array | None = None
    ) -> Array:
        """Map the points of a rectilinear grid as `map_coordinates` does.

        A field whose axes are parallel to those of the grid is interpolated one axis at a time,
        which is several times as fast.

        Parameters
        ----------
        axes : sequence of 3 ndarray
            Coordinates of the points along each axis.
        to_ras, from_ras : ndarray, shape (4, 4), optional
            As in `map_coordinates`.

        Returns
        -------
        ndarray, shape (3, X, Y, Z)
            Mapped points.
        """
        eye = np.eye(4)
        to_ras, from_ras = (eye if matrix is None else matrix for matrix in (to_ras, from_ras))
        coordinates = grid_points(axes)
        if self.warp is None or self.grid is None:
            return self.map_coordinates(coordinates, to_ras=to_ras, from_ras=from_ras)
        before, after = (self.affine, eye) if self.affine_first else (eye, self.affine)
        matrix = self.grid.inverse_affine @ before @ to_ras
        if not _is_parallel(matrix[:3, :3], [np.abs(axis).max() for axis in axes]):
            return self.map_coordinates(coordinates, to_ras=to_ras, from_ras=from_ras)
        scales, offsets = np.diagonal(matrix), matrix[:3, 3]
        along = [s * axis + o for s, axis, o in zip(scales, axes, offsets, strict=False)]
        voxels = grid_points(along)
        voxels += _separable_displacement(self.warp, along)
        return _apply(from_ras @ after @ self.grid.affine, voxels)

    def resampled(self, grid: VoxelGrid) -> Transform:
        """Return the same map with its displacement field on another grid.

        If the voxel centres of the new grid include all those of the old one, both maps are equal
        within both grids; else the linear interpolation smooths the new one.

        Parameters
        ----------
        grid : VoxelGrid
            New grid of the field.

        Returns
        -------
        Transform
            The map, with a field in single precision.

        Raises
        ------
        ValueError
            If there is no field.
        """
        if self.warp is None or self.grid is None:
            raise ValueError('the transform has no displacement field to resample')
        matrix = self.grid.inverse_affine @ grid.affine
        axes = [np.arange(n, dtype=np.float32) for n in grid.shape]
        warp = self.warp.astype(np.float32)
        if _is_parallel(matrix[:3, :3], grid.shape):
            lines = zip(np.diagonal(matrix), axes, matrix[:3, 3], strict=False)
            along = [(scale * axis + offset).astype(np.float32) for scale, axis, offset in lines]
            sampled = _separable_displacement(warp, along, np.float32)
        else:
            points = grid_points([axis.astype(np.float64) for axis in axes])
            sampled = _displacement(warp, _apply(matrix, points))
        turned = np.tensordot(
            grid.inverse_affine[:3, :3] @ self.grid.affine[:3, :3], sampled, axes=1
        )
        return replace(self, warp=turned.astype(np.float32), grid=grid)


@dataclass(frozen=True, eq=False)
class TransformChain:
    """Composition of transforms, in the order of ITK: the last one is applied to a point first.

    Attributes
    ----------
    transforms : sequence of Transform
        The transforms; none for the identity.
    """

    transforms: Sequence[Transform] = ()

    def map_points(self, points: ArrayLike) -> Array:
        """Map points in RAS+ mm; see `Transform.map_points`."""
        mapped = np.asarray(points, dtype=np.float64)
        for transform in reversed(self.transforms):
            mapped = transform.map_points(mapped)
        return mapped

    def map_coordinates(
        self, coordinates: Array, *, to_ras: Array | None = None, from_ras: Array | None = None
    ) -> Array:
        """Map points given in one coordinate system; see `Transform.map_coordinates`."""
        mapped = coordinates if to_ras is None else _apply(to_ras, coordinates)
        for transform in reversed(self.transforms):
            mapped = transform.map_coordinates(mapped)
        return mapped if from_ras is None else _apply(from_ras, mapped)

    def map_grid(
        self, axes: Sequence[Array], *, to_ras: Array | None = None, from_ras: Array | None = None
    ) -> Array:
        """Map the points of a rectilinear grid; see `Transform.map_grid`."""
        if not self.transforms:
            return self.map_coordinates(grid_points(axes), to_ras=to_ras, from_ras=from_ras)
        *later, first = self.transforms
        mapped = first.map_grid(axes, to_ras=to_ras)
        return TransformChain(later).map_coordinates(mapped, from_ras=from_ras)


def grid_points(axes: Sequence[Array]) -> Array:
    """Return the points of a rectilinear grid.

    Parameters
    ----------
    axes : sequence of 3 ndarray
        Coordinates of the points along each axis.

    Returns
    -------
    ndarray, shape (3, X, Y, Z)
        The points.
    """
    return np.stack(np.meshgrid(*axes, indexing='ij'))


def outside(voxels: Array, shape: Sequence[int]) -> NDArray[np.bool_]:
    """Tell which voxel coordinates are in no voxel of a grid.

    Parameters
    ----------
    voxels : ndarray, shape (3, ...)
        Voxel coordinates.
    shape : sequence of 3 int
        Shape of the grid.

    Returns
    -------
    ndarray of bool, shape (...)
        True outside the grid.
    """
    beyond = np.zeros(voxels.shape[1:], dtype=bool)
    for coordinate, n in zip(voxels, shape, strict=True):
        beyond |= (coordinate < -0.5) | (coordinate > n - 0.5)
    return beyond


def _displacement(warp: NDArray[np.floating], voxels: Array) -> Array:
    """Interpolate a field at voxel coordinates, both of shape (3, ...)."""
    sampled = np.empty_like(voxels)
    for component, out in zip(warp, sampled, strict=True):
        ndimage.map_coordinates(component, voxels, output=out, order=1, mode='nearest')
    sampled[:, outside(voxels, warp.shape[1:])] = 0
    return sampled


def _is_parallel(matrix: Array, extent: Sequence[float]) -> bool:
    """Tell whether a matrix is diagonal enough for a separable interpolation.

    Over the given extent, its other entries move a point by less than a millionth of a voxel.
    """
    off_diagonal = np.abs(matrix - np.diag(np.diagonal(matrix)))
    return bool((off_diagonal @ np.asarray(extent)).max() < 1e-6)


def _separable_displacement(
    warp: NDArray[np.floating],
    along: Sequence[NDArray[np.floating]],
    dtype: type[np.floating] = np.float64,
) -> NDArray[np.floating]:
    """Interpolate a field at the points of a rectilinear grid, axis by axis.

    Parameters
    ----------
    warp : ndarray, shape (3, X, Y, Z)
        The field.
    along : sequence of 3 ndarray
        Voxel coordinates of the points along each axis.
    dtype : type
        Type of the result.

    Returns
    -------
    ndarray, shape (3, X', Y', Z')
        The interpolated field, zero outside that of `warp`.
    """
    sampled: NDArray[np.floating] = warp
    for axis, positions in enumerate(along, start=1):
        last = warp.shape[axis] - 1
        inside = np.clip(positions, 0, last)
        left = np.minimum(np.floor(inside).astype(np.intp), max(last - 1, 0))
        shape = [-1 if a == axis else 1 for a in range(4)]
        weight = (inside - left).reshape(shape)
        right = np.minimum(left + 1, last)
        sampled = (1 - weight) * sampled.take(left, axis) + weight * sampled.take(right, axis)
        beyond = (positions < -0.5) | (positions > last + 0.5)
        sampled *= ~beyond.reshape(shape)
    return sampled.astype(dtype, copy=False)


def _apply(matrix: Array, coordinates: Array) -> Array:
    """Apply a matrix, shape (4, 4), to coordinates, shape (3, ...)."""
    moved: Array = np.tensordot(matrix[:3, :3], coordinates, axes=1)
    moved += matrix[:3, 3].reshape(3, *[1] * (coordinates.ndim - 1))
    return moved

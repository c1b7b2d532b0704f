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
    """A map of points in RAS+ mm: an affine, a displacement field, or one after the other.

    To resample an image, the map takes points of the grid that is filled to points of the image
    that is read.

    Attributes
    ----------
    affine : ndarray, shape (4, 4)
        RAS+ mm to RAS+ mm; the identity by default.
    warp : ndarray, shape (3, X, Y, Z), or None
        Displacement in voxels along the axes of `grid`. Linear between the voxel centres,
        constant in the outer half of the outermost voxels and zero beyond, as in ITK.
    grid : VoxelGrid or None
        On which `warp` lies.
    affine_first : bool
        Whether a point meets the affine first and the field then, or the field first.

    Raises
    ------
    ValueError
        If the field and its grid do not fit, or only one of them is given.
    """

    affine: Array = field(default_factory=lambda: np.eye(4))
    warp: NDArray[np.floating] | None = None
    grid: VoxelGrid | None = None
    affine_first: bool = False

    def __post_init__(self) -> None:
        shape = None if self.grid is None else (3, *self.grid.shape)
        given = None if self.warp is None else self.warp.shape
        if given != shape:
            raise ValueError(f'the field has shape {given}, its grid asks for {shape}')
        if np.shape(self.affine) != (4, 4):
            raise ValueError(f'an affine has shape (4, 4), not {np.shape(self.affine)}')

    def map_points(self, points: ArrayLike) -> Array:
        """Map points in RAS+ mm.

        Parameters
        ----------
        points : array_like, shape (..., 3)

        Returns
        -------
        ndarray, shape (..., 3)
        """
        given = np.asarray(points, dtype=np.float64)
        mapped: Array = self.map_coordinates(given.reshape(-1, 3).T).T.reshape(given.shape)
        return mapped

    def map_coordinates(
        self, coordinates: Array, *, start: Array | None = None, end: Array | None = None
    ) -> Array:
        """Map coordinates that come first, from the frame of one image to that of another.

        Parameters
        ----------
        coordinates : ndarray, shape (3, ...)
        start : ndarray, shape (4, 4), optional
            Given coordinates to RAS+ mm, as the affine of the grid that is filled; the identity
            by default.
        end : ndarray, shape (4, 4), optional
            RAS+ mm to the coordinates returned, as the inverse affine of the image that is read;
            the identity by default.

        Returns
        -------
        ndarray, shape (3, ...)
        """
        eye = np.eye(4)
        start, end = (eye if matrix is None else matrix for matrix in (start, end))
        if self.warp is None or self.grid is None:
            return _apply(end @ self.affine @ start, coordinates)
        before, after = (self.affine, eye) if self.affine_first else (eye, self.affine)
        voxels = _apply(self.grid.to_voxels @ before @ start, coordinates)
        voxels += _displacement(self.warp, voxels)
        return _apply(end @ after @ self.grid.affine, voxels)

    def map_lattice(
        self, axes: Sequence[Array], *, start: Array | None = None, end: Array | None = None
    ) -> Array:
        """Map the points of a rectangular lattice as `map_coordinates` does.

        A field whose axes are those of the lattice is interpolated along one after the other,
        several times as fast.

        Parameters
        ----------
        axes : sequence of 3 ndarray
            Coordinates of the lattice along each axis.
        start, end : ndarray, shape (4, 4), optional
            Those of `map_coordinates`.

        Returns
        -------
        ndarray, shape (3, X, Y, Z)
        """
        eye = np.eye(4)
        start, end = (eye if matrix is None else matrix for matrix in (start, end))
        coordinates = lattice_points(axes)
        if self.warp is None or self.grid is None:
            return self.map_coordinates(coordinates, start=start, end=end)
        before, after = (self.affine, eye) if self.affine_first else (eye, self.affine)
        matrix = self.grid.to_voxels @ before @ start
        if not _is_parallel(matrix[:3, :3], [np.abs(axis).max() for axis in axes]):
            return self.map_coordinates(coordinates, start=start, end=end)
        scales, offsets = np.diagonal(matrix), matrix[:3, 3]
        along = [s * axis + o for s, axis, o in zip(scales, axes, offsets, strict=False)]
        voxels = lattice_points(along)
        voxels += _separable_displacement(self.warp, along)
        return _apply(end @ after @ self.grid.affine, voxels)

    def resampled(self, grid: VoxelGrid) -> Transform:
        """Return the same map with its displacement field on another grid.

        Where the nodes of the new grid hold all those of the old one, both agree everywhere
        within both; else the new one is smoother by what a linear interpolation makes of it.

        Parameters
        ----------
        grid : VoxelGrid

        Returns
        -------
        Transform
            Its field is in single precision.

        Raises
        ------
        ValueError
            If there is no field.
        """
        if self.warp is None or self.grid is None:
            raise ValueError('without a field there is nothing to resample')
        matrix = self.grid.to_voxels @ grid.affine
        axes = [np.arange(n, dtype=np.float32) for n in grid.shape]
        warp = self.warp.astype(np.float32)
        if _is_parallel(matrix[:3, :3], grid.shape):
            lines = zip(np.diagonal(matrix), axes, matrix[:3, 3], strict=False)
            along = [(scale * axis + offset).astype(np.float32) for scale, axis, offset in lines]
            sampled = _separable_displacement(warp, along, np.float32)
        else:
            points = lattice_points([axis.astype(np.float64) for axis in axes])
            sampled = _displacement(warp, _apply(matrix, points))
        turned = np.tensordot(grid.to_voxels[:3, :3] @ self.grid.affine[:3, :3], sampled, axes=1)
        return replace(self, warp=turned.astype(np.float32), grid=grid)


@dataclass(frozen=True, eq=False)
class Chain:
    """Transforms one after another, in the order of ITK: a point meets the last one first.

    Attributes
    ----------
    links : sequence of Transform
        Without any, it is the identity.
    """

    links: Sequence[Transform] = ()

    def map_points(self, points: ArrayLike) -> Array:
        """Map points in RAS+ mm, shape (..., 3), as a `Transform` does."""
        mapped = np.asarray(points, dtype=np.float64)
        for link in reversed(self.links):
            mapped = link.map_points(mapped)
        return mapped

    def map_coordinates(
        self, coordinates: Array, *, start: Array | None = None, end: Array | None = None
    ) -> Array:
        """Map coordinates that come first, shape (3, ...), as a `Transform` does."""
        mapped = coordinates if start is None else _apply(start, coordinates)
        for link in reversed(self.links):
            mapped = link.map_coordinates(mapped)
        return mapped if end is None else _apply(end, mapped)

    def map_lattice(
        self, axes: Sequence[Array], *, start: Array | None = None, end: Array | None = None
    ) -> Array:
        """Map the points of a lattice, as a `Transform` does."""
        if not self.links:
            return self.map_coordinates(lattice_points(axes), start=start, end=end)
        *later, first = self.links
        mapped = first.map_lattice(axes, start=start)
        return Chain(later).map_coordinates(mapped, end=end)


def lattice_points(axes: Sequence[Array]) -> Array:
    """Points of a lattice, shape (3, X, Y, Z), whose coordinates along each axis are given."""
    return np.stack(np.meshgrid(*axes, indexing='ij'))


def outside(voxels: Array, shape: Sequence[int]) -> NDArray[np.bool_]:
    """Whether voxel coordinates, shape (3, ...), are in no voxel of a grid."""
    beyond = np.zeros(voxels.shape[1:], dtype=bool)
    for along, n in zip(voxels, shape, strict=True):
        beyond |= (along < -0.5) | (along > n - 0.5)
    return beyond


def _displacement(warp: NDArray[np.floating], voxels: Array) -> Array:
    sampled = np.empty_like(voxels)
    for component, out in zip(warp, sampled, strict=True):
        ndimage.map_coordinates(component, voxels, output=out, order=1, mode='nearest')
    sampled[:, outside(voxels, warp.shape[1:])] = 0
    return sampled


def _is_parallel(matrix: Array, extent: Sequence[float]) -> bool:
    """Whether the points of a lattice of some extent stay in line, to a millionth of a voxel."""
    bent = np.abs(matrix - np.diag(np.diagonal(matrix)))
    return bool((bent @ np.asarray(extent)).max() < 1e-6)


def _separable_displacement(
    warp: NDArray[np.floating],
    along: Sequence[NDArray[np.floating]],
    dtype: type[np.floating] = np.float64,
) -> NDArray[np.floating]:
    """Interpolate a field at the points of a lattice in its voxels, axis by axis."""
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
    moved: Array = np.tensordot(matrix[:3, :3], coordinates, axes=1)
    moved += matrix[:3, 3].reshape(3, *[1] * (coordinates.ndim - 1))
    return moved

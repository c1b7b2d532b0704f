"""Images, vector fields and displacement fields in NIfTI files.

A file is written beside its place and then renamed, so that nobody finds half of one.
"""

# mypy: untyped-calls-exclude=nibabel

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, SpatialImage
from numpy.typing import ArrayLike, DTypeLike, NDArray

from deepreg_wf.errors import InputError
from deepreg_wf.spatial.grid import VoxelGrid
from deepreg_wf.utils.atomic import atomic_write

Field = NDArray[np.float32]

LPS = np.array([-1.0, -1.0, 1.0])
"""What turns a vector in RAS into one in LPS, and back."""

_DAMAGE = (OSError, EOFError, ValueError, TypeError, zlib.error)
"""What nibabel raises on a file that is truncated, damaged or no image."""


def open_image(path: str | Path) -> tuple[SpatialImage, VoxelGrid]:
    """Open an image without reading its data.

    Returns
    -------
    image : SpatialImage
    grid : VoxelGrid
        Of its first three axes.

    Raises
    ------
    InputError
        If the file does not exist or is not an image with a grid in space.
    """
    try:
        # indexed_gzip, which nibabel uses if it is there, ends the process if it may not read.
        with Path(path).open('rb'):
            image = nb.load(path)
    except FileNotFoundError:
        raise InputError(f'{path}: there is no such file; check the path.') from None
    except PermissionError:
        raise InputError(f'{path}: it may not be read; change its permissions.') from None
    except (ImageFileError, HeaderDataError, *_DAMAGE):
        raise InputError(
            f'{path}: it cannot be read as a NIfTI image; check that it is one and complete.'
        ) from None
    if not isinstance(image, SpatialImage) or len(image.shape) < 3:
        raise InputError(f'{path}: it is no volume with three axes; give one that is.')
    try:
        return image, VoxelGrid(image.shape[:3], image.affine)
    except ValueError:
        raise InputError(
            f'{path}: its header does not say where its voxels are; repair its sform or qform.'
        ) from None


def load_grid(path: str | Path) -> VoxelGrid:
    """Read the grid of an image; its data is not read.

    Raises
    ------
    InputError
        If the file is not an image with a grid in space.
    """
    return open_image(path)[1]


def lossless_dtype(path: str | Path) -> np.dtype[Any]:
    """Type that holds the values of an image: as stored for whole numbers, else float32.

    Raises
    ------
    InputError
        If there is no such image.
    """
    image, _ = open_image(path)
    stored = np.dtype(image.get_data_dtype())
    scaling = [getattr(image.dataobj, name, plain) for name, plain in (('slope', 1), ('inter', 0))]
    return stored if stored.kind in 'iu' and scaling == [1, 0] else np.dtype(np.float32)


def load_image(path: str | Path) -> tuple[Field, VoxelGrid]:
    """Read a scalar image.

    Parameters
    ----------
    path : path
        A NIfTI image with three axes; further axes may have a length of one.

    Returns
    -------
    data : ndarray of float32, shape (X, Y, Z)
        In the storage order of the file, intensities scaled as its header says.
    grid : VoxelGrid

    Raises
    ------
    InputError
        If there is no such image, it is damaged, or it has more than one volume.
    """
    image, grid = open_image(path)
    if any(n != 1 for n in image.shape[3:]):
        raise InputError(
            f'{path}: it has shape {image.shape}, more than one volume; give a single volume.'
        )
    return _read(image, path).reshape(grid.shape), grid


def save_image(
    path: str | Path, data: ArrayLike, grid: VoxelGrid, dtype: DTypeLike = np.float32
) -> None:
    """Write a scalar image.

    Parameters
    ----------
    path : path
        Name of the NIfTI file, ``.nii`` or ``.nii.gz``.
    data : array_like, shape (X, Y, Z)
        In the storage order of the grid.
    grid : VoxelGrid
    dtype : dtype
        Of the values in the file. Whole numbers are rounded and clipped to what it holds.
    """
    values = np.asarray(data)
    target = np.dtype(dtype)
    if target.kind in 'iu' and values.dtype.kind == 'f':
        limits = np.iinfo(target)
        values = np.rint(np.nan_to_num(values)).clip(limits.min, limits.max)
    _check_shape(values.shape, grid)
    values = values.astype(target, copy=False)
    _write(path, nb.Nifti1Image(values, grid.affine, dtype=target))


def save_vector(path: str | Path, vector: ArrayLike, grid: VoxelGrid) -> None:
    """Write a vector field as it is, in any unit, with components along the axes of the grid.

    Parameters
    ----------
    path : path
        Name of the NIfTI file, which has shape (X, Y, Z, 1, 3) and the intent 'vector'.
    vector : array_like, shape (3, X, Y, Z)
    grid : VoxelGrid
    """
    components = np.asarray(vector, dtype=np.float32)
    _check_shape(components.shape[1:], grid)
    image = nb.Nifti1Image(np.moveaxis(components, 0, -1)[..., np.newaxis, :], grid.affine)
    image.header.set_intent('vector')
    _write(path, image)


def load_vector(path: str | Path) -> tuple[Field, VoxelGrid]:
    """Read a vector field that `save_vector` has written.

    Returns
    -------
    vector : ndarray of float32, shape (3, X, Y, Z)
        Components as stored.
    grid : VoxelGrid

    Raises
    ------
    InputError
        If there is no such image, it is damaged, or it is no vector field.
    """
    image, grid = open_image(path)
    if image.shape[3:] not in ((1, 3), (3,)):
        raise InputError(
            f'{path}: it has shape {image.shape}, not three components in each voxel; '
            'give a vector field.'
        )
    components = _read(image, path).reshape(*grid.shape, 3)
    return np.ascontiguousarray(np.moveaxis(components, -1, 0)), grid


def save_displacement(path: str | Path, displacement: ArrayLike, grid: VoxelGrid) -> None:
    """Write a displacement field as ITK and ANTs read it: in mm, LPS.

    Parameters
    ----------
    path : path
        Name of the NIfTI file, which has shape (X, Y, Z, 1, 3) and the intent 'vector'.
    displacement : array_like, shape (3, X, Y, Z)
        In voxels along the axes of the grid.
    grid : VoxelGrid

    Raises
    ------
    InputError
        If the grid is sheared, which ITK cannot represent.
    """
    check_orthogonal(grid, path)
    to_lps = LPS[:, np.newaxis] * grid.affine[:3, :3]
    save_vector(path, np.tensordot(to_lps, np.asarray(displacement), axes=1), grid)


def load_displacement(path: str | Path) -> tuple[Field, VoxelGrid]:
    """Read a displacement field of ITK, ANTs or `save_displacement`.

    Returns
    -------
    displacement : ndarray of float32, shape (3, X, Y, Z)
        In voxels along the axes of the grid.
    grid : VoxelGrid

    Raises
    ------
    InputError
        If there is no such image, it is damaged, or it is no vector field.
    """
    vector, grid = load_vector(path)
    from_lps = grid.to_voxels[:3, :3] * LPS
    return np.tensordot(from_lps.astype(np.float32), vector, axes=1), grid


def check_orthogonal(grid: VoxelGrid, path: str | Path) -> None:
    """Refuse a grid that a displacement field of ITK cannot lie on."""
    if not grid.is_orthogonal:
        raise InputError(
            f'{path}: a displacement field cannot lie on a sheared grid; '
            'resample the template to a grid with perpendicular axes.'
        )


def _check_shape(shape: tuple[int, ...], grid: VoxelGrid) -> None:
    if shape != grid.shape:
        raise ValueError(f'data of shape {shape} do not fit a grid of shape {grid.shape}')


def _read(image: SpatialImage, path: str | Path) -> Field:
    try:
        return np.asarray(image.dataobj, dtype=np.float32)
    except _DAMAGE:
        raise InputError(
            f'{path}: its data cannot be read, it is truncated or damaged; '
            'restore it from its source.'
        ) from None


def _write(path: str | Path, image: nb.Nifti1Image) -> None:
    # The sform alone: a qform keeps three of the four numbers of its rotation, in single
    # precision, which can move the far corner of an image by more than 0.001 mm.
    image.set_sform(image.affine, 'aligned')
    image.set_qform(None)
    image.header.set_xyzt_units('mm')
    with atomic_write(path) as temporary:
        nb.save(image, temporary)

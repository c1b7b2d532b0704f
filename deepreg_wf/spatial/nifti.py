"""NIfTI files of images, vector fields and displacement fields; all writes are atomic."""

# mypy: untyped-calls-exclude=nibabel

from __future__ import annotations

import math
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
from deepreg_wf.spatial.nifti_file import is_nifti_name, open_nifti, read_nifti
from deepreg_wf.utils.atomic import atomic_write
from deepreg_wf.utils.memory import check_memory
from deepreg_wf.utils.regular_file import check_present

Float32Array = NDArray[np.float32]

RAS_TO_LPS = np.array([-1.0, -1.0, 1.0])
"""Factors that convert a vector in RAS to LPS, or back."""

_BYTES_PER_VOXEL = 12
"""Memory that reading takes beside the voxels as stored: measured were 6 to 12, by their type."""

_READ_ERRORS = (OSError, EOFError, ValueError, TypeError, zlib.error)
"""Exceptions of nibabel for a file that is truncated, damaged or not an image."""


def open_image(path: str | Path) -> tuple[SpatialImage, VoxelGrid]:
    """Open an image without reading its data.

    Parameters
    ----------
    path : str or Path
        Name of the file.

    Returns
    -------
    image : SpatialImage
        The image.
    grid : VoxelGrid
        Grid of its first three axes.

    Raises
    ------
    InputError
        If the file does not exist or is not an image with a grid in space.
    """
    image = _open(path)
    if not isinstance(image, SpatialImage) or len(image.shape) < 3:
        raise InputError(
            'it is not an image with three axes', advice='give one that is', path=path
        )
    try:
        return image, VoxelGrid(image.shape[:3], image.affine)
    except ValueError:
        raise InputError(
            'its header does not give the position of its voxels',
            advice='repair its sform or qform',
            path=path,
        ) from None


def load_grid(path: str | Path) -> VoxelGrid:
    """Read the grid of an image, without its data.

    Parameters
    ----------
    path : str or Path
        Name of the file.

    Returns
    -------
    VoxelGrid
        Grid of its first three axes.

    Raises
    ------
    InputError
        If the file is not an image with a grid in space.
    """
    return open_image(path)[1]


def lossless_dtype(path: str | Path) -> np.dtype[Any]:
    """Return a type that can represent the values of an image.

    Parameters
    ----------
    path : str or Path
        Name of the file.

    Returns
    -------
    numpy.dtype
        The type in the file if it holds integers without a scaling, else float32.

    Raises
    ------
    InputError
        If there is no such image.
    """
    image, _ = open_image(path)
    stored = np.dtype(image.get_data_dtype())
    scaling = [getattr(image.dataobj, name, none) for name, none in (('slope', 1), ('inter', 0))]
    return stored if stored.kind in 'iu' and scaling == [1, 0] else np.dtype(np.float32)


def load_image(path: str | Path) -> tuple[Float32Array, VoxelGrid]:
    """Read a scalar image.

    Parameters
    ----------
    path : str or Path
        A NIfTI image with three axes; further axes may have a length of one.

    Returns
    -------
    data : ndarray of float32, shape (X, Y, Z)
        In the storage order of the file, with the scaling of its header applied.
    grid : VoxelGrid
        Grid of the image.

    Raises
    ------
    InputError
        If there is no such image, it is damaged, or it has more than one volume.
    """
    image, grid = open_image(path)
    if any(n != 1 for n in image.shape[3:]):
        raise InputError(
            f'it has shape {image.shape}, more than one volume',
            advice='give a single volume',
            path=path,
        )
    return _read(image, path).reshape(grid.shape), grid


def save_image(
    path: str | Path, data: ArrayLike, grid: VoxelGrid, dtype: DTypeLike = np.float32
) -> None:
    """Write a scalar image.

    Parameters
    ----------
    path : str or Path
        Name of the NIfTI file, ``.nii`` or ``.nii.gz``.
    data : array_like, shape (X, Y, Z)
        In the storage order of the grid.
    grid : VoxelGrid
        Grid of the image.
    dtype : dtype
        Type of the values in the file. For integers, values are rounded and clipped to its range.
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
    """Write a vector field, in any unit.

    Parameters
    ----------
    path : str or Path
        Name of the NIfTI file, which has shape (X, Y, Z, 1, 3) and the intent 'vector'.
    vector : array_like, shape (3, X, Y, Z)
        Components along the axes of the grid.
    grid : VoxelGrid
        Grid of the field.
    """
    components = np.asarray(vector, dtype=np.float32)
    _check_shape(components.shape[1:], grid)
    image = nb.Nifti1Image(np.moveaxis(components, 0, -1)[..., np.newaxis, :], grid.affine)
    image.header.set_intent('vector')
    _write(path, image)


def load_vector(path: str | Path) -> tuple[Float32Array, VoxelGrid]:
    """Read a vector field that `save_vector` has written.

    Parameters
    ----------
    path : str or Path
        Name of the file.

    Returns
    -------
    vector : ndarray of float32, shape (3, X, Y, Z)
        Components as stored.
    grid : VoxelGrid
        Grid of the field.

    Raises
    ------
    InputError
        If there is no such image, it is damaged, or it is not a vector field.
    """
    image, grid = open_image(path)
    if image.shape[3:] not in ((1, 3), (3,)):
        raise InputError(
            f'it has shape {image.shape}, not three components in each voxel',
            advice='give a vector field',
            path=path,
        )
    components = _read(image, path).reshape(*grid.shape, 3)
    return np.ascontiguousarray(np.moveaxis(components, -1, 0)), grid


def save_displacement(path: str | Path, displacement: ArrayLike, grid: VoxelGrid) -> None:
    """Write a displacement field as ITK and ANTs read it, in LPS mm.

    Parameters
    ----------
    path : str or Path
        Name of the NIfTI file, which has shape (X, Y, Z, 1, 3) and the intent 'vector'.
    displacement : array_like, shape (3, X, Y, Z)
        In voxels along the axes of the grid.
    grid : VoxelGrid
        Grid of the field.

    Raises
    ------
    InputError
        If the grid is sheared, which ITK cannot represent.
    """
    check_orthogonal(grid, path)
    to_lps = RAS_TO_LPS[:, np.newaxis] * grid.affine[:3, :3]
    save_vector(path, np.tensordot(to_lps, np.asarray(displacement), axes=1), grid)


def load_displacement(path: str | Path) -> tuple[Float32Array, VoxelGrid]:
    """Read a displacement field of ITK, ANTs or `save_displacement`.

    Parameters
    ----------
    path : str or Path
        Name of the file.

    Returns
    -------
    displacement : ndarray of float32, shape (3, X, Y, Z)
        In voxels along the axes of the grid.
    grid : VoxelGrid
        Grid of the field.

    Raises
    ------
    InputError
        If there is no such image, it is damaged, or it is not a vector field.
    """
    vector, grid = load_vector(path)
    from_lps = grid.inverse_affine[:3, :3] * RAS_TO_LPS
    return np.tensordot(from_lps.astype(np.float32), vector, axes=1), grid


def check_orthogonal(grid: VoxelGrid, path: str | Path) -> None:
    """Check that ITK can represent displacement fields on a grid.

    Parameters
    ----------
    grid : VoxelGrid
        The grid.
    path : str or Path
        File of the field, for the message.

    Raises
    ------
    InputError
        If the grid is sheared.
    """
    if not grid.is_orthogonal:
        raise InputError(
            'a displacement field cannot be stored on a sheared grid',
            advice='resample the template to a grid with perpendicular axes',
            path=path,
        )


def _check_shape(shape: tuple[int, ...], grid: VoxelGrid) -> None:
    if shape != grid.shape:
        raise ValueError(f'data of shape {shape} do not fit a grid of shape {grid.shape}')


def _open(path: str | Path) -> Any:
    if is_nifti_name(path):
        return open_nifti(path)
    check_present(path)
    try:
        return nb.load(path)
    except (ImageFileError, HeaderDataError, *_READ_ERRORS):
        raise InputError(
            'it cannot be read as a NIfTI image',
            advice='check that it is one and is complete',
            path=path,
        ) from None


def _read(image: SpatialImage, path: str | Path) -> Float32Array:
    """Read the voxels of an opened image, and its file to the end."""
    check_memory(_memory_to_read(image), path)
    try:
        whole = read_nifti(path) if is_nifti_name(path) else image
        with np.errstate(over='ignore', invalid='ignore'):  # what is not finite is seen later
            return np.asarray(whole.dataobj, dtype=np.float32)
    except InputError:
        raise
    except _READ_ERRORS:
        raise InputError(
            'its data cannot be read, it is truncated or damaged',
            advice='restore it from its source',
            path=path,
        ) from None


def _memory_to_read(image: SpatialImage) -> int:
    """Return the bytes of memory that the voxels of an image take while they are read."""
    stored = np.dtype(image.get_data_dtype()).itemsize
    return math.prod(image.shape) * (stored + _BYTES_PER_VOXEL)


def _write(path: str | Path, image: nb.Nifti1Image) -> None:
    # Without a qform: it stores three of the four numbers of a quaternion in single precision,
    # which can move the far corner of an image by more than 0.001 mm.
    image.set_sform(image.affine, 'aligned')
    image.set_qform(None)
    image.header.set_xyzt_units('mm')
    with atomic_write(path) as temporary:
        nb.save(image, temporary)

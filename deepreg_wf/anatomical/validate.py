"""Reading and validation of raw T1-weighted images."""

# mypy: untyped-calls-exclude=nibabel

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nibabel as nb
import numpy as np
from nibabel.spatialimages import HeaderDataError, SpatialImage
from numpy.typing import NDArray

from deepreg_wf.errors import InputError
from deepreg_wf.spatial import VoxelGrid, load_image
from deepreg_wf.spatial.nifti import open_image

VOXEL_SIZE_MM = (0.2, 10.0)
"""Limits of the voxel size of a head scan, in mm; values outside are mostly of a wrong unit."""

EXTENT_MM = (80.0, 1000.0)
"""Limits of the extent of a field of view that holds a brain, in mm; brains are 95 mm high."""

MAXIMUM_VOXELS = 2**31
"""Largest number of voxels that is read: more than a head at 0.2 mm, and it fits into memory."""

FORM_TOLERANCE_MM = 1.0
"""Distance between the positions of a voxel by sform and qform from which a remark is made."""


@dataclass(frozen=True, kw_only=True)
class T1w:
    """Validated T1-weighted image.

    Attributes
    ----------
    data : ndarray of float32, shape (X, Y, Z)
        Finite intensities, in the storage order of the file.
    grid : VoxelGrid
        Grid of the image.
    remarks : tuple of str
        Corrections and decisions that were made while reading, each as a sentence with the path.
    nonfinite_voxels : int
        Number of voxels that were not finite and were set to 0.
    form_distance_mm : float or None
        Largest distance between the positions of a voxel by sform and qform, None if only one of
        them is set.
    """

    data: NDArray[np.float32]
    grid: VoxelGrid
    remarks: tuple[str, ...] = ()
    nonfinite_voxels: int = 0
    form_distance_mm: float | None = None


def read_t1w(path: str | Path) -> T1w:
    """Read a T1-weighted image and check that it can show a brain.

    Parameters
    ----------
    path : path-like
        NIfTI image of any orientation, oblique or sheared, and of any type of real numbers; a
        fourth axis may have a length of one.

    Returns
    -------
    T1w
        Image with finite intensities, its grid, and remarks.

    Raises
    ------
    InputError
        If it is missing, unreadable or truncated, has more than one volume, no known orientation,
        an impossible size, or no content.
    """
    image, grid = open_image(path)
    with _errors_at(path):
        _check_data_type(image)
        _check_size(grid)
        distance, remarks = _compare_forms(image)
    if len(image.shape) > 3:
        remarks.append(f'shape {image.shape} taken as a single volume.')
    data, grid = load_image(path)
    invalid = ~np.isfinite(data)
    if invalid.any():
        remarks.append(f'{invalid.sum()} voxels are not finite and were set to 0.')
        data = np.where(invalid, np.float32(0), data)
    with _errors_at(path):
        _check_content(data)
    return T1w(
        data=data,
        grid=grid,
        remarks=tuple(f'{path}: {remark}' for remark in remarks),
        nonfinite_voxels=int(np.count_nonzero(invalid)),
        form_distance_mm=distance,
    )


@contextmanager
def _errors_at(path: str | Path) -> Iterator[None]:
    """Add the path to an `InputError` that is raised within."""
    try:
        yield
    except InputError as error:
        raise error.at(path) from None


def _check_data_type(image: SpatialImage) -> None:
    """Check that the voxels are real numbers."""
    kind = np.dtype(image.get_data_dtype()).kind
    if kind not in 'iufb':
        words = 'complex numbers' if kind == 'c' else 'colours'
        raise InputError(f'its voxels hold {words}', advice='give an image of real numbers')


def _check_size(grid: VoxelGrid) -> None:
    """Check that voxel size, extent and number of voxels are possible for a head."""
    sizes = ' x '.join(f'{size:.3g}' for size in grid.spacing)
    low, high = VOXEL_SIZE_MM
    if min(grid.spacing) < low or max(grid.spacing) > high:
        raise InputError(
            f'voxels of {sizes} mm are outside the {low:g} to {high:g} mm that head scans have',
            advice='correct the voxel size or its unit in the header',
        )
    extents = [size * number for size, number in zip(grid.spacing, grid.shape, strict=True)]
    low, high = EXTENT_MM
    if min(extents) < low or max(extents) > high or math.prod(grid.shape) > MAXIMUM_VOXELS:
        shape = ' x '.join(f'{number}' for number in grid.shape)
        raise InputError(
            f'a grid of {shape} voxels of {sizes} mm does not hold a head, which takes {low:g} to '
            f'{high:g} mm along each axis',
            advice='give a scan of the whole brain',
        )


def _compare_forms(image: SpatialImage) -> tuple[float | None, list[str]]:
    """Compare sform and qform; by the NIfTI standard the sform is used if its code is set.

    Parameters
    ----------
    image : SpatialImage
        Image as opened.

    Returns
    -------
    distance : float or None
        Largest distance between the positions of a voxel in mm, None if only one is valid.
    remarks : list of str
        A remark where they disagree or one is invalid.

    Raises
    ------
    InputError
        If neither code is set, so that left and right are unknown; without a path.
    """
    if not isinstance(image, nb.Nifti1Pair):
        return None, []
    if not (image.header['sform_code'] > 0 or image.header['qform_code'] > 0):
        raise InputError(
            'neither sform nor qform is set, so that left and right are unknown',
            advice='convert the image again from its source, or set its orientation',
        )
    try:
        forms = image.get_sform(coded=True)[0], image.get_qform(coded=True)[0]
    except (HeaderDataError, ValueError):
        return None, ['its qform is invalid; its sform is used.']
    if any(form is None for form in forms):
        return None, []
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in image.shape[:3]])).reshape(3, -1).T
    sform, qform = (nb.affines.apply_affine(form, corners) for form in forms)
    distance = float(np.linalg.norm(sform - qform, axis=1).max())
    if distance <= FORM_TOLERANCE_MM:
        return distance, []
    remark = f'sform and qform disagree by up to {distance:.1f} mm; the sform is used.'
    return distance, [remark]


def _check_content(data: NDArray[np.float32]) -> None:
    """Check that the image is neither constant nor binary."""
    low, high = data.min(), data.max()
    if low == high:
        raise InputError(f'every voxel is {low:g}', advice='give an image with content')
    if ((data == low) | (data == high)).all():
        raise InputError(
            f'it holds only the values {low:g} and {high:g}, as a mask does',
            advice='give the T1-weighted image',
        )

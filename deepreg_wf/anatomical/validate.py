"""Reading a T1-weighted image that comes from outside, and refusing what cannot be one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from deepreg_wf.errors import InputError
from deepreg_wf.spatial import VoxelGrid, load_image
from deepreg_wf.spatial.nifti import open_image

SPACING_MM = (0.2, 10.0)
"""Voxel sizes that a scan of a head can have; others are mostly of a wrong unit."""

EXTENT_MM = (80.0, 1000.0)
"""Extents that a field of view around a brain can have; brains are 95 mm high and more."""

VOXELS = 2**31
"""Most voxels that are read: more than a head at 0.2 mm has, less than fills a memory."""

DISAGREEMENT_MM = 1.0
"""Distance between the places that sform and qform give a voxel, from which it is told."""


@dataclass(frozen=True, kw_only=True)
class T1w:
    """A T1-weighted image that was read and found usable.

    Attributes
    ----------
    data : ndarray of float32, shape (X, Y, Z)
        Finite, in the storage order of the file.
    grid : VoxelGrid
    remarks : tuple of str
        What was made good or decided on the way.
    """

    data: NDArray[np.float32]
    grid: VoxelGrid
    remarks: tuple[str, ...] = ()


def read_t1w(path: str | Path) -> T1w:
    """Read a T1-weighted image and check that a brain can be in it.

    Parameters
    ----------
    path : path
        NIfTI image of any orientation, oblique or sheared, and of any type of real numbers; a
        fourth axis may have a length of one.

    Returns
    -------
    T1w

    Raises
    ------
    InputError
        If it is missing, unreadable, truncated, not of one volume, without a place in space, of
        impossible size, or without content.
    """
    image, grid = open_image(path)
    _check_type(image, path)
    _check_size(grid, path)
    remarks = [*_orientation_remarks(image, path)]
    if len(image.shape) > 3:
        remarks.append(f'{path}: shape {image.shape} taken as a single volume.')
    data, grid = load_image(path)
    invalid = ~np.isfinite(data)
    if invalid.any():
        remarks.append(f'{path}: {invalid.sum()} voxels are not finite and were set to 0.')
        data = np.where(invalid, np.float32(0), data)
    _check_content(data, path)
    return T1w(data=data, grid=grid, remarks=tuple(remarks))


def _check_type(image: Any, path: str | Path) -> None:
    kind = np.dtype(image.get_data_dtype()).kind
    if kind not in 'iufb':
        words = 'complex numbers' if kind == 'c' else 'colours'
        raise InputError(f'{path}: its voxels hold {words}; give an image of real numbers.')


def _check_size(grid: VoxelGrid, path: str | Path) -> None:
    sizes = ' x '.join(f'{size:.3g}' for size in grid.spacing)
    low, high = SPACING_MM
    if min(grid.spacing) < low or max(grid.spacing) > high:
        raise InputError(
            f'{path}: voxels of {sizes} mm are outside the {low:g} to {high:g} mm that scans of '
            'heads have; correct the voxel size or its unit in the header.'
        )
    extents = [size * number for size, number in zip(grid.spacing, grid.shape, strict=True)]
    low, high = EXTENT_MM
    if min(extents) < low or max(extents) > high or math.prod(grid.shape) > VOXELS:
        shape = ' x '.join(f'{number}' for number in grid.shape)
        raise InputError(
            f'{path}: a grid of {shape} voxels of {sizes} mm does not hold a head, which takes '
            f'{low:g} to {high:g} mm along each axis; give a scan of the whole brain.'
        )


def _orientation_remarks(image: Any, path: str | Path) -> list[str]:
    """Tell which of sform and qform counts, by the rule of NIfTI: the sform, if its code is set.

    Raises
    ------
    InputError
        If neither code is set, so that nobody knows left from right.
    """
    if not isinstance(image.header, nb.Nifti1Header):
        return []
    if not (image.header['sform_code'] > 0 or image.header['qform_code'] > 0):
        raise InputError(
            f'{path}: neither sform nor qform is set, so that left and right are unknown; '
            'convert the image again from its source, or set its orientation.'
        )
    try:
        forms = image.get_sform(coded=True)[0], image.get_qform(coded=True)[0]
    except (HeaderDataError, ValueError):
        return [f'{path}: its qform is invalid; its sform is used.']
    if any(form is None for form in forms):
        return []
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in image.shape[:3]])).reshape(3, -1).T
    sform, qform = (nb.affines.apply_affine(form, corners) for form in forms)
    apart = float(np.linalg.norm(sform - qform, axis=1).max())
    if apart <= DISAGREEMENT_MM:
        return []
    return [f'{path}: sform and qform disagree by up to {apart:.1f} mm; the sform is used.']


def _check_content(data: NDArray[np.float32], path: str | Path) -> None:
    low, high = data.min(), data.max()
    if low == high:
        raise InputError(f'{path}: every voxel is {low:g}; give an image with content.')
    if ((data == low) | (data == high)).all():
        raise InputError(
            f'{path}: it holds only the values {low:g} and {high:g}, as a mask does; '
            'give the T1-weighted image.'
        )

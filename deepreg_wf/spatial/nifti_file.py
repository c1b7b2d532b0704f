"""NIfTI files whose whole content is verified: header, extensions, size and checksum.

nibabel reads as much of a compressed file as it needs, so that the checksum at its end is never
compared; a flipped bit then changes voxels without an error. Here every compressed file is read
to its end, and memory is taken only for content that is present, whatever the header claims.
"""

# mypy: untyped-calls-exclude=nibabel

from __future__ import annotations

import gzip
import io
import math
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import nibabel as nb
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.imageglobals import LoggingOutputSuppressor
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from deepreg_wf.errors import InputError
from deepreg_wf.utils.regular_file import check_present

QUATERNION_TOLERANCE = 1e-3
"""Excess of the squared length of a quaternion over 1 that is normalised away.

nibabel accepts 3.6e-7, which the rounding of three numbers in single precision can exceed.
"""

_MAXIMUM_EXPANSION = 1032
"""Largest ratio of decompressed to compressed size that deflate allows (zlib documentation)."""

_CHUNK = 1 << 24
_GZIP_MAGIC = b'\x1f\x8b'


class _Header1(nb.Nifti1Header):
    quaternion_threshold = np.float64(QUATERNION_TOLERANCE)


class _Image1(nb.Nifti1Image):
    header_class = _Header1


class _Header2(nb.Nifti2Header):
    quaternion_threshold = np.float64(QUATERNION_TOLERANCE)


class _Image2(nb.Nifti2Image):
    header_class = _Header2


_VERSIONS: dict[int, type[nb.Nifti1Image]] = {348: _Image1, 540: _Image2}
"""Classes of nibabel by the size of the header, its first number."""

_NIBABEL_ERRORS = (
    HeaderDataError,
    ImageFileError,
    WrapStructError,
    ArithmeticError,
    EOFError,
    OSError,
    TypeError,
    ValueError,
)
"""Exceptions of nibabel for an invalid header."""


def is_nifti_name(path: str | Path) -> bool:
    """Return whether a file has the name of a NIfTI file, ``.nii`` or ``.nii.gz``."""
    return str(path).lower().endswith(('.nii', '.nii.gz'))


@dataclass(frozen=True)
class _Start:
    """Beginning of a NIfTI file.

    Attributes
    ----------
    image_class : type
        Class of nibabel for the version of the header.
    content : bytes
        Everything before the voxels.
    claimed : int
        Bytes of the decompressed file, as the header claims.
    """

    image_class: type[nb.Nifti1Image]
    content: bytes
    claimed: int


def open_nifti(path: str | Path) -> nb.Nifti1Image:
    """Open a NIfTI file without reading its voxels.

    Parameters
    ----------
    path : str or Path
        A single file, compressed or not, NIfTI-1 or NIfTI-2.

    Returns
    -------
    nibabel.Nifti1Image
        Image with its header; the size of the file fits the claims of the header as far as it
        can be known without decompression.

    Raises
    ------
    InputError
        If the file is not present, its header is invalid, or it is too short.
    """
    return _from_filename(_read_start(path), path)


def read_nifti(path: str | Path) -> nb.Nifti1Image:
    """Read a NIfTI file to its end and verify it.

    Parameters
    ----------
    path : str or Path
        As for `open_nifti`.

    Returns
    -------
    nibabel.Nifti1Image
        Image whose content is in memory if the file is compressed.

    Raises
    ------
    InputError
        As for `open_nifti`, and if the compressed data are damaged or truncated.
    """
    start = _read_start(path)
    if not _is_compressed(path):
        return _from_filename(start, path)
    content = io.BytesIO()
    try:
        with gzip.open(path, 'rb') as stream:
            while content.tell() < start.claimed:
                chunk = stream.read(min(_CHUNK, start.claimed - content.tell()))
                if not chunk:
                    raise _too_short(path, start.claimed)
                content.write(chunk)
            while chunk := stream.read(_CHUNK):  # the checksum is compared at the end
                if chunk.strip(b'\0'):
                    raise _too_long(path, start.claimed)
    except (OSError, EOFError, zlib.error):
        raise _damaged(path) from None
    content.seek(0)
    try:
        with LoggingOutputSuppressor():
            return start.image_class.from_stream(content)
    except _NIBABEL_ERRORS as error:
        raise _invalid(path, error) from None


def _from_filename(start: _Start, path: str | Path) -> nb.Nifti1Image:
    try:
        with LoggingOutputSuppressor():
            return start.image_class.from_filename(path)
    except _NIBABEL_ERRORS as error:
        raise _invalid(path, error) from None


def _read_start(path: str | Path) -> _Start:
    """Read everything before the voxels and compare the claims of the header with the file."""
    check_present(path)
    compressed = _is_compressed(path)
    if compressed != str(path).lower().endswith('.gz'):
        state = 'is compressed' if compressed else 'is not compressed'
        raise InputError(f'its content {state}, unlike its name', advice='rename it', path=path)
    try:
        with open(path, 'rb') as file:
            stream: IO[bytes] = gzip.GzipFile(fileobj=file) if compressed else file  # type: ignore[assignment]
            start = _parse_start(stream, path)
    except (OSError, EOFError, zlib.error):
        raise _damaged(path) from None
    size = os.path.getsize(path)
    if start.claimed > (size * _MAXIMUM_EXPANSION if compressed else size):
        raise _too_short(path, start.claimed)
    if not compressed and _has_content_after(path, start.claimed):
        raise _too_long(path, start.claimed)
    return start


def _parse_start(stream: IO[bytes], path: str | Path) -> _Start:
    raw = stream.read(348)
    sizes = (struct.unpack(order + 'i', raw[:4])[0] for order in '<>') if len(raw) == 348 else ()
    version = next((_VERSIONS[size] for size in sizes if size in _VERSIONS), None)
    if version is None:
        raise InputError(
            'it is not a NIfTI file', advice='check that it is one and is complete', path=path
        )
    raw += stream.read(version.header_class.sizeof_hdr - 348)
    try:
        with LoggingOutputSuppressor():
            header = version.header_class.from_fileobj(io.BytesIO(raw))
        shape = header.get_data_shape()
        voxels = math.prod(shape) * header.get_data_dtype().itemsize
    except _NIBABEL_ERRORS as error:
        raise _invalid(path, error) from None
    if min(shape, default=0) < 1:
        raise _invalid(path, f'it claims the shape {shape}')
    offset = _check_fields(header, path)
    extensions = stream.read(min(offset - len(raw), _CHUNK))
    if offset > len(raw) + len(extensions):
        raise _invalid(path, f'its voxels begin at byte {offset}, beyond the end of the file')
    _check_extensions(extensions, header.endianness, path)
    return _Start(version, raw + extensions, offset + voxels)


def _check_fields(header: nb.Nifti1Header, path: str | Path) -> int:
    """Check fields that nibabel takes as they are; return the position of the voxels."""
    fields = header.structarr
    if bytes(fields['magic'])[:3] not in (b'n+1', b'n+2'):
        raise _invalid(path, 'it lacks the mark of a single-file NIfTI image')
    offset = float(fields['vox_offset'])
    least = header.single_vox_offset
    if not (math.isfinite(offset) and least <= offset < 2**62):
        raise _invalid(path, f'it puts the voxels at byte {offset:g}, not at {least} or later')
    sizes = fields['pixdim'][1:4]
    if not np.isfinite(sizes).all():
        words = ' x '.join(f'{float(size):g}' for size in sizes)
        raise _invalid(path, f'it claims voxels of {words} mm')
    slope, intercept = float(fields['scl_slope']), float(fields['scl_inter'])
    # By the standard a slope of 0 means no scaling; nibabel and others also write NaN for it.
    if math.isinf(slope) or (slope != 0 and math.isfinite(slope) and not math.isfinite(intercept)):
        raise _invalid(path, f'it scales intensities by {slope:g} and adds {intercept:g}')
    return int(offset)


def _check_extensions(content: bytes, byte_order: str, path: str | Path) -> None:
    """Check that header extensions end before the voxels begin."""
    if len(content) < 4 or content[0] == 0:
        return
    if len(content) == 4:
        raise _invalid(path, 'it announces an extension, which is not there')
    position = 4
    while len(content) - position >= 16:
        size = int(np.frombuffer(content, byte_order + 'i4', 1, position)[0])
        if size < 8 or size > len(content) - position:
            raise _invalid(path, f'an extension claims {size} bytes, which are not there')
        position += size


def _has_content_after(path: str | Path, position: int) -> bool:
    """Return whether a file has bytes after a position that are not zero."""
    with open(path, 'rb') as file:
        file.seek(position)
        return any(chunk.strip(b'\0') for chunk in iter(lambda: file.read(1 << 16), b''))


def _is_compressed(path: str | Path) -> bool:
    with open(path, 'rb') as file:
        return file.read(2) == _GZIP_MAGIC


def _too_short(path: str | Path, claimed: int) -> InputError:
    return InputError(
        f'it is truncated: its header claims {claimed} bytes, more than there are',
        advice='restore it from its source',
        path=path,
    )


def _too_long(path: str | Path, claimed: int) -> InputError:
    return InputError(
        f'its header claims {claimed} bytes, fewer than there are',
        advice='convert the image again from its source',
        path=path,
    )


def _damaged(path: str | Path) -> InputError:
    return InputError(
        'its compressed data are damaged or truncated',
        advice='restore it from its source',
        path=path,
    )


def _invalid(path: str | Path, reason: object) -> InputError:
    words = ' '.join(str(reason).split()).rstrip('.')
    return InputError(
        f'its NIfTI header is invalid ({words})',
        advice='convert the image again from its source',
        path=path,
    )

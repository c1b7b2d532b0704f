"""Removal of the partial results of interrupted runs."""

from __future__ import annotations

import gzip
import math
import shutil
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from deepreg_wf.engine.worker import TEMPORARIES
from deepreg_wf.utils.atomic import remove_stale_temporaries


def remove_partial_results(
    output_dir: Path, workflow_dir: Path, participants: Iterable[str], images: Iterable[str]
) -> None:
    """Remove temporary files, and the steps in the work folder whose files are damaged.

    A process that is killed leaves temporary files, and steps that Nipype recognises as
    unfinished. A machine that loses its power may also leave files that look finished, because
    names can reach the disk before the content does. Nipype runs a removed step again.

    Parameters
    ----------
    output_dir : Path
        Folder of the derivatives.
    workflow_dir : Path
        Folder of the workflow in the work folder; it may be missing.
    participants : iterable of str
        Labels of the participants that this run has locked.
    images : iterable of str
        Names of the workflows of their images.
    """
    folders = [output_dir, output_dir / 'logs', output_dir / 'group']
    for label in participants:
        subject = output_dir / f'sub-{label}'
        folders += [subject, *(path for path in subject.rglob('*') if path.is_dir())]
    remove_stale_temporaries(folders)
    for name in images:
        steps = workflow_dir / name
        for folder in [*find_damaged_steps(steps), *steps.rglob(f'{TEMPORARIES}*')]:
            shutil.rmtree(folder, ignore_errors=True)


def find_damaged_steps(folder: Path) -> Iterator[Path]:
    """Find the folders of steps that have a result and a file that is incomplete.

    Parameters
    ----------
    folder : Path
        Folder to search, with all folders below it; it may be missing.

    Yields
    ------
    Path
        Folder of a step.
    """
    for result in folder.rglob('result_*.pklz'):
        files = [path for path in result.parent.iterdir() if path.is_file()]
        if not all(map(_is_complete, files)):
            yield result.parent


def _is_complete(path: Path) -> bool:
    """Check the ends of a file; large files are not read in full."""
    import h5py
    import nibabel as nb

    try:
        if path.suffix == '.pklz':
            with gzip.open(path) as file:
                return bool(file.read())
        if path.suffix == '.h5':
            with h5py.File(path):  # h5py compares the length with that in the header
                return True
        if path.name.endswith('.nii.gz'):
            return _uncompressed_size(path) == _nifti_size(path) % 2**32
        return path.stat().st_size > 0
    except (OSError, EOFError, zlib.error, nb.filebasedimages.ImageFileError):
        return False


def _uncompressed_size(path: Path) -> int:
    """Read the size in bytes, modulo 4 GiB, that the last four bytes of a gzip file give."""
    with path.open('rb') as file:
        file.seek(-4, 2)
        return int.from_bytes(file.read(), 'little')


def _nifti_size(path: Path) -> int:
    """Compute the size in bytes that an image has according to its header."""
    import nibabel as nb

    with gzip.open(path) as file:
        header = nb.Nifti1Header.from_fileobj(file, check=False)
    voxels = math.prod(int(n) for n in header.get_data_shape())
    return int(header.get_data_offset()) + voxels * int(header.get_data_dtype().itemsize)

"""What a run that was cut off has left behind, removed before the next one begins."""

from __future__ import annotations

import gzip
import math
import shutil
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from deepreg_wf.utils.atomic import remove_leftovers


def tidy(
    output_dir: Path, workflow_dir: Path, participants: Iterable[str], images: Iterable[str]
) -> None:
    """Remove half-written files and, from the work folder, steps whose files are damaged.

    A process that is killed leaves drafts, and steps that Nipype knows to be unfinished. A machine
    that loses its power may also leave files that look finished, for their names reach the disk
    before their bytes do; such a step is done again.

    Parameters
    ----------
    output_dir
        Folder of the derivatives.
    workflow_dir
        Folder of the workflow in the work folder; it may be missing.
    participants
        Labels of those that nobody else is at work on.
    images
        Names of their workflows.

    """
    folders = [output_dir, output_dir / 'logs', output_dir / 'group']
    for label in participants:
        subject = output_dir / f'sub-{label}'
        folders += [subject, *(path for path in subject.rglob('*') if path.is_dir())]
    remove_leftovers(folders)
    for name in images:
        for folder in list(damaged_steps(workflow_dir / name)):
            shutil.rmtree(folder, ignore_errors=True)


def damaged_steps(folder: Path) -> Iterator[Path]:
    """Find the folders of steps that have a result and files of which something is missing.

    Parameters
    ----------
    folder
        Looked through with all folders in it; it may be missing.

    Yields
    ------
    Path
        Folder of a step.

    """
    for result in folder.rglob('result_*.pklz'):
        files = [path for path in result.parent.iterdir() if path.is_file()]
        if not all(map(_is_whole, files)):
            yield result.parent


def _is_whole(path: Path) -> bool:
    """Tell from the ends of a file whether all of it is there; what is between is not read."""
    import h5py
    import nibabel as nb

    try:
        if path.suffix == '.pklz':
            with gzip.open(path) as file:
                return bool(file.read())
        if path.suffix == '.h5':
            with h5py.File(path):  # which compares its length with what it should be
                return True
        if path.name.endswith('.nii.gz'):
            return _length(path) == _length_by_header(path) % 2**32
        return path.stat().st_size > 0
    except (OSError, EOFError, zlib.error, nb.filebasedimages.ImageFileError):
        return False


def _length(path: Path) -> int:
    """Bytes in a gzip file, modulo 4 GiB, as its end has it."""
    with path.open('rb') as file:
        file.seek(-4, 2)
        return int.from_bytes(file.read(), 'little')


def _length_by_header(path: Path) -> int:
    import nibabel as nb

    with gzip.open(path) as file:
        header = nb.Nifti1Header.from_fileobj(file, check=False)
    voxels = math.prod(int(n) for n in header.get_data_shape())
    return int(header.get_data_offset()) + voxels * int(header.get_data_dtype().itemsize)

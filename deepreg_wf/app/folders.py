"""Checks of the folders and files of a call, before anything runs."""

from __future__ import annotations

import os
from pathlib import Path

from deepreg_wf.errors import InputError
from deepreg_wf.settings import Selection, Settings
from deepreg_wf.utils.json_file import read_json_object


def check_folders(settings: Settings) -> None:
    """Check that the folders of a call exist and do not overlap; write nothing.

    Parameters
    ----------
    settings : Settings
        Settings of the call.

    Raises
    ------
    InputError
        If a folder or file is missing, or would be written over the dataset.
    """
    selection, output_dir = settings.selection, settings.output.output_dir
    _check_dataset(selection)
    _check_location('output', output_dir, selection.bids_dir)
    _check_location('work', settings.execution.work_dir, selection.bids_dir)
    for path in (selection.bids_filter_file, settings.execution.use_plugin):
        if path is not None and not path.is_file():
            raise InputError('no such file', advice='give one that exists', path=path)


def make_writable(folder: Path) -> None:
    """Make a folder, and check that files can be written in it.

    Parameters
    ----------
    folder : Path
        The folder; it may exist.

    Raises
    ------
    InputError
        If it cannot be written.
    """
    probe = folder / f'.deepreg_wf-{os.getpid()}'
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f'cannot be written ({error.strerror})', advice='give another folder', path=folder
        ) from error


def _check_dataset(selection: Selection) -> None:
    root = selection.bids_dir
    if not root.is_dir():
        raise InputError('no such folder', advice='give the root of a BIDS dataset', path=root)
    if selection.skip_bids_validation:
        return
    description = root / 'dataset_description.json'
    if not description.is_file():
        raise InputError(
            'not a BIDS dataset, because it has no dataset_description.json',
            advice='give the folder that has one',
            path=root,
        )
    content = read_json_object(description)
    absent = [key for key in ('Name', 'BIDSVersion') if key not in content]
    if absent:
        raise InputError(
            f'has no {" and no ".join(absent)}',
            advice='add it, or pass --skip-bids-validation',
            path=description,
        )


def _check_location(kind: str, folder: Path, bids_dir: Path) -> None:
    """Check that nothing is written over the dataset, or in it outside of its derivatives."""
    place, dataset = folder.resolve(), bids_dir.resolve()
    if place == dataset:
        problem = f'the {kind} folder is the input folder'
    elif kind == 'output' and place in dataset.parents:
        problem = 'the output folder contains the input folder'
    elif dataset in place.parents and dataset / 'derivatives' not in place.parents:
        problem = f'the {kind} folder lies in the input folder, outside of its derivatives'
    else:
        return
    suggestion = bids_dir / 'derivatives' / 'deepreg_wf'
    raise InputError(problem, advice=f'give another folder, such as {suggestion}', path=folder)

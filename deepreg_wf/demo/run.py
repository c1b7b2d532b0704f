"""Steps of the demonstration before and after the registration."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from deepreg_wf.demo.accuracy import registration_errors
from deepreg_wf.demo.dataset import (
    SUBJECTS,
    SyntheticSubject,
    brain_points,
    write_demo_dataset,
)
from deepreg_wf.demo.true_transform import TrueTransform
from deepreg_wf.errors import InputError
from deepreg_wf.templates.spaces import BUNDLED

_FOLDERS = {'bids', 'derivatives', 'truth', 'work'}
"""Content of the folder of a demonstration."""


def prepare_folder(folder: Path) -> None:
    """Make the folder of a demonstration; that of an earlier demonstration is used again.

    Parameters
    ----------
    folder : Path

    Raises
    ------
    InputError
        If it cannot be made, or contains other files.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        content = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise InputError(
            f'not a usable folder ({error.strerror})', advice='give another', path=folder
        ) from error
    if not content <= _FOLDERS:
        raise InputError('the folder contains other files', advice='give a new one', path=folder)


def make_dataset(folder: Path) -> dict[str, TrueTransform]:
    """Write the dataset, and print a line about each subject.

    Parameters
    ----------
    folder : Path
        Folder of the demonstration.

    Returns
    -------
    dict of str to TrueTransform
        True transforms by the labels of the participants.
    """
    print(f'Making {len(SUBJECTS)} synthetic subjects in {folder / "bids"}', flush=True)
    truths = {}
    for subject, truth in write_demo_dataset(
        folder / 'bids', folder / 'truth', cache_dir=folder / 'work' / 'templates'
    ):
        truths[subject.label] = truth
        print(_describe(subject, truth), flush=True)
    return truths


def _describe(subject: SyntheticSubject, truth: TrueTransform) -> str:
    size = ' x '.join(f'{h:g}' for h in subject.spacing)
    oblique = ', oblique' if any(subject.oblique) else ''
    return (
        f'  sub-{subject.label}: {subject.orientation}{oblique}, {size} mm; moved by an affine '
        f'and a geodesic of {truth.mean_displacement:.1f} mm on average in the brain, '
        f'{truth.max_displacement:.1f} mm at most'
    )


def print_errors(folder: Path, truths: Mapping[str, TrueTransform]) -> None:
    """Print the errors of the registrations, and the paths of the reports.

    Parameters
    ----------
    folder : Path
        Folder of the demonstration.
    truths : mapping of str to TrueTransform
        True transforms by the labels of the participants.
    """
    derivatives = folder / 'derivatives'
    points = brain_points(folder / 'work' / 'templates')
    print('\nDistance of brain points from their true place, mean / 95th percentile in mm')
    print(f'{"":8}{"header":>14}{"affine":>14}{"registration":>14}')
    for label, truth in truths.items():
        anat = derivatives / f'sub-{label}' / 'anat'
        transform = anat / f'sub-{label}_from-T1w_to-{BUNDLED}_mode-image_xfm.h5'
        if not transform.is_file():
            print(f'sub-{label}  no transform: see {derivatives}')
            continue
        errors = registration_errors(transform, truth, points).values()
        print(f'sub-{label:4}' + ''.join(f'{e.mean:8.2f} /{e.p95:5.2f}' for e in errors))
    for label in truths:
        report = derivatives / f'sub-{label}.html'
        if report.is_file():
            print(f'Report: {os.path.relpath(report)}')

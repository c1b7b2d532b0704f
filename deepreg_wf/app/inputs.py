"""The images of a call, found before anything runs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from deepreg_wf.bids.entities import derivative_path, parse_entities
from deepreg_wf.bids.lesions import find_lesion_masks
from deepreg_wf.bids.precomputed import Precomputed, find_precomputed, parse_derivatives_folders
from deepreg_wf.errors import InputError
from deepreg_wf.settings import Selection
from deepreg_wf.utils.json_file import read_json
from deepreg_wf.utils.regular_file import check_regular_file

UNREADABLE = 'the folder may not be read', 'change its permissions'
"""Problem and advice for a folder that is closed to this user."""

_MAX_LISTED = 20
_NOT_PARTICIPANTS = re.compile(r'^/(?!sub-[^/]+(/|$))')
_NOT_ANATOMICAL = re.compile(r'^/sub-[^/]+(/ses-[^/]+)?/(?!anat(/|$)|ses-[^/]+(/|$))[^/]+$')


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Images of a run, and the files that belong to them.

    Parameters
    ----------
    subjects : mapping of str to tuple of Path
        T1-weighted images of each participant that has any, by label.
    without_t1w : tuple of str
        Labels of the participants that have none.
    unreadable : mapping of str to Path
        First folder that may not be read, by label; no image of these participants is used.
    derivatives : mapping of str to Path
        Folders of precomputed derivatives, by name.
    precomputed : mapping of Path to Precomputed
        Precomputed derivatives of each image that has any.
    lesions : mapping of Path to Path
        Lesion mask of each image that has one.
    rejected : mapping of Path to InputError
        Reason of each selected image that cannot be used; it is not among the others.
    """

    subjects: Mapping[str, tuple[Path, ...]]
    without_t1w: tuple[str, ...] = ()
    unreadable: Mapping[str, Path] = field(default_factory=dict)
    derivatives: Mapping[str, Path] = field(default_factory=dict)
    precomputed: Mapping[Path, Precomputed] = field(default_factory=dict)
    lesions: Mapping[Path, Path] = field(default_factory=dict)
    rejected: Mapping[Path, InputError] = field(default_factory=dict)

    @property
    def images(self) -> list[Path]:
        """Images of all participants."""
        return [path for paths in self.subjects.values() for path in paths]


def find_inputs(selection: Selection) -> Inputs:
    """Find the T1-weighted images that a call selects.

    Parameters
    ----------
    selection : Selection
        Settings that select images.

    Returns
    -------
    Inputs
        At least one image, which may be rejected: one with an invalid name, or whose content or
        lesion mask is missing, keeps no other image from being processed.

    Raises
    ------
    InputError
        If a participant is unknown, no image is selected, two images would have derivatives of
        the same name, or a folder of precomputed derivatives has nothing for any image.
    """
    unreadable = _unreadable(selection, _participants(selection))
    participants = [label for label in _participants(selection) if label not in unreadable]
    found = _query(selection, participants) if participants else []
    if unreadable and not found:
        problem, advice = UNREADABLE
        raise InputError(problem, advice=advice, path=next(iter(unreadable.values())))
    if not found:
        raise _no_images(selection, participants)
    lesions = find_lesion_masks(found)
    rejected = _rejected(selection, found, lesions)
    usable = [path for path in found if path not in rejected]
    _check_collisions(usable)
    subjects: dict[str, tuple[Path, ...]] = {}
    for path in usable:
        label = parse_entities(path)['subject']
        subjects[label] = (*subjects.get(label, ()), path)
    selected = {path.name.partition('_')[0].removeprefix('sub-') for path in found}
    folders = parse_derivatives_folders(selection.derivatives)
    return Inputs(
        subjects=subjects,
        without_t1w=tuple(label for label in participants if label not in selected),
        unreadable=unreadable,
        derivatives=folders,
        precomputed=find_precomputed(usable, folders) if usable else {},
        lesions={image: mask for image, mask in lesions.items() if image not in rejected},
        rejected=rejected,
    )


def participants_with_image(selection: Selection) -> tuple[list[str], list[str]]:
    """Find the participants that have an image, by the names in their folders alone.

    Parameters
    ----------
    selection : Selection
        Settings that select images.

    Returns
    -------
    with_image : list of str
        Labels of the participants that have an image, were given by name, or have a folder that
        may not be read.
    without_image : list of str
        Labels of the other participants.

    Raises
    ------
    InputError
        If a participant is unknown, or none has an image.
    """
    labels = _participants(selection)
    kept = {*selection.participant_label, *_unreadable(selection, labels)}

    def has_image(label: str) -> bool:
        folder = selection.bids_dir / f'sub-{label}'
        images = (folder.glob(f'{inner}anat/*_T1w.nii*') for inner in ('', 'ses-*/'))
        return label in kept or any(map(any, images))

    with_image = [label for label in labels if has_image(label)]
    if not with_image:
        raise _no_images(selection, labels)
    return with_image, [label for label in labels if label not in with_image]


def _participants(selection: Selection) -> list[str]:
    """List the labels that the call selects, in order; each has a folder in the dataset."""
    folders = selection.bids_dir.glob('sub-*')
    present = sorted(path.name.removeprefix('sub-') for path in folders if path.is_dir())
    unknown = [label for label in selection.participant_label if label not in present]
    if unknown:
        raise InputError(
            f'no participant {_listed(unknown)} in this dataset',
            advice=f'it has {_listed(present) or "none"}',
            path=selection.bids_dir,
        )
    return list(dict.fromkeys(selection.participant_label)) or present


def _unreadable(selection: Selection, participants: Iterable[str]) -> dict[str, Path]:
    """Find the first folder of each participant that may not be read, if there is one."""
    found = {}
    for label in participants:
        root = selection.bids_dir / f'sub-{label}'
        folders = chain([root], *(root.glob(name) for name in ('anat', 'ses-*', 'ses-*/anat')))
        closed = (path for path in folders if not os.access(path, os.R_OK | os.X_OK))
        if first := next(closed, None):
            found[label] = first
    return found


def _query(selection: Selection, participants: Sequence[str]) -> list[Path]:
    """Query pybids for the images; sort them by name.

    Phase, real and imaginary images are selected only by a filter on ``part``, as in niworkflows.
    """
    from bids.exceptions import BIDSEntityError

    filters = {'suffix': 'T1w', 'extension': ['.nii', '.nii.gz'], 'datatype': 'anat'}
    filters |= _read_filters(selection.bids_filter_file)
    if selection.session_label:
        filters['session'] = list(selection.session_label)
    layout = _layout(selection, participants)
    try:
        files = layout.get(subject=list(participants), return_type='filename', **filters)
    except Exception as error:
        # A filter can raise errors of SQLite, too. Without filters an error is a fault of ours.
        if selection.bids_filter_file is None and not isinstance(error, BIDSEntityError):
            raise
        raise InputError(
            f'the filters cannot be used ({_first_line(error)})',
            advice='correct them',
            path=selection.bids_filter_file,
        ) from error
    images = sorted(Path(file) for file in files)
    return images if 'part' in filters else [path for path in images if not _is_part(path)]


def _is_part(path: Path) -> bool:
    """Return whether an image is the phase, real or imaginary part of a complex image."""
    return re.search(r'_part-(?!mag(_|$))', path.name) is not None


def _layout(selection: Selection, participants: Sequence[str]) -> Any:
    """Index the anatomical folders; only those of these participants, unless there is a database.

    Indexing few participants is quicker. A database serves later calls, and so needs them all.
    """
    from bids.layout import BIDSLayout, BIDSLayoutIndexer

    ignore = [_NOT_PARTICIPANTS, _NOT_ANATOMICAL]
    if selection.bids_database_dir is None:
        ignore.append(re.compile(rf'^/sub-(?!({"|".join(map(re.escape, participants))})(/|$))'))

    def build(reset: bool) -> Any:
        return BIDSLayout(
            selection.bids_dir,
            validate=False,
            database_path=selection.bids_database_dir,
            reset_database=reset,
            indexer=BIDSLayoutIndexer(validate=False, index_metadata=False, ignore=ignore),
        )

    layout = build(reset=False)
    if Path(layout.root).resolve() != selection.bids_dir.resolve():
        raise InputError(
            f'a database of another dataset, {layout.root}',
            advice='give another folder',
            path=selection.bids_database_dir,
        )
    if selection.bids_database_dir is not None and _is_stale(layout, selection.bids_dir):
        try:
            return build(reset=True)
        except Exception as error:  # of SQLAlchemy, which is a dependency of pybids alone
            raise InputError(
                f'the database is older than the dataset and cannot be renewed ({error})',
                advice='remove it, or give another folder',
                path=selection.bids_database_dir,
            ) from error
    return layout


def _is_stale(layout: Any, root: Path) -> bool:
    """Return whether a database lists other T1-weighted images than the dataset has."""
    listed = layout.get(suffix='T1w', extension=['.nii', '.nii.gz'], return_type='filename')
    present = (
        path
        for inner in ('', 'ses-*/')
        for path in root.glob(f'sub-*/{inner}anat/*_T1w.nii*')
        if path.name.endswith(('.nii', '.nii.gz'))
    )
    return {Path(path).name for path in listed} != {path.name for path in present}


def _read_filters(path: Path | None) -> dict[str, Any]:
    """Read the filters of T1-weighted images.

    As in fMRIPrep, null selects images without an entity, and "*" those that have it.
    """
    if path is None:
        return {}
    from bids.layout import Query

    def read(value: Any) -> Any:
        if isinstance(value, list):
            return [read(item) for item in value]
        return Query.NONE if value is None else Query.ANY if value == '*' else value

    try:
        content = read_json(path)
        filters = {name: read(value) for name, value in content.get('t1w', {}).items()}
    except AttributeError as error:
        raise InputError(
            'not a filter file',
            advice='write JSON such as {"t1w": {"session": "1"}}',
            path=path,
        ) from error
    if filters.get('regex_search'):
        _check_patterns(filters, path)
    # Keys of other programs are allowed, but this one would silently select all images.
    if wrong := [name for name in content if name.lower() == 't1w' and name != 't1w']:
        raise InputError(f'the key is "t1w", not "{wrong[0]}"', advice='correct it', path=path)
    return filters


def _check_patterns(filters: Mapping[str, Any], path: Path) -> None:
    """Check that the values of filters are regular expressions, as pybids takes them."""
    for name, value in filters.items():
        patterns = value if isinstance(value, list) else [value]
        try:
            for pattern in filter(_is_text, patterns):
                re.compile(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            raise InputError(
                f'{name}: {pattern!r} is not a regular expression ({_first_line(error)})',
                advice='correct it',
                path=path,
            ) from error


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _no_images(selection: Selection, participants: Sequence[str]) -> InputError:
    asked = _listed([f'sub-{label}' for label in participants]) or 'any participant'
    if selection.session_label:
        asked += f' in session {_listed(selection.session_label)}'
    if selection.bids_filter_file:
        asked += f' under the filters of {selection.bids_filter_file.name}'
    return InputError(
        f'no T1-weighted image (anat/*_T1w.nii or .nii.gz) for {asked}',
        advice='choose others',
        path=selection.bids_dir,
    )


def _rejected(
    selection: Selection, images: Sequence[Path], lesions: Mapping[Path, Path]
) -> dict[Path, InputError]:
    """Find the images whose name is invalid, or whose content or lesion mask is missing."""
    errors = {path: _error_of(path, selection, lesions.get(path)) for path in images}
    return {path: error for path, error in errors.items() if error is not None}


def _error_of(path: Path, selection: Selection, lesion: Path | None) -> InputError | None:
    try:
        parse_entities(path)
        name = f'/{path.relative_to(selection.bids_dir).as_posix()}'
        if not selection.skip_bids_validation and not _validator().is_bids(name):
            raise InputError(
                'not a name that BIDS allows',
                advice='rename it, or pass --skip-bids-validation',
                path=path,
            )
        check_regular_file(path)
        if lesion is not None:
            check_regular_file(lesion)
    except InputError as error:
        return error
    return None


@cache
def _validator() -> Any:
    """Return the validator of file names, which compiles its rules when it is made."""
    from bids_validator import BIDSValidator

    return BIDSValidator()


def _check_collisions(paths: Iterable[Path]) -> None:
    owners: dict[Path, Path] = {}
    for path in paths:
        first = owners.setdefault(derivative_path(path, desc='preproc', suffix='T1w'), path)
        if first is not path:
            raise InputError(
                f'its derivatives would have the names of those of {first.name}',
                advice='rename or leave out one of them',
                path=path,
            )


def _listed(labels: Sequence[str]) -> str:
    shown = ', '.join(labels[:_MAX_LISTED])
    return f'{shown} and {len(labels) - _MAX_LISTED} more' if len(labels) > _MAX_LISTED else shown


def _first_line(error: BaseException) -> str:
    return str(error).strip().split('\n')[0].rstrip('.')

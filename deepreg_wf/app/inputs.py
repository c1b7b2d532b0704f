"""What a call is about: its folders are checked and its images found before anything runs."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from deepreg_wf.bids.entities import derivative_path, parse_entities
from deepreg_wf.bids.lesions import find_lesions
from deepreg_wf.bids.precomputed import Precomputed, find_precomputed, read_folders
from deepreg_wf.errors import InputError
from deepreg_wf.settings import Selection, Settings

MAY_NOT_BE_READ = 'the folder may not be read; change its permissions'
_MANY = 20
_BARE_SIBLINGS = re.compile(r'^/(?!sub-[^/]+(/|$))')
_OTHER_DATATYPES = re.compile(r'^/sub-[^/]+(/ses-[^/]+)?/(?!anat(/|$)|ses-[^/]+(/|$))[^/]+$')


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The images of a run.

    Parameters
    ----------
    subjects
        T1-weighted images of each participant that has any.
    without_t1w
        Participants that have none.
    unreadable
        Folder that may not be read, of each participant that has one; no image of theirs is here.
    derivatives
        Folders of derivatives by name.
    precomputed
        What is taken from there, by image.
    lesions
        Masks of lesions, by image.

    """

    subjects: Mapping[str, tuple[Path, ...]]
    without_t1w: tuple[str, ...] = ()
    unreadable: Mapping[str, Path] = field(default_factory=dict)
    derivatives: Mapping[str, Path] = field(default_factory=dict)
    precomputed: Mapping[Path, Precomputed] = field(default_factory=dict)
    lesions: Mapping[Path, Path] = field(default_factory=dict)

    @property
    def images(self) -> list[Path]:
        """All images."""
        return [path for paths in self.subjects.values() for path in paths]


def check_folders(settings: Settings) -> None:
    """See that the folders of a call are what they should be; nothing is made or written.

    Parameters
    ----------
    settings
        Of the call.

    Raises
    ------
    InputError
        If one is missing, or in the place of another.

    """
    selection, output_dir = settings.selection, settings.output.output_dir
    _check_dataset(selection)
    _check_place('output', output_dir, selection.bids_dir)
    _check_place('work', settings.execution.work_dir, selection.bids_dir)
    for path in (selection.bids_filter_file, settings.execution.use_plugin):
        if path is not None and not path.is_file():
            raise InputError(f'{path}: no such file; give one that is there.')


def make_writable(folder: Path) -> None:
    """Make a folder, and see that it can be written.

    Parameters
    ----------
    folder
        It may exist.

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
            f'{folder}: cannot be written ({error.strerror}); give another folder.'
        ) from error


def find_inputs(selection: Selection) -> Inputs:
    """Find the T1-weighted images that a call selects.

    Parameters
    ----------
    selection
        Of the call.

    Returns
    -------
    Inputs
        At least one image.

    Raises
    ------
    InputError
        If a participant is unknown, no image is left, two of them would give derivatives of the
        same name, or a folder of derivatives has nothing for any.

    """
    unreadable = _unreadable(selection, _participants(selection))
    participants = [label for label in _participants(selection) if label not in unreadable]
    found = _query(selection, participants) if participants else []
    if unreadable and not found:
        raise InputError(f'{next(iter(unreadable.values()))}: {MAY_NOT_BE_READ}.')
    if not found:
        raise InputError(_no_images(selection, participants))
    if not selection.skip_bids_validation:
        _check_names(selection.bids_dir, found)
    _check_collisions(found)
    subjects: dict[str, tuple[Path, ...]] = {}
    for path in found:
        label = parse_entities(path)['subject']
        subjects[label] = (*subjects.get(label, ()), path)
    lacking = tuple(label for label in participants if label not in subjects)
    folders = read_folders(selection.derivatives)
    return Inputs(
        subjects=subjects,
        without_t1w=lacking,
        unreadable=unreadable,
        derivatives=folders,
        precomputed=find_precomputed(found, folders),
        lesions=find_lesions(found),
    )


def participants_with_image(selection: Selection) -> tuple[list[str], list[str]]:
    """Look which participants have an image, without a look at the images or their names.

    Parameters
    ----------
    selection
        Of the call.

    Returns
    -------
    tuple of list of str
        Labels of those that have one, were asked for by name or may not be looked into, and of the
        others.

    Raises
    ------
    InputError
        If a participant is unknown, or none has an image.

    """
    labels = _participants(selection)
    chosen = {*selection.participant_label, *_unreadable(selection, labels)}

    def is_wanted(label: str) -> bool:
        folder = selection.bids_dir / f'sub-{label}'
        images = (folder.glob(f'{inner}anat/*_T1w.nii*') for inner in ('', 'ses-*/'))
        return label in chosen or any(map(any, images))

    wanted = [label for label in labels if is_wanted(label)]
    if not wanted:
        raise InputError(_no_images(selection, labels))
    return wanted, [label for label in labels if label not in wanted]


def _check_dataset(selection: Selection) -> None:
    root = selection.bids_dir
    if not root.is_dir():
        raise InputError(f'{root}: no such folder; give the root of a BIDS dataset.')
    if selection.skip_bids_validation:
        return
    description = root / 'dataset_description.json'
    if not description.is_file():
        raise InputError(
            f'{root}: not a BIDS dataset, for it has no dataset_description.json; '
            'give the folder that has one.'
        )
    try:
        content = json.loads(description.read_text(encoding='utf-8'))
        absent = [key for key in ('Name', 'BIDSVersion') if key not in content]
    except (OSError, UnicodeDecodeError, ValueError, TypeError) as error:
        raise InputError(f'{description}: not valid JSON; mend it.') from error
    if absent:
        raise InputError(
            f'{description}: has no {" and no ".join(absent)}; '
            'add it, or pass --skip-bids-validation.'
        )


def _check_place(what: str, folder: Path, bids_dir: Path) -> None:
    """Nothing may be written over the input, or among it outside of its derivatives."""
    place, data = folder.resolve(), bids_dir.resolve()
    suggestion = f'give another folder, such as {bids_dir / "derivatives" / "deepreg_wf"}'
    if place == data:
        raise InputError(f'{folder}: the {what} folder is the input folder; {suggestion}.')
    if what == 'output' and place in data.parents:
        raise InputError(f'{folder}: the output folder holds the input folder; {suggestion}.')
    if data in place.parents and data / 'derivatives' not in place.parents:
        raise InputError(
            f'{folder}: the {what} folder lies in the input folder, outside of its derivatives; '
            f'{suggestion}.'
        )


def _participants(selection: Selection) -> list[str]:
    """Labels that the call selects, in order; each is a folder of the dataset."""
    folders = selection.bids_dir.glob('sub-*')
    present = sorted(path.name.removeprefix('sub-') for path in folders if path.is_dir())
    unknown = [label for label in selection.participant_label if label not in present]
    if unknown:
        raise InputError(
            f'{selection.bids_dir}: no participant {_listed(unknown)} in this dataset; '
            f'it has {_listed(present) or "none"}.'
        )
    return list(dict.fromkeys(selection.participant_label)) or present


def _unreadable(selection: Selection, participants: Iterable[str]) -> dict[str, Path]:
    """The first folder of each participant that may not be looked into, if there is one."""
    found = {}
    for label in participants:
        root = selection.bids_dir / f'sub-{label}'
        folders = chain([root], *(root.glob(name) for name in ('anat', 'ses-*', 'ses-*/anat')))
        closed = (path for path in folders if not os.access(path, os.R_OK | os.X_OK))
        if first := next(closed, None):
            found[label] = first
    return found


def _query(selection: Selection, participants: Sequence[str]) -> list[Path]:
    """Ask pybids for the images, in the order of their names."""
    from bids.exceptions import BIDSEntityError

    filters = {'suffix': 'T1w', 'extension': ['.nii', '.nii.gz'], 'datatype': 'anat'}
    filters |= _read_filters(selection.bids_filter_file)
    if selection.session_label:
        filters['session'] = list(selection.session_label)
    layout = _layout(selection, participants)
    try:
        files = layout.get(subject=list(participants), return_type='filename', **filters)
    except (BIDSEntityError, ValueError, TypeError) as error:
        raise InputError(
            f'{selection.bids_filter_file}: the filters cannot be used ({_first_line(error)}); '
            'mend them.'
        ) from error
    return sorted(Path(file) for file in files)


def _layout(selection: Selection, participants: Sequence[str]) -> Any:
    """Index the anatomical folders and nothing else, of these participants where it is quicker."""
    from bids.layout import BIDSLayout, BIDSLayoutIndexer

    ignore = [_BARE_SIBLINGS, _OTHER_DATATYPES]
    if selection.bids_database_dir is None:
        ignore.append(re.compile(rf'^/sub-(?!({"|".join(map(re.escape, participants))})(/|$))'))
    layout = BIDSLayout(
        selection.bids_dir,
        validate=False,
        database_path=selection.bids_database_dir,
        indexer=BIDSLayoutIndexer(validate=False, index_metadata=False, ignore=ignore),
    )
    if Path(layout.root).resolve() != selection.bids_dir.resolve():
        raise InputError(
            f'{selection.bids_database_dir}: a database of another dataset, {layout.root}; '
            'give another folder.'
        )
    return layout


def _read_filters(path: Path | None) -> dict[str, Any]:
    """Filters of T1-weighted images; as in fMRIPrep null is "has none" and "*" is "has any"."""
    if path is None:
        return {}
    from bids.layout import Query

    def read(value: Any) -> Any:
        if isinstance(value, list):
            return [read(item) for item in value]
        return Query.NONE if value is None else Query.ANY if value == '*' else value

    try:
        content = json.loads(path.read_text(encoding='utf-8'))
        filters = {name: read(value) for name, value in content.get('t1w', {}).items()}
    except (OSError, UnicodeDecodeError, ValueError, AttributeError) as error:
        raise InputError(
            f'{path}: not a filter file; write JSON such as {{"t1w": {{"session": "1"}}}}.'
        ) from error
    # Keys of other programs may be there, but this one would silently change nothing.
    if wrong := [name for name in content if name.lower() == 't1w' and name != 't1w']:
        raise InputError(f'{path}: the key is "t1w", not "{wrong[0]}"; correct it.')
    return filters


def _no_images(selection: Selection, participants: Sequence[str]) -> str:
    asked = _listed([f'sub-{label}' for label in participants]) or 'anybody'
    if selection.session_label:
        asked += f' in session {_listed(selection.session_label)}'
    if selection.bids_filter_file:
        asked += f' under the filters of {selection.bids_filter_file.name}'
    return (
        f'{selection.bids_dir}: no T1-weighted image (anat/*_T1w.nii or .nii.gz) for {asked}; '
        'choose others.'
    )


def _check_names(root: Path, paths: Iterable[Path]) -> None:
    from bids_validator import BIDSValidator

    validator = BIDSValidator()
    for path in paths:
        if not validator.is_bids(f'/{path.relative_to(root).as_posix()}'):
            raise InputError(
                f'{path}: not a name that BIDS allows; rename it, or pass --skip-bids-validation.'
            )


def _check_collisions(paths: Iterable[Path]) -> None:
    owners: dict[Path, Path] = {}
    for path in paths:
        first = owners.setdefault(derivative_path(path, desc='preproc', suffix='T1w'), path)
        if first is not path:
            raise InputError(
                f'{path}: its derivatives would have the names of those of {first.name}; '
                'rename or leave out one of them.'
            )


def _listed(labels: Sequence[str]) -> str:
    shown = ', '.join(labels[:_MANY])
    return f'{shown} and {len(labels) - _MANY} more' if len(labels) > _MANY else shown


def _first_line(error: BaseException) -> str:
    return str(error).strip().split('\n')[0].rstrip('.')

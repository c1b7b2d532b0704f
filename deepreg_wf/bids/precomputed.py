"""Precomputed brain masks and preprocessed images of other programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepreg_wf.bids.entities import bids_uri, parse_entities
from deepreg_wf.errors import InputError
from deepreg_wf.settings.validation import absolute_path

_MASK, _T1W = 'desc-brain_mask', 'desc-preproc_T1w'


@dataclass(frozen=True, kw_only=True)
class Precomputed:
    """Precomputed files of one image.

    Attributes
    ----------
    mask : Path, optional
        Brain mask.
    t1w : Path, optional
        T1-weighted image, corrected for intensity non-uniformity.
    sources : tuple of str
        BIDS URIs of these files.
    """

    mask: Path | None = None
    t1w: Path | None = None
    sources: tuple[str, ...] = ()


NO_PRECOMPUTED = Precomputed()
"""No precomputed files."""


def parse_derivatives_folders(arguments: Iterable[str]) -> dict[str, Path]:
    """Parse folders of derivatives, written as ``NAME=PATH`` or ``PATH`` as in fMRIPrep.

    Parameters
    ----------
    arguments : iterable of str
        Arguments of the command line.

    Returns
    -------
    dict of str to Path
        Folders by name; without a name, the name of the folder is used.

    Raises
    ------
    InputError
        If a folder does not exist, or two folders have the same name.
    """
    folders: dict[str, Path] = {}
    for argument in arguments:
        name, equals, path = argument.rpartition('=')
        folder = absolute_path(path)
        if not path or not folder.is_dir():
            raise InputError(
                f'{argument!r}: no such folder of derivatives', advice='give one that exists'
            )
        name = name if equals else folder.name
        if not name.isalnum() or name in ('raw', 'templateflow') or name in folders:
            raise InputError(
                f'{argument}: {name!r} is taken, or has other characters than letters and digits',
                advice='give the derivatives another name, as in fmriprep=PATH',
            )
        folders[name] = folder
    return folders


def find_precomputed(
    images: Sequence[Path], folders: Mapping[str, Path]
) -> dict[Path, Precomputed]:
    """Find masks and preprocessed images in folders of derivatives.

    A file belongs to an image if it has the session of the image and no entity that the image
    lacks. It may lack entities, because fMRIPrep omits the run if there is only one. If a
    participant has several images in a session, the entities must be equal, because a file with
    fewer entities was merged from several images and is not aligned with any of them.

    Parameters
    ----------
    images : sequence of Path
        Raw images.
    folders : mapping of str to Path
        Folders of derivatives by name. For each image, the first folder with a file is used.

    Returns
    -------
    dict of Path to Precomputed
        Precomputed files of those images that have any.

    Raises
    ------
    InputError
        If a folder has no file for any of the images.
    """
    found: dict[Path, Precomputed] = {}
    for name, folder in folders.items():
        in_folder = {
            image: files
            for image in images
            if (files := _find(image, _is_only_image(image, images), name, folder)) is not None
        }
        if not in_folder:
            raise InputError(
                f'has no {_MASK} and no {_T1W} in the space of any of the images',
                advice='give the folder that contains sub-X/anat/',
                path=folder,
            )
        for image, files in in_folder.items():
            found.setdefault(image, files)
    return found


def _find(image: Path, only_image: bool, name: str, folder: Path) -> Precomputed | None:
    """Find the files of an image in one folder."""
    mask, t1w = (_find_file(image, only_image, folder, ending) for ending in (_MASK, _T1W))
    paths = [path for path in (mask, t1w) if path is not None]
    if not paths:
        return None
    sources = tuple(bids_uri(path, folder, name) for path in paths)
    return Precomputed(mask=mask, t1w=t1w, sources=sources)


def _find_file(image: Path, only_image: bool, folder: Path, ending: str) -> Path | None:
    """Find the file of an image with this ending, in the folder of the session or participant."""
    wanted = _distinguishing_entities(image)
    session = [f'ses-{wanted["session"]}'] if 'session' in wanted else []
    subject = folder / f'sub-{wanted["subject"]}'
    for anat in dict.fromkeys([subject.joinpath(*session, 'anat'), subject / 'anat']):
        candidates = [
            path
            for extension in ('.nii.gz', '.nii')
            for path in sorted(anat.glob(f'*_{ending}{extension}'))
        ]
        matching = [path for path in candidates if _matches(path, wanted, only_image)]
        if matching:
            # The longest name has most entities of the image.
            return max(matching, key=lambda path: len(path.name))
    return None


def _matches(path: Path, wanted: Mapping[str, str], only_image: bool) -> bool:
    """Check whether a file belongs to the image with these entities."""
    try:
        labels = _distinguishing_entities(path)
    except InputError:  # entities that no T1-weighted image has
        return False
    return labels == wanted or (
        only_image
        and labels.items() <= wanted.items()
        and labels.get('session') == wanted.get('session')
    )


def _distinguishing_entities(path: Path) -> dict[str, str]:
    """Return the entities that distinguish the images of a dataset."""
    entities = parse_entities(path)
    return {
        key: value for key, value in entities.items() if key not in ('suffix', 'extension', 'desc')
    }


def _is_only_image(image: Path, images: Iterable[Path]) -> bool:
    """Check whether a participant has no other image in the session."""
    own = parse_entities(image)

    def is_same_session(other: Path) -> bool:
        labels = parse_entities(other)
        return all(labels.get(key) == own.get(key) for key in ('subject', 'session'))

    return sum(map(is_same_session, images)) == 1

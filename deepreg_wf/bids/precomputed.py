"""What other programs have made of an image already: brain masks and preprocessed images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepreg_wf.bids.entities import bids_uri, parse_entities
from deepreg_wf.errors import InputError

_MASK, _T1W = 'desc-brain_mask', 'desc-preproc_T1w'


@dataclass(frozen=True, kw_only=True)
class Precomputed:
    """Files that are taken instead of computed.

    Attributes
    ----------
    mask : Path, optional
        Brain mask.
    t1w : Path, optional
        T1-weighted image, corrected for bias.
    sources : tuple of str
        BIDS URIs of both, as far as they are there.
    """

    mask: Path | None = None
    t1w: Path | None = None
    sources: tuple[str, ...] = ()


NOTHING = Precomputed()


def read_folders(words: Iterable[str]) -> dict[str, Path]:
    """Read ``NAME=PATH``, or ``PATH`` alone, as fMRIPrep does.

    Parameters
    ----------
    words
        Of the command line.

    Returns
    -------
    dict of str to Path
        Folders of derivatives by name; those without one are called after their folder.

    Raises
    ------
    InputError
        If there is no such folder, or a name stands for two.
    """
    folders: dict[str, Path] = {}
    for word in words:
        name, equals, place = word.rpartition('=')
        folder = Path(place).expanduser().absolute()
        if not folder.is_dir():
            raise InputError(f'{place}: no such folder of derivatives; give one that is there.')
        name = name if equals else folder.name
        if not name.isalnum() or name in ('raw', 'templateflow') or name in folders:
            raise InputError(
                f'{word}: {name!r} is taken or no word of letters and digits; '
                'give the derivatives another name, as in fmriprep=PATH.'
            )
        folders[name] = folder
    return folders


def find_precomputed(
    images: Sequence[Path], folders: Mapping[str, Path]
) -> dict[Path, Precomputed]:
    """Find masks and preprocessed images in folders of derivatives.

    A file belongs to an image if it has its session and no entity that the image lacks: fMRIPrep
    leaves the run out where there is one. Where a subject has several images in a session, only
    a file with all their entities will do: one that was merged of them lies in a place of its own.

    Parameters
    ----------
    images : sequence of Path
        Raw images of a run.
    folders : mapping of str to Path
        By name; the first that has a file is taken.

    Returns
    -------
    dict of Path to Precomputed
        Of images that have any.

    Raises
    ------
    InputError
        If a folder has nothing for any of them.
    """
    found: dict[Path, Precomputed] = {}
    for name, folder in folders.items():
        useful = False
        for image in images:
            made = _find(image, _alone(image, images), name, folder)
            useful = useful or made is not NOTHING
            if made is not NOTHING:
                found.setdefault(image, made)
        if not useful:
            raise InputError(
                f'{folder}: has no {_MASK} and no {_T1W} in the space of any of the images; '
                'give the folder that holds sub-X/anat/.'
            )
    return found


def _find(image: Path, alone: bool, name: str, folder: Path) -> Precomputed:
    mask, t1w = (_file(image, alone, folder, ending) for ending in (_MASK, _T1W))
    paths = [path for path in (mask, t1w) if path is not None]
    if not paths:
        return NOTHING
    sources = tuple(bids_uri(path, folder, name) for path in paths)
    return Precomputed(mask=mask, t1w=t1w, sources=sources)


def _file(image: Path, alone: bool, folder: Path, ending: str) -> Path | None:
    wanted = _labels(image)
    session = [f'ses-{wanted["session"]}'] if 'session' in wanted else []
    places = [folder.joinpath(f'sub-{wanted["subject"]}', *way, 'anat') for way in (session, [])]
    for place in dict.fromkeys(places):
        candidates = sorted(place.glob(f'*_{ending}.nii.gz')) + sorted(
            place.glob(f'*_{ending}.nii')
        )
        fitting = [path for path in candidates if _fits(path, wanted, alone)]
        if fitting:
            # The name that keeps most entities of the image.
            return max(fitting, key=lambda path: len(path.name))
    return None


def _fits(path: Path, wanted: Mapping[str, str], alone: bool) -> bool:
    try:
        labels = _labels(path)
    except InputError:  # entities that no T1-weighted image has
        return False
    return labels == wanted or (
        alone
        and labels.items() <= wanted.items()
        and labels.get('session') == wanted.get('session')
    )


def _labels(path: Path) -> dict[str, str]:
    """Entities that tell images of one dataset apart; a space is not one of them."""
    entities = parse_entities(path)
    return {
        key: value for key, value in entities.items() if key not in ('suffix', 'extension', 'desc')
    }


def _alone(image: Path, images: Iterable[Path]) -> bool:
    """Whether a subject has no other image in the session."""
    own = parse_entities(image)

    def same(other: Path) -> bool:
        labels = parse_entities(other)
        return all(labels.get(key) == own.get(key) for key in ('subject', 'session'))

    return sum(map(same, images)) == 1

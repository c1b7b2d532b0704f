"""Names of the derivatives, and the writing of text."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from deepreg_wf.errors import InputError
from deepreg_wf.utils.atomic import atomic_write

_LABEL = re.compile(r'(?P<key>[a-z]+)-(?P<value>[a-zA-Z0-9+]+)')


def parse_entities(path: str | Path) -> dict[str, str]:
    """Read the BIDS entities, suffix and extension from the name of a file.

    Parameters
    ----------
    path : path
        Only the name counts; the file need not exist.

    Returns
    -------
    dict
        By long name (``subject``, ``session``, ``acquisition`` ...), in the order of the name;
        labels are kept as written (``run`` stays ``'01'``).

    Raises
    ------
    InputError
        If part of the name is not an entity that a T1-weighted image can have. Dropping it
        would let two images share the names of their derivatives.

    Examples
    --------
    >>> parse_entities('sub-01_ses-a_run-02_T1w.nii.gz')
    {'subject': '01', 'session': 'a', 'run': '02', 'suffix': 'T1w', 'extension': '.nii.gz'}
    """
    stem, dot, extension = Path(path).name.partition('.')
    *labels, suffix = stem.split('_')
    entities = {}
    for label in labels:
        match = _LABEL.fullmatch(label)
        if match is None or match['key'] not in _patterns()['entities']:
            raise InputError(
                f'{path}: "{label}" is not a BIDS entity of a T1-weighted image; rename the file.'
            )
        entities[_patterns()['entities'][match['key']]] = match['value']
    return {**entities, 'suffix': suffix, 'extension': f'{dot}{extension}'}


def derivative_path(source: str | Path, **entities: str | None) -> Path:
    """Name a derivative of an image.

    Parameters
    ----------
    source : path
        The raw image; its entities are passed down.
    **entities : str or None
        Entities to add or replace, by long name; None leaves one out. A trailing underscore is
        dropped, so that ``from_`` can be written.

    Returns
    -------
    Path
        Relative to the folder of the derivatives.

    Raises
    ------
    ValueError
        If no pattern of ``data/io_patterns.json`` holds all the entities.

    Examples
    --------
    >>> derivative_path('sub-01_T1w.nii.gz', desc='brain', suffix='mask').as_posix()
    'sub-01/anat/sub-01_desc-brain_mask.nii.gz'
    """
    from bids.layout.writing import build_path

    inherited = parse_entities(source) | {'extension': None}
    wanted = inherited | {key.rstrip('_'): value for key, value in entities.items()}
    path = build_path(wanted, _patterns()['patterns'], strict=True)
    if path is None:
        given = {key: value for key, value in wanted.items() if value}
        raise ValueError(f'no pattern for a derivative holds the entities {given}')
    return Path(path)


def bids_uri(path: str | Path, root: str | Path | None = None, dataset: str = '') -> str:
    """Write a BIDS URI.

    Parameters
    ----------
    path : path
        Of the file.
    root : path, optional
        Of its dataset; None where `path` is relative to it already.
    dataset : str
        Key of ``DatasetLinks``; empty for the dataset that holds the sidecar.

    Returns
    -------
    str

    Examples
    --------
    >>> bids_uri('/data/sub-01/anat/sub-01_T1w.nii.gz', root='/data', dataset='raw')
    'bids:raw:sub-01/anat/sub-01_T1w.nii.gz'
    """
    relative = Path(path) if root is None else Path(path).relative_to(root)
    return f'bids:{dataset}:{relative.as_posix()}'


def write_text(path: Path, text: str) -> None:
    """Write a text file (UTF-8), whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding='utf-8')


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + '\n')


@cache
def _patterns() -> dict[str, Any]:
    path = Path(__file__).parents[1] / 'data' / 'io_patterns.json'
    patterns: dict[str, Any] = json.loads(path.read_text(encoding='utf-8'))
    return patterns

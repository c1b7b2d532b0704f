"""BIDS entities, names of derivatives and BIDS URIs."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from deepreg_wf.errors import InputError

_LABEL = re.compile(r'(?P<key>[a-z]+)-(?P<value>[a-zA-Z0-9+]+)')


def parse_entities(path: str | Path) -> dict[str, str]:
    """Parse the BIDS entities, suffix and extension in the name of a file.

    Parameters
    ----------
    path : path-like
        Only the name is read; the file need not exist.

    Returns
    -------
    dict of str to str
        Labels by the long names of the entities (``subject``, ``session``, ``acquisition`` ...),
        in the order of the file name. Labels do not change: ``run`` may be ``'01'``.

    Raises
    ------
    InputError
        If part of the name is not an entity that a T1-weighted image can have. Without it, two
        images could have derivatives of the same name.

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
                f'"{label}" is not a BIDS entity of a T1-weighted image',
                advice='rename the file',
                path=path,
            )
        entities[_patterns()['entities'][match['key']]] = match['value']
    return {**entities, 'suffix': suffix, 'extension': f'{dot}{extension}'}


def derivative_path(source: str | Path, **entities: str | None) -> Path:
    """Make the path of a derivative of an image.

    Parameters
    ----------
    source : path-like
        Raw image, whose entities the derivative inherits.
    **entities : str or None
        Entities to add or replace, by their long names; None removes one. A trailing underscore
        is ignored, as ``from`` is a keyword of Python.

    Returns
    -------
    Path
        Path relative to the folder of the derivatives.

    Raises
    ------
    ValueError
        If no pattern of ``data/io_patterns.json`` has all the entities.

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
        raise ValueError(f'no pattern for a derivative has the entities {given}')
    return Path(path)


def bids_uri(path: str | Path, root: str | Path | None = None, dataset: str = '') -> str:
    """Make the BIDS URI of a file.

    Parameters
    ----------
    path : path-like
        Path of the file.
    root : path-like, optional
        Root of its dataset; without it, `path` is relative to the root.
    dataset : str
        Key of ``DatasetLinks``; empty for the dataset that contains the sidecar.

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


@cache
def _patterns() -> dict[str, Any]:
    """Read the entities and the patterns of file names."""
    path = Path(__file__).parents[1] / 'data' / 'io_patterns.json'
    patterns: dict[str, Any] = json.loads(path.read_text(encoding='utf-8'))
    return patterns

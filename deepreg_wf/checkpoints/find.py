"""The trained networks of a registration, found and looked at before anything runs."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from deepreg_wf.errors import InputError

SHIPPED = Path(__file__).parents[1] / 'data' / 'weights'
"""Networks that come with the package."""

_MISSED_BY = 0.1
"""Share by which voxels may fail to make up the blocks of a network."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Files of the networks that a registration uses; what it does not use is None.

    Parameters
    ----------
    prediction, correction, probabilistic : Path or None
        ``.safetensors`` files.
    """

    prediction: Path | None = None
    correction: Path | None = None
    probabilistic: Path | None = None

    def checksums(self) -> dict[str, str]:
        """SHA-256 of each network that is used, as its file has it and loading verifies it."""
        files = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: checksum_of(path) for name, path in files if path is not None}


def find_weights(
    *,
    momentum: str,
    uncertainty: int = 0,
    resolution: float = 2.0,
    folder: Path | None = None,
) -> Weights:
    """Find the networks that a registration needs, and see that they fit its grid.

    Parameters
    ----------
    momentum : {'predict', 'predict+correct', 'optimise'}
    uncertainty : int
        Samples; with any, the probabilistic network is needed.
    resolution : float
        Voxel size of the registration grid in mm.
    folder : Path, optional
        Where they are; the package by default.

    Returns
    -------
    Weights

    Raises
    ------
    InputError
        If one is missing, is no network of ours, or works on blocks that voxels of that size do
        not make up.
    """
    needed = {
        'prediction': momentum != 'optimise',
        'correction': momentum == 'predict+correct',
        'probabilistic': uncertainty > 0,
    }
    found = {}
    for name in (name for name, is_needed in needed.items() if is_needed):
        path = (folder or SHIPPED) / f'{name}.safetensors'
        _check(path, resolution)
        found[name] = path
    return Weights(**found)


def describe_weights(path: Path) -> dict[str, Any]:
    """Read what a file of weights says of its network, and nothing else of it.

    Parameters
    ----------
    path : Path

    Returns
    -------
    dict
        The fields of `deepreg_wf.quicksilver.Spec`.

    Raises
    ------
    InputError
        If it is no such file.
    """
    return dict(json.loads(_metadata(path)['spec']))


def checksum_of(path: Path) -> str:
    """SHA-256 of a network, as its file has it and loading verifies it."""
    return _metadata(path)['sha256']


def _metadata(path: Path) -> dict[str, str]:
    """What is said of a network before its tensors, with the keys 'spec' and 'sha256'."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise InputError(f'{path}: no such network; train one, or choose another --momentum.')
    try:
        with safe_open(path, framework='np') as file:
            metadata = dict(file.metadata() or {})
        json.loads(metadata['spec']), metadata['sha256']
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise InputError(
            f'{path}: not weights of deepreg_wf; give the folder that deepreg_wf-train made, or '
            'convert those of the original Quicksilver by deepreg_wf-convert-weights.'
        ) from error
    return metadata


def _check(path: Path, resolution: float) -> None:
    spacing = float(describe_weights(path)['spacing'])
    voxels = max(1, round(spacing / resolution))
    if abs(voxels * resolution / spacing - 1) > _MISSED_BY:
        raise InputError(
            f'{path}: the network works on blocks of {spacing:g} mm, which voxels of '
            f'{resolution:g} mm do not make up; give --registration-resolution {spacing:g} or a '
            'whole part of it.'
        )

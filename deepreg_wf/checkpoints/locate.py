"""Locate the weights files of a registration and check them before anything runs."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from deepreg_wf.checkpoints.coarsening import coarsening_factor
from deepreg_wf.checkpoints.spec import parse_spec
from deepreg_wf.errors import InputError

SHIPPED = Path(__file__).parents[1] / 'data' / 'weights'
"""Folder of the weights files of the package."""

AFFINE_FILE = 'affine.safetensors'
"""Name of the weights file of the network that estimates the affine."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Weights files of a registration.

    Attributes
    ----------
    prediction, correction, probabilistic : Path or None
        ``.safetensors`` files; None for a network that is not used.
    """

    prediction: Path | None = None
    correction: Path | None = None
    probabilistic: Path | None = None

    def checksums(self) -> dict[str, str]:
        """Return the SHA-256 of each network that is used, as its file states it."""
        files = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: checksum_of(path) for name, path in files if path is not None}


def find_weights(
    *,
    momentum: str,
    uncertainty: int = 0,
    resolution: float = 2.0,
    folder: Path | None = None,
) -> Weights:
    """Locate the networks of a registration and check that they fit its grid.

    Parameters
    ----------
    momentum : {'predict', 'predict+correct', 'optimise'}
        Computation of the momentum.
    uncertainty : int
        Number of momenta to draw; above 0 the probabilistic network is needed.
    resolution : float
        Voxel size of the registration grid, in mm.
    folder : Path, optional
        Folder of the weights files; `SHIPPED` by default.

    Returns
    -------
    Weights

    Raises
    ------
    InputError
        If a file is missing or is not a weights file, or if the voxel size does not divide the
        coarse grid of a network.
    """
    needed = {
        'prediction': momentum != 'optimise',
        'correction': momentum == 'predict+correct',
        'probabilistic': uncertainty > 0,
    }
    found = {}
    for name in (name for name, is_needed in needed.items() if is_needed):
        # Absolute, because each step runs in a folder of its own.
        path = Path(folder or SHIPPED).absolute() / f'{name}.safetensors'
        _check_resolution(path, resolution)
        found[name] = path
    return Weights(**found)


def find_affine_network(folder: Path | None = None) -> Path:
    """Locate the network that estimates the affine.

    Parameters
    ----------
    folder : Path, optional
        Folder of the weights files. One without ``affine.safetensors``, such as a folder of
        converted weights, leaves the network of `SHIPPED`.

    Returns
    -------
    Path

    Raises
    ------
    InputError
        If the file is not a weights file.
    """
    own = Path(folder or SHIPPED).absolute() / AFFINE_FILE
    path = own if own.is_file() else SHIPPED / AFFINE_FILE
    _read_metadata(path)
    return path


def describe_weights(path: Path) -> dict[str, Any]:
    """Read the specification of a network without its tensors.

    Parameters
    ----------
    path : Path
        ``.safetensors`` file.

    Returns
    -------
    dict of str to object
        The fields of `deepreg_wf.quicksilver.NetworkSpec`.

    Raises
    ------
    InputError
        If the file is missing or is not a weights file.
    """
    return _read_metadata(path)[0]


def checksum_of(path: Path) -> str:
    """Return the SHA-256 of a network, as its file states it.

    Parameters
    ----------
    path : Path
        ``.safetensors`` file.

    Returns
    -------
    str
        Hexadecimal digits.

    Raises
    ------
    InputError
        If the file is missing or is not a weights file.
    """
    return _read_metadata(path)[1]


def _read_metadata(path: Path) -> tuple[dict[str, Any], str]:
    """Return the specification and the checksum that a weights file states."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise InputError(
            'no such weights file',
            advice='train a network, or choose another --momentum',
            path=path,
        )
    try:
        with safe_open(path, framework='np') as file:
            metadata = dict(file.metadata() or {})
        text, checksum = metadata['spec'], metadata['sha256']
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise InputError(
            'not a deepreg_wf weights file',
            advice='give the output folder of deepreg_wf-train, or convert weights of the '
            'original Quicksilver with deepreg_wf-convert-weights',
            path=path,
        ) from error
    try:
        return parse_spec(text), checksum
    except ValueError as error:
        raise _invalid_metadata(path, error) from error


def _invalid_metadata(path: Path, reason: object) -> InputError:
    return InputError(f'its metadata are invalid ({reason})', advice='get it again', path=path)


def _check_resolution(path: Path, resolution: float) -> None:
    """Raise InputError if the voxel size does not divide the coarse grid of a network."""
    spec = describe_weights(path)
    if 'spacing' not in spec:
        raise _invalid_metadata(path, 'there is no spacing')
    try:
        coarsening_factor((resolution,) * 3, spec['spacing'])
    except InputError as error:
        raise error.at(path) from error

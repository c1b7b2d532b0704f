"""Networks as files: tensors, what they are for, and a checksum, without anything executable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from deepreg_wf.utils.atomic import atomic_write

_KEYS = ('format', 'spec', 'card', 'sha256')


class WeightsError(ValueError):
    """A file of weights is unusable."""


@dataclass(frozen=True)
class Stored:
    """What a file of weights holds.

    Attributes
    ----------
    tensors : dict of str to Tensor
    spec : dict
        What the network is, and what its input and output mean.
    card : dict
        What it was trained on, how good it is, its licence.
    """

    tensors: dict[str, Tensor]
    spec: dict[str, Any]
    card: dict[str, Any]


def write_network(
    path: str | Path,
    network: nn.Module,
    layout: str,
    spec: Mapping[str, Any],
    card: Mapping[str, Any],
) -> None:
    """Write a network as one ``.safetensors`` file; it appears whole or not at all.

    Parameters
    ----------
    path : path-like
    network : Module
    layout : str
        Name and version of this kind of file.
    spec, card : mapping
        Plain values.
    """
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()
    }
    metadata = {
        'format': layout,
        'spec': json.dumps(dict(spec), sort_keys=True),
        'card': json.dumps(dict(card), sort_keys=True),
    }
    metadata['sha256'] = _checksum(tensors, metadata)
    path = Path(path)
    with atomic_write(path) as temporary:
        # Not save_file, whose files nobody else may read.
        temporary.write_bytes(save(tensors, metadata))


def read_network(path: str | Path, layout: str) -> Stored:
    """Read what `write_network` wrote, and verify its checksum.

    Parameters
    ----------
    path : path-like
    layout : str
        Name and version of the kind of file that is wanted.

    Returns
    -------
    Stored

    Raises
    ------
    WeightsError
        If the file is missing, of another kind, or not what was written.
    """
    tensors, metadata = _read(path)
    if any(key not in metadata for key in _KEYS) or metadata['format'] != layout:
        raise WeightsError(
            f'{path}: not weights of deepreg_wf of this kind; those of the original Quicksilver '
            'become so by deepreg_wf-convert-weights.'
        )
    if _checksum(tensors, metadata) != metadata['sha256']:
        raise WeightsError(f'{path}: the file is damaged (its checksum is wrong); get it anew.')
    return Stored(tensors, json.loads(metadata['spec']), json.loads(metadata['card']))


@contextmanager
def fitting(path: str | Path) -> Iterator[None]:
    """Turn what goes wrong where a network is made of a file into `WeightsError`."""
    try:
        yield
    except (TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(
            f'{path}: its description and its tensors do not go together ({error}); get it anew.'
        ) from error


def _read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not Path(path).is_file():
        raise WeightsError(f'{path}: no such file; give the weights of a network.')
    try:
        with safe_open(path, framework='pt') as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f'{path}: not a readable .safetensors file ({error}); get it anew, or convert it by '
            'deepreg_wf-convert-weights.'
        ) from error


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 of all that a file says and holds."""
    digest = hashlib.sha256()
    for key in ('format', 'spec', 'card'):
        digest.update(metadata[key].encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f'{name} {tensor.dtype} {tuple(tensor.shape)}'.encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

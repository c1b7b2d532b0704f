"""Weights files: the tensors of a network, its metadata and a checksum, nothing executable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from deepreg_wf.checkpoints.spec import parse_spec
from deepreg_wf.errors import InputError
from deepreg_wf.utils.atomic import atomic_write

Network = TypeVar('Network', bound=nn.Module)

_HASHED_KEYS = ('format', 'spec', 'card')
_KEYS = (*_HASHED_KEYS, 'sha256')


class WeightsError(InputError):
    """A weights file is unusable."""


@dataclass(frozen=True)
class StoredNetwork:
    """Content of a weights file.

    Attributes
    ----------
    tensors : dict of str to Tensor
        State dictionary of the network.
    spec : dict of str to object
        Architecture of the network, and the meaning of its input and output.
    card : dict of str to object
        Training data, measured accuracy and licence.
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
    """Write a network atomically as one ``.safetensors`` file.

    Parameters
    ----------
    path : path-like
        File to write.
    network : Module
        Network whose state is written.
    layout : str
        Name and version of this kind of file.
    spec, card : mapping of str to object
        Values that JSON can represent; see `StoredNetwork`.
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
    with atomic_write(Path(path)) as temporary:
        # safetensors' save_file would create a file that only its owner can read.
        temporary.write_bytes(save(tensors, metadata))


def read_network(path: str | Path, layout: str) -> StoredNetwork:
    """Read a file that `write_network` wrote, and verify its checksum.

    Parameters
    ----------
    path : path-like
        File to read.
    layout : str
        Name and version of the expected kind of file.

    Returns
    -------
    StoredNetwork
        Content, with the current names of the metadata fields.

    Raises
    ------
    WeightsError
        If the file is missing, of another kind, or damaged.
    """
    tensors, metadata = _read(path)
    if any(key not in metadata for key in _KEYS) or metadata['format'] != layout:
        raise WeightsError(
            'not a deepreg_wf weights file of this kind of network',
            advice='convert weights of the original Quicksilver with deepreg_wf-convert-weights',
            path=path,
        )
    if _checksum(tensors, metadata) != metadata['sha256']:
        raise WeightsError(
            'the file is damaged: its checksum does not match', advice='get it again', path=path
        )
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise WeightsError('it has weights that are not finite', advice='get it again', path=path)
    with check_consistency(path):
        return StoredNetwork(tensors, parse_spec(metadata['spec']), _parse_card(metadata['card']))


def assign_tensors(make: Callable[[], Network], tensors: Mapping[str, Tensor]) -> Network:
    """Make a network of tensors, without memory for any others.

    Parameters
    ----------
    make : callable
        Makes the untrained network.
    tensors : mapping of str to Tensor
        State dictionary of the network.

    Returns
    -------
    Module
        The network in single precision.

    Raises
    ------
    RuntimeError
        If names or shapes of the tensors are not those of the network.
    """
    with torch.device('meta'):
        network = make()
    single = {name: tensor.float() for name, tensor in tensors.items()}
    network.load_state_dict(single, assign=True)
    return network


@contextmanager
def check_consistency(path: str | Path) -> Iterator[None]:
    """Raise `WeightsError` where the content of a file does not make up a network.

    Parameters
    ----------
    path : path-like
        The weights file, for the message.

    Raises
    ------
    WeightsError
        If the block within the context raises a TypeError, ValueError or RuntimeError.
    """
    try:
        yield
    except (TypeError, ValueError, RuntimeError) as error:
        reason = ' '.join(str(error).split())
        reason = reason if len(reason) <= 200 else f'{reason[:197]}...'
        raise WeightsError(
            f'its metadata and its tensors do not match ({reason})',
            advice='get it again',
            path=path,
        ) from error


def _read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a ``.safetensors`` file."""
    if not Path(path).is_file():
        raise WeightsError('no such file', advice='give a weights file', path=path)
    try:
        with safe_open(path, framework='pt') as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except (SafetensorError, OSError, TypeError, ValueError, RuntimeError) as error:
        reason = ' '.join(str(error).split())
        raise WeightsError(
            f'not a readable .safetensors file ({reason})',
            advice='get it again, or convert it with deepreg_wf-convert-weights',
            path=path,
        ) from error


def _parse_card(text: str) -> dict[str, Any]:
    """Read a model card, which has no effect on the results."""
    try:
        card = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError('the card is not JSON') from None
    if not isinstance(card, dict):
        raise ValueError('the card is not a JSON object')
    return card


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return the SHA-256 of the metadata and of the names, types, shapes and values."""
    digest = hashlib.sha256()
    for key in _HASHED_KEYS:
        digest.update(metadata[key].encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f'{name} {tensor.dtype} {tuple(tensor.shape)}'.encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

"""Weights files that cannot be used are refused in one sentence, before they take memory."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from deepreg_wf.affine.localisation_net import load_localisation_net
from deepreg_wf.checkpoints.locate import SHIPPED, find_affine_network, find_weights
from deepreg_wf.checkpoints.safetensors_file import _checksum
from deepreg_wf.cli import convert
from deepreg_wf.errors import InputError
from deepreg_wf.quicksilver import load_checkpoint


def write_changed(source: Path, target: Path, changes: dict[str, object]) -> None:
    """Write a network with other metadata and the checksum of these."""
    with safe_open(source, framework='pt') as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = dict(file.metadata())
    metadata['spec'] = json.dumps(json.loads(metadata['spec']) | changes)
    metadata['sha256'] = _checksum(tensors, metadata)
    save_file(tensors, target, metadata)


@pytest.mark.parametrize(
    'changes',
    [
        {'spacing': 0},
        {'spacing': -4.0},
        {'spacing': float('nan')},
        {'spacing': float('inf')},
        {'spacing': '4'},
        {'spacing': None},
        {'energy_spacing': 0},
        {'features': 10**9},
        {'features': True},
        {'patch_size': [15, 15, 15]},
        {'patch_size': 10**6},
        {'stride': -1},
        {'n_iterations': 10**9},
        {'metric': {}},
        {'metric': {'alpha': 1, 'beta': 1, 'gamma': 0, 'power': 2, 'discrete': False}},
        {'dropout': 1.0},
        {'output_scale': 0},
    ],
    ids=str,
)
def test_impossible_values_of_a_network_are_named(changes: dict, tmp_path: Path) -> None:
    path = tmp_path / 'prediction.safetensors'
    write_changed(SHIPPED / 'prediction.safetensors', path, changes)
    for use in (
        lambda: find_weights(momentum='predict', folder=tmp_path),
        lambda: load_checkpoint(path),
    ):
        with pytest.raises(
            InputError, match=rf'^{path}: [^\n]*{next(iter(changes))} is [^\n]+\.$'
        ):
            use()


@pytest.mark.parametrize(
    'changes',
    [{'shape': [0, 0, 0]}, {'shape': [10**6] * 3}, {'shape': 24}, {'spacing': 0}, {'volume': -1}],
    ids=str,
)
def test_impossible_values_of_the_affine_network_are_named(changes: dict, tmp_path: Path) -> None:
    path = tmp_path / 'affine.safetensors'
    write_changed(SHIPPED / 'affine.safetensors', path, changes)
    for use in (lambda: find_affine_network(tmp_path), lambda: load_localisation_net(path)):
        with pytest.raises(
            InputError, match=rf'^{path}: [^\n]*{next(iter(changes))} is [^\n]+\.$'
        ):
            use()


def test_shapes_that_the_tensors_do_not_have_take_no_memory(tmp_path: Path) -> None:
    """A network of these values would take 100 GB."""
    path = tmp_path / 'affine.safetensors'
    write_changed(SHIPPED / 'affine.safetensors', path, {'shape': [512, 512, 512]})
    with pytest.raises(InputError, match=r'^[^\n]*tensors do not match[^\n]+$'):
        load_localisation_net(path)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    path = tmp_path / 'prediction.safetensors'
    with safe_open(SHIPPED / 'prediction.safetensors', framework='pt') as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = dict(file.metadata())
    next(iter(tensors.values())).view(-1)[0] = float('nan')
    metadata['sha256'] = _checksum(tensors, metadata)
    save_file(tensors, path, metadata)
    with pytest.raises(InputError, match='not finite'):
        load_checkpoint(path)


def _truncated(path: Path) -> None:
    torch.save({'state_dict': {}, 'patch_size': 15, 'network_feature': 2}, path)
    path.write_bytes(path.read_bytes()[:-200])


FOREIGN: dict[str, Callable[[Path], object]] = {
    'empty': Path.touch,
    'text': lambda path: path.write_text('no weights\n'),
    'folder': Path.mkdir,
    'truncated': _truncated,
    'pickle': lambda path: path.write_bytes(pickle.dumps(Path('x'))),
    'pickle of plain values': lambda path: path.write_bytes(pickle.dumps({'a': 1})),
    'pickle of tensors': lambda path: torch.save({'state_dict': {}, 'a': Path('x')}, path),
    'zip': lambda path: path.write_bytes(b'PK\x03\x04' + bytes(100)),
    'list': lambda path: torch.save(
        {'state_dict': [1], 'patch_size': 1, 'network_feature': 1}, path
    ),
    'huge': lambda path: torch.save(
        {'state_dict': {}, 'patch_size': 10**9, 'network_feature': 10**9}, path
    ),
}


@pytest.mark.parametrize('kind', FOREIGN)
def test_a_foreign_file_is_not_converted(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / 'old.pth.tar'
    FOREIGN[kind](path)
    assert convert.main([str(path), str(tmp_path / 'new.safetensors')]) == 2
    message = capsys.readouterr().err
    assert message.count('\n') == 1
    assert str(path) in message
    # The advice of torch is to load the file in a way that executes code.
    assert 'weights_only' not in message
    assert 'torch.load' not in message
    assert not (tmp_path / 'new.safetensors').exists()

"""Weights of the original Quicksilver, converted.

Its ``.pth.tar`` files hold a dictionary: ``state_dict``, ``patch_size``, ``network_feature``,
``deformation_params`` and, where the weights were once trained with Torch 7, ``matlab_t7``.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepreg_wf.checkpoints.files import WeightsError
from deepreg_wf.lddmm import ORIGINAL_METRIC
from deepreg_wf.lddmm.metric import Parameters
from deepreg_wf.quicksilver.architecture import QuicksilverNet
from deepreg_wf.quicksilver.checkpoint import Checkpoint, Spec

LICENCE = 'that of the original weights: academic and non-commercial use only'

_UNUSED = re.compile(r'decoder_[xyz]_2\.prelu4\.weight')
"""An activation that the original has and never calls."""

_DROPOUT = ''
"""Has no tensors, but a place in our order of the layers."""

_INNER = ('conv_inblock1', 'prelu2', _DROPOUT, 'conv_inblock2', 'prelu3', _DROPOUT)
_ENCODER = ('conv_input', 'prelu1', _DROPOUT, *_INNER, 'conv_pooling', 'prelu4')
_DECODER = ('conv_unpooling', 'prelu1', *_INNER, 'conv_output', 'prelu4')


def convert_legacy(
    path: str | Path, *, role: str = 'prediction', dropout: float = 0.0
) -> Checkpoint:
    """Read weights of the original Quicksilver.

    Only tensors and plain values are unpickled. Where the original network sees its patches with
    the axes in reverse order (``matlab_t7``), its kernels are reversed instead.

    Parameters
    ----------
    path : path-like
        A ``.pth.tar`` file.
    role : {'prediction', 'correction'}
        The file does not say.
    dropout : float
        0.2 for the probabilistic network of the original; nor does it say that.

    Returns
    -------
    Checkpoint
        It works on voxels of 1 mm and gives plain momenta of the original metric.

    Raises
    ------
    WeightsError
        If the file is missing or has another layout.
    """
    config = _read(path)
    state = {name.removeprefix('module.'): tensor for name, tensor in config['state_dict'].items()}
    features, patch = int(config['network_feature']), int(config['patch_size'])
    network = QuicksilverNet(features, patch=patch, dropout=dropout)
    try:
        renamed = {ours: state.pop(theirs) for ours, theirs in _names()}
        if 'matlab_t7' in config:
            renamed = {name: _reversed(tensor) for name, tensor in renamed.items()}
        network.load_state_dict(renamed)
    except (KeyError, RuntimeError) as error:
        raise WeightsError(f'{path}: not the layers of Quicksilver ({error})') from error
    unknown = [name for name in state if not _UNUSED.fullmatch(name)]
    if unknown:
        raise WeightsError(f'{path}: it has layers that Quicksilver has not: {", ".join(unknown)}')
    spec = Spec(
        role=role,
        features=features,
        patch=patch,
        dropout=dropout,
        spacing=1.0,
        metric=_metric(config.get('deformation_params') or {}, path),
        whitened=False,
        intensities='equalised',
    )
    card = {'source': f'converted from {Path(path).name}', 'licence': LICENCE}
    return Checkpoint(network.eval(), spec, card)


def _read(path: str | Path) -> dict[str, Any]:
    if not Path(path).is_file():
        raise WeightsError(f'{path}: no such file; give a .pth.tar of the original Quicksilver')
    try:
        config = torch.load(path, map_location='cpu', weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise WeightsError(
            f'{path}: not a file of tensors and plain values '
            f'({str(error).splitlines()[0]}); nothing else is read'
        ) from error
    missing = [
        key
        for key in ('state_dict', 'network_feature', 'patch_size')
        if not isinstance(config, Mapping) or key not in config
    ]
    if missing:
        raise WeightsError(
            f'{path}: not weights of the original Quicksilver: it lacks {", ".join(missing)}'
        )
    return dict(config)


def _metric(stated: Mapping[str, Any], path: str | Path) -> Parameters:
    """The original metric, with the parameters that a file states."""
    try:
        given = {
            name: float(stated[name]) for name in ('alpha', 'beta', 'gamma') if name in stated
        }
    except (TypeError, ValueError) as error:
        raise WeightsError(f'{path}: its deformation_params are not numbers ({error})') from error
    original = ORIGINAL_METRIC
    return Parameters(
        alpha=given.get('alpha', original['alpha']),
        beta=given.get('beta', original['beta']),
        gamma=given.get('gamma', original['gamma']),
        power=original['power'],
        discrete=original['discrete'],
    )


def _reversed(tensor: Tensor) -> Tensor:
    """A kernel with its axes in the other order; biases and slopes have none."""
    return tensor.permute(0, 1, 4, 3, 2).contiguous() if tensor.dim() == 5 else tensor


def _names() -> Iterator[tuple[str, str]]:
    """Our name of each tensor and the original's."""
    for stage in (1, 2):
        for ours, theirs in (('moving', 'm'), ('fixed', 't')):
            block = f'encoders.{ours}.{stage - 1}', f'encoder_{theirs}_{stage}'
            yield from _block(*block, _ENCODER)
        for axis in 'xyz':
            block = f'decoders.{axis}.{stage - 1}', f'decoder_{axis}_{stage}'
            yield from _block(*block, _DECODER)


def _block(ours: str, theirs: str, layers: Sequence[str]) -> Iterator[tuple[str, str]]:
    for number, layer in enumerate(layers):
        # The second decoder has an activation that the original never calls; it stays behind.
        if not layer or (layer == 'prelu4' and re.fullmatch('decoder_._2', theirs)):
            continue
        for part in ('weight',) if layer.startswith('prelu') else ('weight', 'bias'):
            yield f'{ours}.{number}.{part}', f'{theirs}.{layer}.{part}'

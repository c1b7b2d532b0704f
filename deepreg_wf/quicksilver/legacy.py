"""Conversion of weights of the original Quicksilver.

Its ``.pth.tar`` files hold a dictionary with the keys ``state_dict``, ``patch_size``,
``network_feature``, ``deformation_params`` and, in weights that were trained with Torch 7,
``matlab_t7``.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepreg_wf.checkpoints.safetensors_file import WeightsError, assign_tensors
from deepreg_wf.checkpoints.spec import check_spec
from deepreg_wf.lddmm import ORIGINAL_METRIC
from deepreg_wf.lddmm.metric import MetricParameters
from deepreg_wf.quicksilver.architecture import QuicksilverNet
from deepreg_wf.quicksilver.checkpoint import Checkpoint, NetworkSpec
from deepreg_wf.utils.regular_file import check_present

LICENCE = 'that of the original weights: academic and non-commercial use only'
"""Licence in the card of converted weights."""

_UNUSED = re.compile(r'decoder_[xyz]_2\.prelu4\.weight')
"""Activation that the original defines and never applies."""

_DROPOUT = ''
"""Placeholder of a dropout layer, which counts in our numbering of layers and has no tensors."""

_INNER = ('conv_inblock1', 'prelu2', _DROPOUT, 'conv_inblock2', 'prelu3', _DROPOUT)
_ENCODER = ('conv_input', 'prelu1', _DROPOUT, *_INNER, 'conv_pooling', 'prelu4')
_DECODER = ('conv_unpooling', 'prelu1', *_INNER, 'conv_output', 'prelu4')


def convert_legacy(
    path: str | Path, *, role: str = 'prediction', dropout: float = 0.0
) -> Checkpoint:
    """Read weights of the original Quicksilver.

    Only tensors and plain values are unpickled. If the original network takes its patches with
    the axes in reverse order (``matlab_t7``), its kernels are reversed instead.

    Parameters
    ----------
    path : path-like
        A ``.pth.tar`` file.
    role : {'prediction', 'correction'}
        Purpose of the network, which the file does not state.
    dropout : float
        Dropout rate, which the file does not state; 0.2 for the original probabilistic network.

    Returns
    -------
    Checkpoint
        Network on voxels of 1 mm whose output is a momentum of the original metric, not whitened.

    Raises
    ------
    InputError
        If the file is missing, damaged or has another layout.
    """
    content = _read(path)
    try:
        state = {
            name.removeprefix('module.'): tensor for name, tensor in content['state_dict'].items()
        }
        features, patch_size = int(content['network_feature']), int(content['patch_size'])
        check_spec({'features': features, 'patch_size': patch_size})
        renamed = {ours: state.pop(theirs) for ours, theirs in _tensor_names()}
        if 'matlab_t7' in content:
            renamed = {name: _reverse_axes(tensor) for name, tensor in renamed.items()}
        make = partial(QuicksilverNet, features, patch_size=patch_size, dropout=dropout)
        network = assign_tensors(make, renamed)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        raise WeightsError(
            'its layers are not the layers of Quicksilver',
            advice='give weights of the original Quicksilver',
            path=path,
        ) from None
    unknown = [name for name in state if not _UNUSED.fullmatch(name)]
    if unknown:
        raise WeightsError(
            f'it has layers that Quicksilver does not have: {", ".join(unknown)}',
            advice='give weights of the original Quicksilver',
            path=path,
        )
    spec = NetworkSpec(
        role=role,
        features=features,
        patch_size=patch_size,
        dropout=dropout,
        spacing=1.0,
        metric=_metric_parameters(content.get('deformation_params') or {}, path),
        whitened=False,
        intensities='equalised',
    )
    card = {'source': f'converted from {Path(path).name}', 'licence': LICENCE}
    return Checkpoint(network.eval(), spec, card)


def _read(path: str | Path) -> dict[str, Any]:
    """Return the dictionary of a file, which has at least the keys that are needed."""
    check_present(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            content = torch.load(path, map_location='cpu', weights_only=True)
    except Exception:  # of any kind, on other bytes; torch's text tells how to load it unsafely
        raise WeightsError(
            'not a file of tensors and plain values, or damaged; nothing else is read, because it '
            'could execute code',
            advice='give a .pth.tar file of the original Quicksilver',
            path=path,
        ) from None
    missing = [
        key
        for key in ('state_dict', 'network_feature', 'patch_size')
        if not isinstance(content, Mapping) or key not in content
    ]
    if missing:
        raise WeightsError(
            f'not weights of the original Quicksilver: it lacks {", ".join(missing)}',
            advice='give a .pth.tar file of the original Quicksilver',
            path=path,
        )
    return dict(content)


def _metric_parameters(stated: Mapping[str, Any], path: str | Path) -> MetricParameters:
    """Return the parameters of the original metric, with the values that a file states."""
    original = ORIGINAL_METRIC
    try:
        given = {
            name: float(stated[name]) for name in ('alpha', 'beta', 'gamma') if name in stated
        }
        metric = MetricParameters(
            alpha=given.get('alpha', original['alpha']),
            beta=given.get('beta', original['beta']),
            gamma=given.get('gamma', original['gamma']),
            power=original['power'],
            discrete=original['discrete'],
        )
        check_spec({'metric': metric})
    except (TypeError, ValueError) as error:
        raise WeightsError(
            f'its deformation_params are not numbers of a metric ({error})',
            advice='give weights of the original Quicksilver',
            path=path,
        ) from error
    return metric


def _reverse_axes(tensor: Tensor) -> Tensor:
    """Reverse the spatial axes of a kernel; biases and slopes have none."""
    return tensor.permute(0, 1, 4, 3, 2).contiguous() if tensor.dim() == 5 else tensor


def _tensor_names() -> Iterator[tuple[str, str]]:
    """Yield our name and the original name of each tensor."""
    for stage in (1, 2):
        for ours, theirs in (('moving', 'm'), ('fixed', 't')):
            block = f'encoders.{ours}.{stage - 1}', f'encoder_{theirs}_{stage}'
            yield from _block_names(*block, _ENCODER)
        for axis in 'xyz':
            block = f'decoders.{axis}.{stage - 1}', f'decoder_{axis}_{stage}'
            yield from _block_names(*block, _DECODER)


def _block_names(ours: str, theirs: str, layers: Sequence[str]) -> Iterator[tuple[str, str]]:
    for number, layer in enumerate(layers):
        # The last activation of the second decoder is never applied and has no counterpart.
        if not layer or (layer == 'prelu4' and re.fullmatch('decoder_._2', theirs)):
            continue
        for part in ('weight',) if layer.startswith('prelu') else ('weight', 'bias'):
            yield f'{ours}.{number}.{part}', f'{theirs}.{layer}.{part}'

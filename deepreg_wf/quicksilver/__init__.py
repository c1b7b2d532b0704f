"""Quicksilver networks: architecture, inputs, prediction, correction, uncertainty, weights."""

from __future__ import annotations

from deepreg_wf.checkpoints.safetensors_file import WeightsError
from deepreg_wf.quicksilver.architecture import QuicksilverNet
from deepreg_wf.quicksilver.checkpoint import (
    Checkpoint,
    NetworkSpec,
    load_checkpoint,
    load_network,
    save_checkpoint,
)
from deepreg_wf.quicksilver.legacy import convert_legacy
from deepreg_wf.quicksilver.prediction import correct, predict, prepare_image
from deepreg_wf.quicksilver.uncertainty import draw_momenta, sample_uncertainty

__all__ = [
    'Checkpoint',
    'NetworkSpec',
    'QuicksilverNet',
    'WeightsError',
    'convert_legacy',
    'correct',
    'draw_momenta',
    'load_checkpoint',
    'load_network',
    'predict',
    'prepare_image',
    'sample_uncertainty',
    'save_checkpoint',
]

"""The networks: architecture, patches, prediction, correction, uncertainty, weights, training."""

from __future__ import annotations

from deepreg_wf.checkpoints.files import WeightsError
from deepreg_wf.quicksilver.architecture import QuicksilverNet
from deepreg_wf.quicksilver.checkpoint import (
    Checkpoint,
    Spec,
    load_checkpoint,
    load_network,
    save_checkpoint,
)
from deepreg_wf.quicksilver.legacy import convert_legacy
from deepreg_wf.quicksilver.prediction import correct, predict, prepare_image
from deepreg_wf.quicksilver.uncertainty import draw_momenta, sample_uncertainty

__all__ = [
    'Checkpoint',
    'QuicksilverNet',
    'Spec',
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

"""The networks: architecture, patches, prediction, correction, uncertainty, weights, training."""

from __future__ import annotations

from ..networks import WeightsError
from .architecture import QuicksilverNet
from .legacy import convert_legacy
from .prediction import correct, predict, prepare_image
from .uncertainty import draw_momenta, sample_uncertainty
from .weights import (
    Checkpoint,
    Spec,
    load_checkpoint,
    load_network,
    save_checkpoint,
)

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

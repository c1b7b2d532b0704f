"""Evaluation of transforms of any tool: label overlap, regularity, inverse consistency."""

from __future__ import annotations

from deepreg_wf.evaluation.maps import (
    TransformFile,
    inverse_error,
    jacobian_determinant,
    load_map,
)
from deepreg_wf.evaluation.overlap import Overlap, label_overlaps, read_labels
from deepreg_wf.evaluation.pairs import (
    Evaluation,
    LabelPair,
    default_name,
    evaluate_pair,
    read_pairs,
)

__all__ = [
    'Evaluation',
    'LabelPair',
    'Overlap',
    'TransformFile',
    'default_name',
    'evaluate_pair',
    'inverse_error',
    'jacobian_determinant',
    'label_overlaps',
    'load_map',
    'read_labels',
    'read_pairs',
]

"""How good a transform is, of whatever tool: label overlap, regularity, consistency."""

from __future__ import annotations

from deepreg_wf.evaluation.maps import Step, inverse_error, jacobian_determinant, load_map
from deepreg_wf.evaluation.overlap import Overlap, label_overlaps, read_labels
from deepreg_wf.evaluation.pairs import Evaluation, Pair, evaluate, pair_name, read_pairs

__all__ = [
    'Evaluation',
    'Overlap',
    'Pair',
    'Step',
    'evaluate',
    'inverse_error',
    'jacobian_determinant',
    'label_overlaps',
    'load_map',
    'pair_name',
    'read_labels',
    'read_pairs',
]

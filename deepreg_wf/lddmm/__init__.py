"""LDDMM on voxel grids: metric, vector fields, shooting, similarity, matching and diagnostics."""

from __future__ import annotations

from deepreg_wf.lddmm import diagnostics, fields
from deepreg_wf.lddmm.images import normalise
from deepreg_wf.lddmm.lbfgs import MatchingSchedule
from deepreg_wf.lddmm.legacy import ORIGINAL_METRIC, shoot_original
from deepreg_wf.lddmm.matching import DEFAULT_SIMILARITY, Match, match
from deepreg_wf.lddmm.metric import DEFAULT_METRIC, Metric
from deepreg_wf.lddmm.shooting import Geodesic, shoot, shoot_inverse, shoot_invertible
from deepreg_wf.lddmm.similarity import LNCC, SSD

__all__ = [
    'DEFAULT_METRIC',
    'DEFAULT_SIMILARITY',
    'LNCC',
    'ORIGINAL_METRIC',
    'SSD',
    'Geodesic',
    'Match',
    'MatchingSchedule',
    'Metric',
    'diagnostics',
    'fields',
    'match',
    'normalise',
    'shoot',
    'shoot_inverse',
    'shoot_invertible',
    'shoot_original',
]

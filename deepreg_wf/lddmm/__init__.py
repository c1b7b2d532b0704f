"""LDDMM on voxel grids: metric, vector fields, shooting, similarity, matching and diagnostics."""

from __future__ import annotations

from deepreg_wf.lddmm import diagnostics, fields
from deepreg_wf.lddmm.chain import (
    DEFAULT_TERMS,
    Chain,
    Link,
    default_links,
    match_chain,
    shoot_chain,
)
from deepreg_wf.lddmm.energy import EnergyTerms
from deepreg_wf.lddmm.images import normalise
from deepreg_wf.lddmm.lbfgs import MatchingSchedule
from deepreg_wf.lddmm.legacy import ORIGINAL_METRIC, shoot_original
from deepreg_wf.lddmm.matching import Match, match
from deepreg_wf.lddmm.metric import DEFAULT_METRIC, Metric, MetricParameters
from deepreg_wf.lddmm.shooting import Geodesic, shoot, shoot_inverse, shoot_invertible
from deepreg_wf.lddmm.similarity import LNCC, SSD

__all__ = [
    'DEFAULT_METRIC',
    'DEFAULT_TERMS',
    'LNCC',
    'ORIGINAL_METRIC',
    'SSD',
    'Chain',
    'EnergyTerms',
    'Geodesic',
    'Link',
    'Match',
    'MatchingSchedule',
    'Metric',
    'MetricParameters',
    'default_links',
    'diagnostics',
    'fields',
    'match',
    'match_chain',
    'normalise',
    'shoot',
    'shoot_chain',
    'shoot_inverse',
    'shoot_invertible',
    'shoot_original',
]

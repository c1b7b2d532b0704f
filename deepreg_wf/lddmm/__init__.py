"""The geodesics: metric, fields, shooting, similarity, matching and diagnostics."""

from __future__ import annotations

from . import diagnostics, fields
from .descent import Schedule
from .images import normalise
from .matching import DEFAULT_SIMILARITY, Match, match
from .metric import DEFAULT_METRIC, Metric
from .original import ORIGINAL_METRIC, shoot_original
from .shooting import Geodesic, shoot, shoot_inverse, shoot_invertible
from .similarity import LNCC, SSD

__all__ = [
    'DEFAULT_METRIC',
    'DEFAULT_SIMILARITY',
    'LNCC',
    'ORIGINAL_METRIC',
    'SSD',
    'Geodesic',
    'Match',
    'Metric',
    'Schedule',
    'diagnostics',
    'fields',
    'match',
    'normalise',
    'shoot',
    'shoot_inverse',
    'shoot_invertible',
    'shoot_original',
]

"""The affine between a brain and the template: where to start, refining, and doubting it."""

from __future__ import annotations

from .align import LADDERS, Alignment, align
from .check import check_alignment, check_brain
from .similarity import overlap, similarity

__all__ = [
    'LADDERS',
    'Alignment',
    'align',
    'check_alignment',
    'check_brain',
    'overlap',
    'similarity',
]

"""The affine between a brain and the template: where to start, refining, and doubting it."""

from __future__ import annotations

from deepreg_wf.affine.align import LADDERS, Alignment, align
from deepreg_wf.affine.plausibility import check_alignment, check_brain
from deepreg_wf.affine.similarity import overlap, similarity

__all__ = [
    'LADDERS',
    'Alignment',
    'align',
    'check_alignment',
    'check_brain',
    'overlap',
    'similarity',
]

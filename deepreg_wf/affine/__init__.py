"""Affine registration of a brain with the template: initialisation, refinement and checks."""

from __future__ import annotations

from deepreg_wf.affine.align import START_SEQUENCES, Alignment, align
from deepreg_wf.affine.plausibility import check_alignment, check_brain
from deepreg_wf.affine.similarity import overlap, similarity

__all__ = [
    'START_SEQUENCES',
    'Alignment',
    'align',
    'check_alignment',
    'check_brain',
    'overlap',
    'similarity',
]

"""The affine between a brain and the template: where to start, refining, and doubting it."""

from __future__ import annotations

from .align import Alignment, align
from .check import check_alignment
from .similarity import similarity

__all__ = ['Alignment', 'align', 'check_alignment', 'similarity']

"""A learned affine: an inverse-compositional spatial transformer (Lin and Lucey, CVPR 2017)."""

from __future__ import annotations

from .files import load, save
from .network import Localiser, estimate, look

__all__ = ['Localiser', 'estimate', 'load', 'look', 'save']

"""The brain in a T1-weighted image: reading the image, extracting the brain, evening it out."""

from __future__ import annotations

from .bias import correct_bias
from .mask import BRAIN_ML, adopt_mask, check_mask, check_volume, clean, read_mask, volume_ml
from .methods import METHODS, PRECOMPUTED, Extraction, Method, choose_methods, extract_brain
from .recognise import Evidence, examine
from .t1w import T1w, read_t1w
from .template import registration_grid
from .upright import low_pass, resample_brain, upright_grid

__all__ = [
    'BRAIN_ML',
    'METHODS',
    'PRECOMPUTED',
    'Evidence',
    'Extraction',
    'Method',
    'T1w',
    'adopt_mask',
    'check_mask',
    'check_volume',
    'choose_methods',
    'clean',
    'correct_bias',
    'examine',
    'extract_brain',
    'low_pass',
    'read_mask',
    'read_t1w',
    'registration_grid',
    'resample_brain',
    'upright_grid',
    'volume_ml',
]

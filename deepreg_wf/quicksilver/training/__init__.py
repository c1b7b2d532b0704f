"""Training: from a cohort of aligned brains to checkpoints."""

from __future__ import annotations

from .cohort import Cohort, CohortError, load_cohort, quantise, save_cohort, split
from .stages import TrainingSettings, train

__all__ = [
    'Cohort',
    'CohortError',
    'TrainingSettings',
    'load_cohort',
    'quantise',
    'save_cohort',
    'split',
    'train',
]

"""Training: from a cohort of aligned brains to checkpoints."""

from __future__ import annotations

from deepreg_wf.training.cohort import (
    Cohort,
    CohortError,
    load_cohort,
    quantise,
    save_cohort,
    split,
)
from deepreg_wf.training.pipeline import TrainingSettings, train

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

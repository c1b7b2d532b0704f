"""Training of the networks: from a cohort of aligned brains to checkpoints."""

from __future__ import annotations

from deepreg_wf.training.cohort import (
    Cohort,
    CohortError,
    choose_validation,
    load_cohort,
    quantise,
    save_cohort,
)
from deepreg_wf.training.pipeline import TrainingSettings, train

__all__ = [
    'Cohort',
    'CohortError',
    'TrainingSettings',
    'choose_validation',
    'load_cohort',
    'quantise',
    'save_cohort',
    'train',
]

"""The embedded demonstration: synthetic subjects whose transform to the template is known."""

from __future__ import annotations

from deepreg_wf.demo.dataset import SUBJECTS, Subject, brain_points, write_demo_dataset
from deepreg_wf.demo.score import Errors, registration_errors
from deepreg_wf.demo.truth import Truth, draw_truth

__all__ = [
    'SUBJECTS',
    'Errors',
    'Subject',
    'Truth',
    'brain_points',
    'draw_truth',
    'registration_errors',
    'write_demo_dataset',
]

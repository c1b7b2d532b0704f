"""The embedded demonstration: synthetic subjects whose transform to the template is known."""

from __future__ import annotations

from .dataset import SUBJECTS, Subject, brain_points, write_demo_dataset
from .score import Errors, registration_errors
from .truth import Truth, draw_truth

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

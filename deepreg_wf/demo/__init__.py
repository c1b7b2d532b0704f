"""Demonstration on synthetic subjects, whose transforms to the template are known."""

from __future__ import annotations

from deepreg_wf.demo.accuracy import PointErrors, registration_errors
from deepreg_wf.demo.dataset import (
    SUBJECTS,
    SyntheticSubject,
    brain_points,
    write_demo_dataset,
)
from deepreg_wf.demo.true_transform import TrueTransform, draw_true_transform

__all__ = [
    'SUBJECTS',
    'PointErrors',
    'SyntheticSubject',
    'TrueTransform',
    'brain_points',
    'draw_true_transform',
    'registration_errors',
    'write_demo_dataset',
]

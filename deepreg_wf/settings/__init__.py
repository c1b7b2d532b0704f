"""Settings of a run: frozen dataclasses, built by the command line and stored as TOML."""

from __future__ import annotations

from deepreg_wf.settings.compute import Compute
from deepreg_wf.settings.groups import (
    AFFINE_METHODS,
    ANALYSIS_LEVELS,
    DEFAULT_SPACE,
    DIRECTIONS,
    LEVELS,
    MOMENTUM_METHODS,
    SKULL_STRIP_METHODS,
    SKULL_STRIP_MODES,
    Anatomical,
    Execution,
    Output,
    Registration,
    Selection,
    check_device,
)
from deepreg_wf.settings.model import Settings, default_of, limits_of
from deepreg_wf.settings.toml import read_options

__all__ = [
    'AFFINE_METHODS',
    'ANALYSIS_LEVELS',
    'DEFAULT_SPACE',
    'DIRECTIONS',
    'LEVELS',
    'MOMENTUM_METHODS',
    'SKULL_STRIP_METHODS',
    'SKULL_STRIP_MODES',
    'Anatomical',
    'Compute',
    'Execution',
    'Output',
    'Registration',
    'Selection',
    'Settings',
    'check_device',
    'default_of',
    'limits_of',
    'read_options',
]

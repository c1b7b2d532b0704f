"""The command ``deepreg_wf-batch``: a dataset as an array of jobs, one participant a task."""

from __future__ import annotations

from .command import build_parser, main

__all__ = ['build_parser', 'main']

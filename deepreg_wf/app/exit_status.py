"""Exit statuses of the commands."""

from __future__ import annotations

ALL_DONE = 0
"""All images are done."""

SOME_FAILED = 1
"""Some images failed; the others are complete."""

UNUSABLE = 2
"""The call, or all of its input, cannot be used."""

INTERRUPTED = 130
"""The user or a scheduler interrupted the run: 128 plus the number of SIGINT."""

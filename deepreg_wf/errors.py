"""The errors that a user meets, each one clear sentence."""

from __future__ import annotations


class InputError(ValueError):
    """The input is unusable; the message names the file, what is wrong and what to do."""

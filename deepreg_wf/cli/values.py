"""Types of the values of options: each turns the text of an argument into a value."""

from __future__ import annotations

import argparse
import re
from pathlib import Path


def positive_integer(text: str) -> int:
    """Read an integer of 1 or more."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number of 1 or more')
    return int(text)


def minutes(text: str) -> int:
    """Read a time in minutes, given as their number or as H:MM:SS; seconds are rounded up."""
    if match := re.fullmatch(r'(\d+):([0-5]\d):([0-5]\d)', text):
        h, m, s = map(int, match.groups())
        return 60 * h + m + (s > 0)
    return positive_integer(text)


def mebibytes(text: str) -> int:
    """Read an amount of memory in MiB, or with a unit, such as 16G."""
    number, unit = text.rstrip('BbKkMmGgTt'), text.lstrip('0123456789').upper()
    factors = {'': 1, 'M': 1, 'MB': 1, 'G': 1024, 'GB': 1024, 'T': 1024**2, 'TB': 1024**2}
    if unit not in factors:
        raise argparse.ArgumentTypeError(f'{text!r} is no amount of memory, such as 8000 or 16G')
    return int(number) * factors[unit]


def named_folder(text: str) -> str:
    """Make the path in ``NAME=PATH`` absolute, so that saved settings do not depend on the cwd."""
    name, equals, path = text.rpartition('=')
    return f'{name}{equals}{Path(path).expanduser().absolute()}'


def participant_label(text: str) -> str:
    """Read the label of a participant, with or without ``sub-``."""
    return text.removeprefix('sub-')


def session_label(text: str) -> str:
    """Read the label of a session, with or without ``ses-``."""
    return text.removeprefix('ses-')

"""Types of the values of options: each turns the text of an argument into a value."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from pathlib import Path

from deepreg_wf.settings.validation import absolute_path

_MAXIMUM = 2**31 - 1
"""Largest whole number: more than any option needs, and a number of C."""

_MIB = {'': 1, 'M': 1, 'MB': 1, 'G': 1024, 'GB': 1024, 'T': 1024**2, 'TB': 1024**2}


def whole_number(text: str) -> int:
    """Read a whole number, with or without a sign, in the digits 0 to 9."""
    if re.fullmatch('[+-]?[0-9]{1,10}', text) is None or abs(int(text)) > _MAXIMUM:
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number')
    return int(text)


def positive_integer(text: str) -> int:
    """Read an integer of 1 or more."""
    return integer_from(1)(text)


def integer_from(low: int) -> Callable[[str], int]:
    """Make a type for whole numbers of `low` or more."""

    def read(text: str) -> int:
        if re.fullmatch('[+]?[0-9]{1,10}', text) and low <= int(text) <= _MAXIMUM:
            return int(text)
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number of {low} or more')

    return read


def number(text: str) -> float:
    """Read a finite number, in the digits 0 to 9."""
    try:
        value = float(text) if text.isascii() else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f'{text!r} is not a number')
    return value


def positive_number(text: str) -> float:
    """Read a finite number above 0."""
    value = number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f'{text!r} is not a number above 0')
    return value


def fraction(text: str) -> float:
    """Read a number of 0 or more that is below 1."""
    value = number(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a number from 0 to below 1')
    return value


def minutes(text: str) -> int:
    """Read a time in minutes, given as their number or as H:MM:SS; seconds are rounded up."""
    if match := re.fullmatch(r'([0-9]{1,6}):([0-5][0-9]):([0-5][0-9])', text):
        h, m, s = map(int, match.groups())
        text = str(60 * h + m + (s > 0))
    return positive_integer(text)


def mebibytes(text: str) -> int:
    """Read an amount of memory in MiB, or with a unit, such as 16G."""
    match = re.fullmatch(r'([0-9]{1,10})([A-Za-z]*)', text)
    if match is None or match[2].upper() not in _MIB:
        raise argparse.ArgumentTypeError(f'{text!r} is no amount of memory, such as 8000 or 16G')
    return int(match[1]) * _MIB[match[2].upper()]


def gpus(text: str) -> str:
    """Read a number of GPUs, with or without their type, such as ``a100:1``."""
    if re.fullmatch(r'([A-Za-z0-9_.-]+:)?[0-9]{1,4}', text) is None:
        raise argparse.ArgumentTypeError(f'{text!r} is no number of GPUs, such as 1 or a100:1')
    return text


def nonempty_path(text: str) -> Path:
    """Read a path; an empty one, which would mean the current folder, is refused."""
    return Path(nonempty(text))


def nonempty(text: str) -> str:
    """Read a text that is not empty."""
    if not text:
        raise argparse.ArgumentTypeError('it is empty')
    return text


def named_folder(text: str) -> str:
    """Make the path in ``NAME=PATH`` absolute, so that saved settings do not depend on the cwd."""
    name, equals, folder = text.rpartition('=')
    if not folder:
        raise argparse.ArgumentTypeError(f'{text!r} has no path')
    return f'{name}{equals}{absolute_path(folder)}'


def participant_label(text: str) -> str:
    """Read the label of a participant, with or without ``sub-``."""
    return nonempty(text.removeprefix('sub-'))


def session_label(text: str) -> str:
    """Read the label of a session, with or without ``ses-``."""
    return nonempty(text.removeprefix('ses-'))

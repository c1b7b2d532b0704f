"""Reading of the quality measures of a registration from its QC file."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepreg_wf.errors import InputError
from deepreg_wf.qc.criteria import CRITERIA
from deepreg_wf.utils.json_file import read_json_object

_NAME = re.compile(r'[A-Za-z]\w*', re.ASCII)


def read_measures(path: Path) -> dict[str, float | None]:
    """Read a QC file.

    Parameters
    ----------
    path : Path
        File that ends in ``_desc-registration_qc.json``.

    Returns
    -------
    dict of str to float or None
        Measures by name; None stands for one that was not measured. Names that no criterion
        uses are kept if their value is a number.

    Raises
    ------
    InputError
        If it is not the file of a registration, or a measure is not a finite number.
    """
    try:
        return _check_measures(read_json_object(path))
    except InputError as error:
        raise InputError(error.problem, advice='run this image again', path=path) from error


def _check_measures(content: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the numbers of a QC file; raise an error if a measure is anything else."""
    graded = {name for each in CRITERIA for name in (each.key, each.baseline) if name}
    if graded.isdisjoint(content):
        raise InputError('not the quality measures of a registration')
    measures: dict[str, float | None] = {}
    for name, value in content.items():
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            if _NAME.fullmatch(name):
                measures[name] = None if value is None else _finite(name, value)
        elif name in graded:
            raise InputError(f'{name} is not a number')
    return measures


def _finite(name: str, value: float) -> float:
    """Convert a number to float; raise an error if it is infinite, NaN or too large."""
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InputError(f'{name} is not a finite number')
    return number

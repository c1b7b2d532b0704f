"""The specification of a network in the metadata of its file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from deepreg_wf.checkpoints.field_names import current_names

Check = Callable[[Any], bool]


def parse_spec(text: str) -> dict[str, Any]:
    """Read the specification of a network and check its values.

    Parameters
    ----------
    text : str
        JSON, as a weights file has it.

    Returns
    -------
    dict of str to object
        Values under the current names.

    Raises
    ------
    ValueError
        If it is not a JSON object, or a value is impossible; in one line.
    """
    try:
        spec = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError('they are not JSON') from None
    if not isinstance(spec, dict):
        raise ValueError('they are not a JSON object')
    spec = current_names(spec)
    check_spec(spec)
    return spec


def check_spec(spec: Mapping[str, Any]) -> None:
    """Check that the values of a specification are possible.

    Parameters
    ----------
    spec : mapping of str to object
        Specification of a network under the current names; other names are not checked.

    Raises
    ------
    ValueError
        If a value is of another type, not finite, or out of its range.
    """
    for name, is_possible in _CHECKS.items():
        if name in spec and not is_possible(spec[name]):
            raise ValueError(f'{name} is {_shortened(spec[name])}')


def _whole(low: int, high: int) -> Check:
    """Make a check for whole numbers from `low` to `high`."""
    return lambda value: type(value) is int and low <= value <= high


def _real(low: float, high: float) -> Check:
    """Make a check for numbers from `low` to `high`; NaN is none."""
    return lambda value: type(value) in (int, float) and low <= value <= high


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_box(value: Any) -> bool:
    """Return whether a value is the shape of an input box."""
    is_side = _whole(8, 512)
    return isinstance(value, list | tuple) and len(value) == 3 and all(map(is_side, value))


def _is_metric(value: Any) -> bool:
    """Return whether a value has the parameters of an invertible metric."""
    checks = {
        'alpha': _real(0, _LARGE),
        'beta': _real(0, _LARGE),
        'gamma': _real(_SMALL, _LARGE),
        'power': _whole(1, 8),
        'discrete': _is_flag,
    }
    return (
        isinstance(value, Mapping)
        and value.keys() == checks.keys()
        and all(check(value[name]) for name, check in checks.items())
    )


def _shortened(value: Any) -> str:
    words = ' '.join(repr(value).split())
    return words if len(words) <= 60 else f'{words[:57]}...'


_SMALL, _LARGE = 1e-12, 1e12
_MM = _real(0.05, 100)
_CHECKS: dict[str, Check] = {
    'features': _whole(1, 4096),
    'patch_size': _whole(3, 512),
    'channels': _whole(1, 64),
    'gradient_channels': _is_flag,
    'dropout': lambda value: _real(0, 1)(value) and value < 1,
    'stride': _whole(0, 512),
    'spacing': _MM,
    'energy_spacing': _MM,
    'n_iterations': _whole(0, 1000),
    'metric': _is_metric,
    'whitened': _is_flag,
    'output_scale': _real(_SMALL, _LARGE),
    'uncertainty_scale': _real(_SMALL, _LARGE),
    'shape': _is_box,
    'volume': _real(1e3, 1e8),
}
"""Check of each value by its name, for the networks of momenta and of the affine."""

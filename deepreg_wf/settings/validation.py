"""Conversion and validation of the values of settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from deepreg_wf.errors import InputError

T = TypeVar('T')

_KIND_NAMES: dict[object, str] = {
    tuple: 'a list of words',
    Path: 'a path',
    float: 'a number',
    int: 'a whole number',
    bool: 'true or false',
    str: 'a word',
}


def build_group(group: type[T], given: Mapping[str, object]) -> T:
    """Build a group of settings from values as options or TOML have them.

    Parameters
    ----------
    group : type
        One of `deepreg_wf.settings.groups.GROUPS`.
    given : mapping of str to object
        Values by the name of their field.

    Returns
    -------
    object
        An instance of `group`.

    Raises
    ------
    InputError
        If a value is missing or has the wrong type.
    """
    hints = get_type_hints(group)
    values = {name: _convert(name, value, hints[name]) for name, value in given.items()}
    for item in fields(group):  # type: ignore[arg-type]  # all groups are dataclasses
        if item.default is MISSING and item.name not in values:
            raise InputError(f'{item.name}: not given', advice='see deepreg_wf --help')
    return group(**values)


def check_ranges(group: Any) -> None:
    """Check the choices and ranges of the fields of a group.

    Parameters
    ----------
    group : dataclass instance
        A group of settings.

    Raises
    ------
    InputError
        If a value is none of its choices, or out of its range.
    """
    for item in fields(group):
        value, limits = getattr(group, item.name), item.metadata
        if 'choices' in limits and value not in limits['choices']:
            raise InputError(
                f'{item.name}: {value!r} is unknown',
                advice=f'choose {" or ".join(limits["choices"])}',
            )
        if 'low' in limits and value is not None and not limits['low'] <= value <= limits['high']:
            raise InputError(
                f'{item.name}: {value} is out of range', advice=_describe_range(limits)
            )


def absolute_path(path: str | Path) -> Path:
    """Make a path absolute; ``~`` is the home folder, where there is one.

    Parameters
    ----------
    path : path-like
        As the user wrote it.

    Returns
    -------
    Path
    """
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError:  # no such user
        return Path(path).absolute()


def _convert(name: str, value: object, hint: Any) -> object:
    """Convert a value to the type of its field."""
    options = [kind for kind in get_args(hint) if kind is not NoneType]
    _check_text(name, value)
    if get_origin(hint) is tuple:
        if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
            return tuple(value)
    elif NoneType in get_args(hint):
        return None if value is None else _convert(name, value, options[0])
    elif hint is Path and isinstance(value, (str, Path)):
        return absolute_path(value)
    elif hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    elif type(value) is hint:
        return value
    kind = _KIND_NAMES[get_origin(hint) or hint]
    raise InputError(f'{name}: {value!r} is not {kind}', advice='correct it')


def _check_text(name: str, value: object) -> None:
    """Refuse texts, also in a list, that are empty or that no settings file can hold."""
    for text in value if isinstance(value, (list, tuple)) else [value]:
        # An empty path would mean the current folder.
        if not isinstance(text, (str, Path)) or (text and _is_storable(str(text))):
            continue
        problem = f'{str(text)!r} has a character that is not allowed' if text else 'it is empty'
        raise InputError(f'{name}: {problem}', advice='give another value or leave it out')


def _is_storable(text: str) -> bool:
    """Return whether a text is Unicode (names of files may be other bytes), without nulls."""
    try:
        return b'\0' not in text.encode()
    except UnicodeEncodeError:
        return False


def _describe_range(limits: Mapping[str, float]) -> str:
    if limits['high'] == float('inf'):
        return f'give {limits["low"]:g} or more'
    return f'give a value from {limits["low"]:g} to {limits["high"]:g}'

"""Settings files: TOML with one table for each group, and one with facts about the run."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from deepreg_wf.errors import InputError
from deepreg_wf.settings.groups import GROUPS

RUN_TABLE = 'run'
"""Table with facts about the run, such as its command line; it is ignored on reading."""


def read_options(text: str, *, source: str) -> dict[str, Any]:
    """Read a settings file as a flat mapping.

    Parameters
    ----------
    text : str
        Content of the file, TOML.
    source : str
        Name of the file, for messages.

    Returns
    -------
    dict
        Values by the name of their field.

    Raises
    ------
    InputError
        If the text is not TOML, or has a table or a key that is not a setting.
    """
    options: dict[str, Any] = {}
    for table, values in _parse(text, source).items():
        if table == RUN_TABLE:
            continue
        if table not in GROUPS or not isinstance(values, dict):
            raise InputError(
                f'unknown table or key {table!r}',
                advice=f'the tables are {", ".join(GROUPS)}',
                path=source,
            )
        known = [item.name for item in fields(GROUPS[table])]
        for name, value in values.items():
            if name not in known:
                raise InputError(
                    f'unknown key {name!r} in [{table}]',
                    advice=f'the keys are {", ".join(known)}',
                    path=source,
                )
            options[name] = value
    return options


def write_options(groups: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    """Write groups of settings as TOML, without the values that are None.

    Parameters
    ----------
    groups : mapping of str to dataclass instance
        Groups by the name of their table.
    run : mapping of str to object
        Facts about the run.

    Returns
    -------
    str
    """
    import tomli_w

    tables: dict[str, Any] = {RUN_TABLE: run}
    for table, group in groups.items():
        values = {item.name: getattr(group, item.name) for item in fields(group)}
        tables[table] = {
            name: _to_toml(value) for name, value in values.items() if value is not None
        }
    return tomli_w.dumps(tables)


def _parse(text: str, source: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        tables: dict[str, Any] = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # not TOML, too many digits, or deep nesting
        reason = ' '.join(str(error).split()).rstrip('.')
        raise InputError(
            f'not a TOML file ({reason})', advice='correct it or leave it out', path=source
        ) from error
    return tables


def _to_toml(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value

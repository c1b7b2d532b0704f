"""JSON files that users write."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from deepreg_wf.errors import InputError
from deepreg_wf.utils.regular_file import check_regular_file

MAX_BYTES = 2**26
"""Size of the largest file that is read."""


def read_json(path: str | Path) -> Any:
    """Read a JSON file, in UTF-8 with or without a byte order mark.

    Parameters
    ----------
    path : path-like
        Name of the file.

    Returns
    -------
    object
        Its content.

    Raises
    ------
    InputError
        If it cannot be read, is larger than `MAX_BYTES`, is not UTF-8, or is not valid JSON; then
        with line and column.
    """
    try:
        _check_file(Path(path))
        return json.loads(Path(path).read_text(encoding='utf-8-sig'))
    except OSError as error:
        raise InputError(
            f'it cannot be read ({error.strerror})', advice='check the file', path=path
        ) from None
    except UnicodeDecodeError:
        raise InputError('it is not UTF-8 text', advice='save it as UTF-8', path=path) from None
    except json.JSONDecodeError as error:
        raise InputError(
            f'it is not valid JSON (line {error.lineno}, column {error.colno}: {error.msg})',
            advice='correct it',
            path=path,
        ) from None
    except InputError:
        raise
    except (ValueError, RecursionError):  # a number of too many digits, or deep nesting
        raise InputError('it is not usable JSON', advice='correct it', path=path) from None


def read_json_object(path: str | Path) -> dict[str, Any]:
    """Read a JSON file that contains an object.

    Parameters
    ----------
    path : path-like
        Name of the file.

    Returns
    -------
    dict
        Its content.

    Raises
    ------
    InputError
        As for `read_json`, and if the content is not an object.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError('it is not a JSON object', advice='correct it', path=path)
    return content


def _check_file(path: Path) -> None:
    """Check that a path leads to a file, and not to a pipe or to gigabytes."""
    check_regular_file(path)
    size = os.path.getsize(path)
    if size > MAX_BYTES:
        raise InputError(
            f'it is too large for JSON ({size / 2**20:.0f} MiB)', advice='replace it', path=path
        )

"""JSON files that users write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from deepreg_wf.errors import InputError
from deepreg_wf.utils.text_file import read_user_text


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
        As for `read_user_text`, and if it is not valid JSON; then with line and column.
    """
    text = read_user_text(path)
    try:
        content = json.loads(text)
        if '\\u' in text:
            json.dumps(content, ensure_ascii=False).encode()
        return content
    except json.JSONDecodeError as error:
        raise InputError(
            f'it is not valid JSON (line {error.lineno}, column {error.colno}: {error.msg})',
            advice='correct it',
            path=path,
        ) from None
    except (ValueError, RecursionError):  # too many digits, half a character, or deep nesting
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

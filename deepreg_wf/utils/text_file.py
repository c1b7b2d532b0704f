"""Text files that users write."""

from __future__ import annotations

import os
from pathlib import Path

from deepreg_wf.errors import InputError
from deepreg_wf.utils.regular_file import check_regular_file

MAX_BYTES = 2**26
"""Size of the largest file that is read."""


def read_user_text(path: str | Path) -> str:
    """Read a text file, in UTF-8 with or without a byte order mark.

    Parameters
    ----------
    path : path-like
        Name of the file.

    Returns
    -------
    str
        Its content.

    Raises
    ------
    InputError
        If it is not a regular file, cannot be read, is larger than `MAX_BYTES`, or is not UTF-8.
    """
    check_regular_file(path)
    size = os.path.getsize(path)
    if size > MAX_BYTES:
        raise InputError(
            f'it is too large for a text file ({size / 2**20:.0f} MiB)',
            advice='replace it',
            path=path,
        )
    try:
        return Path(path).read_text(encoding='utf-8-sig')
    except OSError as error:
        raise InputError(
            f'it cannot be read ({error.strerror})', advice='check the file', path=path
        ) from None
    except UnicodeDecodeError:
        raise InputError('it is not UTF-8 text', advice='save it as UTF-8', path=path) from None

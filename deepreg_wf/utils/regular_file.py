"""Regular files whose content is present, and the errors for those that are not."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from deepreg_wf.errors import InputError

_POINTERS = (b'/annex/objects/', b'version https://git-lfs')
"""Beginnings of the files that stand for content that git-annex or git-lfs has elsewhere."""


def check_regular_file(path: str | Path) -> None:
    """Check that a path is a regular file, without opening it.

    Parameters
    ----------
    path : str or Path
        Any file.

    Raises
    ------
    InputError
        If it is missing, a link without a target, a folder, a named pipe or another special file.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise _missing_file(path) from None
    except OSError as error:
        raise InputError(
            f'it cannot be opened ({error.strerror})', advice='check the path', path=path
        ) from None
    if not stat.S_ISREG(mode):
        kind = 'a folder' if stat.S_ISDIR(mode) else 'a special file'
        raise InputError(f'it is {kind}', advice='give a regular file', path=path)


def check_present(path: str | Path) -> None:
    """Check that a path is a regular file whose content is present and may be read.

    Parameters
    ----------
    path : str or Path
        Any file.

    Raises
    ------
    InputError
        As for `check_regular_file`, and if the file is a git-annex or git-lfs pointer, empty, or
        closed to the user.
    """
    check_regular_file(path)
    try:
        with open(path, 'rb') as file:
            start = file.read(64)
    except PermissionError:
        raise InputError(
            'it may not be read', advice='change its permissions', path=path
        ) from None
    except OSError as error:
        raise InputError(
            f'it cannot be opened ({error.strerror})', advice='check the path', path=path
        ) from None
    if start.startswith(_POINTERS):
        raise _content_missing(path)
    if not start:
        raise InputError('it is empty', advice='restore it from its source', path=path)


def _missing_file(path: str | Path) -> InputError:
    """Return the error for a file that does not exist, or a link without a target."""
    if not os.path.islink(path):
        return InputError('there is no such file', advice='check the path', path=path)
    if 'annex' in Path(os.readlink(path)).parts:
        return _content_missing(path)
    return InputError(
        'it is a link to a file that does not exist', advice='restore that file', path=path
    )


def _content_missing(path: str | Path) -> InputError:
    return InputError(
        'its content is not on this machine (git-annex or git-lfs)',
        advice=f'fetch it, for example with `datalad get {path}`',
        path=path,
    )

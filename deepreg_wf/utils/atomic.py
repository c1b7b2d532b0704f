"""How a file comes to bear its name: complete or not at all."""

from __future__ import annotations

import filecmp
import os
import re
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

LONGEST = 3600.0
"""Seconds after which a draft that nobody has written to is taken for one that was left behind."""


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Lend a draft beside `path` that takes its place once the block has ended well.

    So a reader, or a run that was cut off, never finds half a file under a final name. A file
    that already holds the same bytes is left as it is, with its date.

    Parameters
    ----------
    path : path
        The final name; missing folders are made.

    Yields
    ------
    Path
        The draft to write, hidden, with the extensions of `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f'.draft-{os.getpid()}@{_host()}-{path.name}')
    try:
        yield draft
        if not (path.is_file() and filecmp.cmp(draft, path, shallow=False)):
            _store(draft)
            draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def remove_leftovers(folders: Iterable[Path]) -> list[Path]:
    """Remove the drafts of processes that were killed; those of others stay.

    Parameters
    ----------
    folders : iterable of Path
        Those looked through, without the folders in them; they may be missing.

    Returns
    -------
    list of Path
        What was removed.
    """
    left = [path for folder in folders for path in folder.glob('.draft-*') if _is_left(path)]
    for path in left:
        path.unlink(missing_ok=True)
    return left


def _store(draft: Path) -> None:
    """Have the bytes on the disk before the name: a disk may tell only now that it is full."""
    descriptor = os.open(draft, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _host() -> str:
    return re.sub(r'[^\w.]', '_', socket.gethostname())


def _is_left(draft: Path) -> bool:
    """Whether the process is gone that was writing a draft; on another machine only time tells."""
    number, at, rest = draft.name.removeprefix('.draft-').partition('@')
    if at and number.isdigit() and rest.startswith(f'{_host()}-') and not _is_alive(int(number)):
        return True
    try:
        return time.time() - draft.stat().st_mtime > LONGEST
    except FileNotFoundError:  # it has just become its file
        return False


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True

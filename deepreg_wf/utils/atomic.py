"""Atomic file writes: a file appears under its final name only when it is complete."""

from __future__ import annotations

import filecmp
import json
import os
import re
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MAX_IDLE = 3600.0
"""Seconds without a write after which a temporary file of another machine counts as stale."""

_PREFIX = '.tmp-'


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Replace a file by a temporary file that the block writes, if the block succeeds.

    A reader, or a run that was interrupted, never finds an incomplete file under the final name.
    A file that already holds the same bytes is not replaced and keeps its modification time.

    Parameters
    ----------
    path : str or Path
        The final name. Missing parent folders are made.

    Yields
    ------
    Path
        A hidden file beside `path`, with the same extensions, for the block to write.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'{_PREFIX}{os.getpid()}@{_host()}-{path.name}')
    try:
        yield temporary
        if not (path.is_file() and filecmp.cmp(temporary, path, shallow=False)):
            _flush_to_disk(temporary)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file (UTF-8) atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding='utf-8')


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + '\n')


def remove_stale_temporaries(folders: Iterable[Path]) -> list[Path]:
    """Remove the temporary files of processes that no longer run.

    Parameters
    ----------
    folders : iterable of Path
        Folders to search, not recursively. They may be missing.

    Returns
    -------
    list of Path
        The files that were removed.
    """
    stale = [path for folder in folders for path in folder.glob(f'{_PREFIX}*') if _is_stale(path)]
    for path in stale:
        path.unlink(missing_ok=True)
    return stale


def _flush_to_disk(temporary: Path) -> None:
    """Flush a file to the disk, which may report only now that it is full."""
    descriptor = os.open(temporary, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _host() -> str:
    return re.sub(r'[^\w.]', '_', socket.gethostname())


def _is_stale(temporary: Path) -> bool:
    """Tell whether the process that wrote a temporary file has ended.

    Processes of another machine cannot be looked up; their files are judged by age.
    """
    pid, at, rest = temporary.name.removeprefix(_PREFIX).partition('@')
    if at and pid.isdigit() and rest.startswith(f'{_host()}-') and not _is_running(int(pid)):
        return True
    try:
        return time.time() - temporary.stat().st_mtime > MAX_IDLE
    except FileNotFoundError:  # its process has just given it the final name
        return False


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # a process of another user
        return True
    return True

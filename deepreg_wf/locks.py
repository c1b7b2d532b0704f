"""Locks between processes: whoever ends, however it ends, lets go of its own.

A file system that knows no locks (some cluster file systems, unless mounted with them) is used
without: files are still written whole, and nothing then keeps two runs from the same work.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from types import TracebackType

_HELD = (errno.EACCES, errno.EAGAIN)
_UNKNOWN = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Have a block to oneself among all processes and threads that lock the same file.

    Parameters
    ----------
    path : Path
        The lock, a file that is made where there is none and stays. Over NFS it holds between
        machines, too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('a') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _UNKNOWN:
                raise
        yield  # closing the file lets go


class Claims:
    """What this process is at work on, said in a file where others look.

    One file serves any number of claims, each of which is a byte of it that is locked.

    Parameters
    ----------
    path : Path
        The file; made where there is none, it stays empty.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)

    def __enter__(self) -> Claims:
        """Use it for the length of a block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let go of everything."""
        os.close(self._file)

    def take(self, name: str) -> bool:
        """Claim something; False if another process has it."""
        return self._lock(1, 1 + int.from_bytes(sha256(name.encode()).digest()[:7], 'big'))

    def take_all(self) -> bool:
        """Claim whatever there is; False if another process has any of it."""
        return self._lock(0, 0)

    def release_all(self) -> None:
        """Let go of everything."""
        fcntl.lockf(self._file, fcntl.LOCK_UN)

    def _lock(self, length: int, start: int) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
        except OSError as error:
            if error.errno not in (*_HELD, *_UNKNOWN):
                raise
            return error.errno in _UNKNOWN
        return True

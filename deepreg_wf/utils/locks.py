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
        The lock, a file that is there as long as somebody has it. Over NFS it holds between
        machines, too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open('a') as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in _UNKNOWN:
                    raise
            if not _is_at(file.fileno(), path):
                continue  # whoever had it before has removed it
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


class Claims:
    """What this process is at work on, said in a file where others look.

    One file serves any number of claims, each of which is a byte of it that is locked.

    Parameters
    ----------
    path : Path
        The file; it is empty, and there as long as somebody has a claim.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file = self._open()

    def __enter__(self) -> Claims:
        """Use it for the length of a block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let go of everything; the last one removes the file."""
        if self.take_all() and _is_at(self._file, self._path):
            self._path.unlink(missing_ok=True)
        os.close(self._file)

    def take(self, name: str) -> bool:
        """Claim something; False if another process has it."""
        byte = 1 + int.from_bytes(sha256(name.encode()).digest()[:7], 'big')
        while True:
            is_taken = self._lock(1, byte)
            if _is_at(self._file, self._path):
                return is_taken
            os.close(self._file)  # the last of the others has removed it, so that we have nothing
            self._file = self._open()

    def take_all(self) -> bool:
        """Claim whatever there is; False if another process has any of it."""
        return self._lock(0, 0)

    def _open(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)

    def _lock(self, length: int, start: int) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
        except OSError as error:
            if error.errno not in (*_HELD, *_UNKNOWN):
                raise
            return error.errno in _UNKNOWN
        return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False

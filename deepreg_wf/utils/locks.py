"""Locks between processes, which end with the process that holds them.

The locks are those of the operating system (``flock``). A file system without such locks, as some
cluster file systems are, is used without: files are still written whole, but then nothing keeps
two runs from the same work.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from uuid import uuid4

from filelock import FileLock, Timeout

_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_GUARD = 'guard'


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Run a block while no other process or thread holds the lock of the same file.

    Parameters
    ----------
    path : Path
        The lock file, which exists only while a process holds or awaits the lock. Missing parent
        folders are made. On NFS the lock holds between machines, too.
    """
    lock = None
    while lock is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # another process has just removed the empty folder
            lock = _acquire(path, wait=True)
    try:
        yield
    finally:
        _release(lock)


class ParticipantLocks:
    """Locks of this process on participants, in a folder that other processes share.

    Each process holds one lock, on a file of its own that lists its participants. So any number
    of participants costs one open file, and all are released when the process ends, however it
    ends.

    Parameters
    ----------
    folder : Path
        Folder of the lock files. It exists only while a process uses it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / f'{uuid4().hex}.lock'
        self._names: set[str] = set()
        with locked(folder / _GUARD):
            self._lock = _acquire(self._path, wait=False)

    def __enter__(self) -> ParticipantLocks:
        """Hold the locks for the length of a block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Release all locks. The last process removes the folder."""
        with locked(self._folder / _GUARD):
            if self._lock is not None:
                _release(self._lock)
        with suppress(OSError):  # not empty: another process uses it
            self._folder.rmdir()

    def try_acquire(self, name: str) -> bool:
        """Lock one participant; return False if another process holds that lock.

        Parameters
        ----------
        name : str
            Label of the participant.

        Returns
        -------
        bool
            True if this process holds the lock now.
        """
        return name in self.try_acquire_all([name])

    def try_acquire_all(self, names: Iterable[str]) -> set[str]:
        """Lock every participant that no other process has locked.

        Parameters
        ----------
        names : iterable of str
            Labels of the participants.

        Returns
        -------
        set of str
            The labels among `names` that this process holds now.
        """
        with locked(self._folder / _GUARD):
            free = set(names) - _locked_names(self._folder, except_for=self._path)
            self._names |= free
            self._path.write_text('\n'.join(sorted(self._names)), encoding='utf-8')
        return free


def is_locked(folder: Path) -> bool:
    """Tell whether any process holds a lock on a participant.

    Parameters
    ----------
    folder : Path
        Folder of the lock files; it may be missing.

    Returns
    -------
    bool
        False if no process does, or if the folder is missing.
    """
    if not folder.exists():
        return False
    with locked(folder / _GUARD):
        names = _locked_names(folder)
    with suppress(OSError):  # not empty
        folder.rmdir()
    return bool(names)


def _locked_names(folder: Path, except_for: Path | None = None) -> set[str]:
    """Return the participants locked by running processes; remove the files of others."""
    names: set[str] = set()
    for path in folder.glob('*.lock'):
        if path == except_for:
            continue
        stale = _acquire(path, wait=False)
        if stale is None:
            names.update(path.read_text(encoding='utf-8').splitlines())
        else:
            _release(stale)
    return names


def _acquire(path: Path, *, wait: bool) -> FileLock | None:
    """Acquire the lock of a file; return None if another process has it."""
    lock = FileLock(path, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire(blocking=wait)
    except Timeout:
        return None
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    return lock


def _release(lock: FileLock) -> None:
    """Remove a lock file and release its lock.

    The file is removed first: a process that waits for the lock then finds that the file which it
    has opened is gone, and opens a new one.
    """
    Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()

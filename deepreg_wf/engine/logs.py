"""Keep what libraries print apart from what a person reads."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO


@dataclass(frozen=True)
class Streams:
    """Where a person reads: `out` for progress, `err` for what went wrong."""

    out: TextIO
    err: TextIO


@contextmanager
def libraries_to(log_file: Path | None) -> Iterator[Streams]:
    """Send all that libraries print to a file, worker processes and compiled code too.

    The standard descriptors themselves are turned round, because neither ITK nor a child process
    asks Python where to print.

    Parameters
    ----------
    log_file
        The file; None leaves everything where it is.

    Yields
    ------
    Streams
        The standard streams as they were.

    """
    if log_file is None:
        yield Streams(sys.stdout, sys.stderr)
        return
    log_file.parent.mkdir(parents=True, exist_ok=True)
    _flush()
    saved = os.dup(1), os.dup(2)
    out, err = _reopened(saved[0], sys.stdout), _reopened(saved[1], sys.stderr)
    with log_file.open('a') as log, out, err:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            yield Streams(out, err)
        finally:
            _flush()
            os.dup2(saved[0], 1)
            os.dup2(saved[1], 2)


def _reopened(descriptor: int, like: TextIO) -> TextIO:
    """Text stream, line by line, that closes the descriptor in the end."""
    return os.fdopen(descriptor, 'w', buffering=1, encoding=like.encoding, errors='replace')


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # a log that finds no room is no reason to end
            stream.flush()

"""Separate streams for the output of libraries and for the lines that the user reads."""

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
    """Streams that the user reads.

    Parameters
    ----------
    out : TextIO
        For progress and results.
    err : TextIO
        For failures.
    """

    out: TextIO
    err: TextIO


@contextmanager
def redirect_output(log_file: Path | None) -> Iterator[Streams]:
    """Redirect the output of libraries to a file, that of worker processes included.

    The file descriptors are redirected, since neither compiled code such as ITK nor a child
    process uses ``sys.stdout``.

    Parameters
    ----------
    log_file : Path or None
        The file; None leaves all output where it is.

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
    out, err = _open_stream(saved[0], sys.stdout), _open_stream(saved[1], sys.stderr)
    with log_file.open('a') as log, out, err:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            yield Streams(out, err)
        finally:
            _flush()
            os.dup2(saved[0], 1)
            os.dup2(saved[1], 2)


def _open_stream(descriptor: int, like: TextIO) -> TextIO:
    """Open a line-buffered text stream, which closes the descriptor in the end."""
    return os.fdopen(descriptor, 'w', buffering=1, encoding=like.encoding, errors='replace')


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # a full disk under the log does not end the run
            stream.flush()

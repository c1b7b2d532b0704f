"""What the machine says when it has run out of something, in words that say what to do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ErrorHint:
    """A kind of failure that is no fault of the program.

    Parameters
    ----------
    signs : tuple of str
        One of these is in what is said.
    meaning, advice : str
        What has happened, and what to do.
    """

    signs: tuple[str, ...]
    meaning: str
    advice: str


MEMORY = ErrorHint(
    (
        'MemoryError',
        'Unable to allocate',  # numpy
        "can't allocate memory",  # torch on the CPU
        'out of memory',  # torch on a GPU
        'OutOfMemoryError',
        'bad_alloc',  # C++
        'Failed to allocate memory',  # ITK
        'Cannot allocate memory',
    ),
    'the memory does not suffice',
    'give the run more memory, fewer threads with --omp-nthreads, or smaller images',
)
DISK = ErrorHint(
    ('No space left on device', 'Disk quota exceeded', 'File too large'),
    'the disk is full',
    'make room, and make the same call again',
)
_FAILING = ErrorHint(
    ('Input/output error', 'Stale file handle', 'Transport endpoint is not connected'),
    'the disk cannot be reached or is failing',
    'make the same call again once it is there',
)
_FORBIDDEN = ErrorHint(
    ('Permission denied', 'Operation not permitted'),
    'a file may not be read or written',
    'change its permissions, and make the same call again',
)
_READ_ONLY = ErrorHint(
    ('Read-only file system',),
    'the disk can only be read',
    'give an output and a work folder that can be written',
)
_TROUBLES = (MEMORY, DISK, _FAILING, _FORBIDDEN, _READ_ONLY)


def is_out_of_memory(said: str) -> bool:
    """Tell whether an exception, as text, says that there is not enough memory."""
    return any(sign in said for sign in MEMORY.signs)


def explain(said: str) -> str:
    """Put what an exception says in words, if it is of a kind that is known here.

    Parameters
    ----------
    said : str
        Name and message of the exception.

    Returns
    -------
    str
        One sentence without its full stop; what was said, if nothing is known of it.

    Examples
    --------
    >>> explain("OSError: [Errno 28] No space left on device: 'x.h5'")
    "the disk is full (OSError: [Errno 28] No space left on device: 'x.h5'); make room, and make \
the same call again"
    >>> explain('ValueError: odd')
    'ValueError: odd'
    """
    for trouble in _TROUBLES:
        if any(sign in said for sign in trouble.signs):
            return f'{trouble.meaning} ({said.rstrip(".")}); {trouble.advice}'
    return said

"""Hints for errors of the operating system: a full disk, too little memory, no permission."""

from __future__ import annotations

import errno
from dataclasses import dataclass


@dataclass(frozen=True)
class ErrorHint:
    """Explanation of a kind of failure whose cause is outside the program.

    Parameters
    ----------
    codes : tuple of int
        Error numbers (`errno`) of an `OSError` of this kind.
    types : tuple of str
        Names of other exceptions of this kind, for not all of their packages are imported.
    phrases : tuple of str
        One of these is in the message of such an exception. They are for exceptions that come
        from another process as text, and for libraries that raise a `RuntimeError`.
    meaning : str
        What has happened.
    advice : str
        What the user can do.
    """

    codes: tuple[int, ...]
    types: tuple[str, ...]
    phrases: tuple[str, ...]
    meaning: str
    advice: str

    def fits(self, error: BaseException | str) -> bool:
        """Tell whether an exception, or the text of one, is of this kind.

        Parameters
        ----------
        error : BaseException or str
            The exception, or its name and message.

        Returns
        -------
        bool
            True if it is of this kind.
        """
        if isinstance(error, str):
            return any(phrase in error for phrase in (*self.types, *self.phrases))
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno in self.codes
        names = {kind.__name__ for kind in type(error).__mro__}
        return not names.isdisjoint(self.types) or any(p in str(error) for p in self.phrases)


MEMORY = ErrorHint(
    (errno.ENOMEM,),
    ('MemoryError', 'OutOfMemoryError'),  # Python, torch
    (
        'Unable to allocate',  # numpy
        "can't allocate memory",  # torch on the CPU
        'out of memory',  # torch on a GPU
        'bad_alloc',  # C++
        'Failed to allocate memory',  # ITK
        'Cannot allocate memory',
    ),
    'there is not enough memory',
    'give the run more memory, fewer threads with --omp-nthreads, or smaller images',
)
DISK = ErrorHint(
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    (),
    ('No space left on device', 'Disk quota exceeded', 'File too large'),
    'the disk is full',
    'make room, and make the same call again',
)
_UNREACHABLE = ErrorHint(
    (errno.EIO, errno.ESTALE, errno.ENOTCONN),
    (),
    ('Input/output error', 'Stale file handle', 'Transport endpoint is not connected'),
    'the disk cannot be reached or is failing',
    'make the same call again once it is there',
)
_FORBIDDEN = ErrorHint(
    (errno.EACCES, errno.EPERM),
    (),
    ('Permission denied', 'Operation not permitted'),
    'a file may not be read or written',
    'change its permissions, and make the same call again',
)
_READ_ONLY = ErrorHint(
    (errno.EROFS,),
    (),
    ('Read-only file system',),
    'the disk can only be read',
    'give an output and a work folder that can be written',
)
_HINTS = (MEMORY, DISK, _UNREACHABLE, _FORBIDDEN, _READ_ONLY)


def is_out_of_memory(error: BaseException | str) -> bool:
    """Tell whether an exception means that there is not enough memory.

    Parameters
    ----------
    error : BaseException or str
        The exception, or its name and message where it comes from another process.

    Returns
    -------
    bool
        True if memory of the machine or of a GPU ran out.
    """
    return MEMORY.fits(error)


def find_hint(error: BaseException | str) -> ErrorHint | None:
    """Return the hint for an exception, or None if its kind is not known.

    Parameters
    ----------
    error : BaseException or str
        The exception, or its name and message where it comes from another process.

    Returns
    -------
    ErrorHint or None
        Explanation and advice.
    """
    return next((hint for hint in _HINTS if hint.fits(error)), None)


def explain_exception(error: BaseException, text: str = '') -> str:
    """Explain an exception of the operating system; return that of any other as it is.

    Parameters
    ----------
    error : BaseException
        The exception.
    text : str
        Its description in the sentence; by default its message.

    Returns
    -------
    str
        One sentence without its full stop.

    Examples
    --------
    >>> explain_exception(OSError(28, 'No space left on device', 'x.h5'))
    "the disk is full ([Errno 28] No space left on device: 'x.h5'); make room, and make the same \
call again"
    """
    return _explained(error, text or str(error))


def explain(text: str) -> str:
    """Explain an exception of another process, of which only the text is known.

    Parameters
    ----------
    text : str
        Name and message of the exception.

    Returns
    -------
    str
        One sentence without its full stop: `text` itself if it is of no known kind.

    Examples
    --------
    >>> explain("OSError: [Errno 28] No space left on device: 'x.h5'")
    "the disk is full (OSError: [Errno 28] No space left on device: 'x.h5'); make room, and make \
the same call again"
    >>> explain('ValueError: odd')
    'ValueError: odd'
    """
    return _explained(text, text)


def _explained(error: BaseException | str, text: str) -> str:
    hint = find_hint(error)
    return f'{hint.meaning} ({text.rstrip(".")}); {hint.advice}' if hint else text

"""Calls into ITK, each in a process of its own.

ITK reads its number of threads once in the life of a process, and its results can depend on it.
In a process of its own a call has the threads it asks for, whatever ran before; a crash of ITK
becomes an exception, and its memory is given back.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

Result = TypeVar('Result')

_SERVE = 'import sys; from deepreg_wf.utils.itk_subprocess import serve; serve(sys.argv[1])'


def call_isolated(
    function: Callable[..., Result], *args: Any, threads: int = 1, **kwargs: Any
) -> Result:
    """Call a function in a new process, with a given number of threads for ITK.

    Parameters
    ----------
    function : callable
        Of a module, so that the other process finds it.
    *args, **kwargs
        Its arguments, which are pickled.
    threads : int
        Threads of ITK.

    Returns
    -------
    object
        What the function returns.

    Raises
    ------
    RuntimeError
        If the function fails or the process dies; the message holds its last words.
    """
    with TemporaryDirectory(prefix='deepreg_wf-') as folder:
        (Path(folder) / 'call').write_bytes(pickle.dumps((function, args, kwargs)))
        done = subprocess.run(
            [sys.executable, '-c', _SERVE, folder],
            cwd=folder,
            env=_environment(threads),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors='replace',
            check=False,
        )
        if done.returncode:
            last_words = '\n'.join(done.stdout.splitlines()[-5:])
            raise RuntimeError(
                f'{function.__name__} ended with status {done.returncode}: {last_words}'
            )
        return pickle.loads((Path(folder) / 'result').read_bytes())


def serve(folder: str) -> None:
    """Make the call that lies in a folder and leave its result there."""
    function, args, kwargs = pickle.loads((Path(folder) / 'call').read_bytes())
    (Path(folder) / 'result').write_bytes(pickle.dumps(function(*args, **kwargs)))


def _environment(threads: int) -> dict[str, str]:
    return {
        **os.environ,
        'ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS': str(threads),
        'PYTHONPATH': os.pathsep.join(path for path in sys.path if path),
    }

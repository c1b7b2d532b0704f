"""Calls of ITK, each in a process of its own.

ITK reads its number of threads once per process, and its results can depend on that number. In a
process of its own a call has the threads that it is given, whatever ran before; a crash of ITK
becomes an exception, and its memory is released.
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
        Function at the top level of a module, so that the other process can import it.
    *args : Any
        Positional arguments, which are pickled.
    threads : int
        Number of threads of ITK.
    **kwargs : Any
        Keyword arguments, which are pickled.

    Returns
    -------
    Result
        Return value of the function, which is pickled.

    Raises
    ------
    RuntimeError
        If the function fails or the process crashes; the message has the end of its output.
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
            end_of_output = '\n'.join(done.stdout.splitlines()[-5:])
            raise RuntimeError(
                f'{function.__name__} ended with status {done.returncode}: {end_of_output}'
            )
        result: Result = pickle.loads((Path(folder) / 'result').read_bytes())
        return result


def serve(folder: str) -> None:
    """Run the call that is stored in a folder and store its result there.

    Parameters
    ----------
    folder : str
        Folder with the file 'call'; the file 'result' is written.
    """
    function, args, kwargs = pickle.loads((Path(folder) / 'call').read_bytes())
    (Path(folder) / 'result').write_bytes(pickle.dumps(function(*args, **kwargs)))


def _environment(threads: int) -> dict[str, str]:
    """Return the environment of the new process."""
    return {
        **os.environ,
        'ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS': str(threads),
        'PYTHONPATH': os.pathsep.join(path for path in sys.path if path),
    }

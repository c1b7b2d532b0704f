"""Calls of ITK, each in a process of its own.

ITK reads its number of threads once per process, and its results can depend on that number. In a
process of its own a call has the threads that it is given, whatever ran before; a crash of ITK
becomes an exception, and its memory is released.

Arguments and result go through pipes, so that no file of them can stay behind, and the process
ends with its parent.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from deepreg_wf.utils.parent_process import end_with_parent

Result = TypeVar('Result')

_SERVE = 'import sys; from deepreg_wf.utils.itk_subprocess import serve; serve(int(sys.argv[1]))'


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
    done = subprocess.run(
        [sys.executable, '-c', _SERVE, str(os.getpid())],
        input=pickle.dumps((function, args, kwargs)),
        env=_environment(threads),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        output = done.stderr.decode(errors='replace')
        end_of_output = '\n'.join(output.splitlines()[-5:])
        raise RuntimeError(
            f'{function.__name__} ended with status {done.returncode}: {end_of_output}'
        )
    result: Result = pickle.loads(done.stdout)
    return result


def serve(parent: int) -> None:
    """Run the call that comes by standard input, and write its result to standard output.

    Parameters
    ----------
    parent : int
        Process that waits for the result; this process ends with it.
    """
    end_with_parent(parent)
    with os.fdopen(os.dup(sys.stdout.fileno()), 'wb') as results:
        # From here on, what the function and its libraries print goes to standard error.
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        function, args, kwargs = pickle.load(sys.stdin.buffer)
        result = function(*args, **kwargs)
        pickle.dump(result, results)


def _environment(threads: int) -> dict[str, str]:
    """Return the environment of the new process."""
    return {
        **os.environ,
        'ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS': str(threads),
        'PYTHONPATH': os.pathsep.join(path for path in sys.path if path),
    }

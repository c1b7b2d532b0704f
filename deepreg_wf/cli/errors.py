"""Error handling that all commands share: one sentence for the user, and an exit status."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Protocol

from deepreg_wf.app.exit_status import INTERRUPTED, UNUSABLE
from deepreg_wf.errors import InputError
from deepreg_wf.utils.home import ensure_home
from deepreg_wf.utils.os_errors import explain_exception, find_hint


class Main(Protocol):
    """Main function of a command."""

    def __call__(self, argv: Sequence[str] | None = None) -> int:
        """Run the command with the arguments after the program name; return its exit status."""
        ...


def handle_errors(prog: str, *, on_interrupt: str = 'interrupted.') -> Callable[[Main], Main]:
    """Make a decorator that turns the expected errors of a command into a sentence and a status.

    Parameters
    ----------
    prog : str
        Name of the command.
    on_interrupt : str
        Sentence to print when the command is interrupted.

    Returns
    -------
    callable
        Decorator of the main function. Errors that no user can do anything about are raised.
    """

    def decorate(main: Main) -> Main:
        @wraps(main)
        def wrapper(argv: Sequence[str] | None = None) -> int:
            ensure_home()
            try:
                return main(argv)
            except InputError as error:
                print_error(prog, str(error))
                return UNUSABLE
            except OSError as error:
                return report_os_error(prog, error)
            except KeyboardInterrupt:
                print_error(prog, on_interrupt)
                return INTERRUPTED

        return wrapper

    return decorate


def print_error(prog: str, sentence: str) -> None:
    """Print a sentence to standard error, after the name of the command."""
    print(f'{prog}: {sentence}', file=sys.stderr)


def report_os_error(prog: str, error: OSError) -> int:
    """Print the cause and the remedy of a system error, such as a full disk.

    Parameters
    ----------
    prog : str
        Name of the command.
    error : OSError
        The error.

    Returns
    -------
    int
        Exit status.

    Raises
    ------
    OSError
        The same error, if no remedy is known.
    """
    if find_hint(error) is None:
        raise error
    print_error(prog, f'{explain_exception(error)}.')
    return UNUSABLE

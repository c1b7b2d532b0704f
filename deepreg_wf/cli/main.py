"""The command ``deepreg_wf``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from deepreg_wf.cli.parser import parse_settings
from deepreg_wf.errors import InputError
from deepreg_wf.utils.os_errors import explain

USAGE_ERROR = 2
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv
        Words after the name of the program; those of this process by default.

    Returns
    -------
    int
        Exit status: 0, all subjects are done; 1, some failed; 2, the call, or all of its input,
        is unusable; 130, interrupted.

    """
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        settings = parse_settings(words)
        # Reading the words is quick, and stays so: what runs is imported only now.
        from deepreg_wf.app.run import run

        return run(settings, command_line=shlex.join(['deepreg_wf', *words]))
    except InputError as error:
        print(f'deepreg_wf: {error}', file=sys.stderr)
        return USAGE_ERROR
    except OSError as error:
        return give_up('deepreg_wf', error)
    except KeyboardInterrupt:
        print('deepreg_wf: interrupted; the same call goes on from here.', file=sys.stderr)
        return INTERRUPTED


def give_up(prog: str, error: OSError) -> int:
    """Tell what a file system lacks, where a person can do something about it.

    Parameters
    ----------
    prog
        Name of the program.
    error
        What it could not do.

    Returns
    -------
    int
        Exit status.

    Raises
    ------
    OSError
        The same, if there is nothing that a person could do.

    """
    words = explain(str(error))
    if words == str(error):
        raise error
    print(f'{prog}: {words}.', file=sys.stderr)
    return USAGE_ERROR

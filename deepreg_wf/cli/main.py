"""The command ``deepreg_wf``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from deepreg_wf.cli.errors import handle_errors
from deepreg_wf.cli.parser import parse_settings


@handle_errors('deepreg_wf', on_interrupt='interrupted; the same call continues from here.')
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments after the program name; those of this process by default.

    Returns
    -------
    int
        Exit status: 0, all images are done; 1, some failed; 2, the call, or all of its input,
        cannot be used; 130, interrupted.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    settings = parse_settings(arguments)
    # Imported only now, so that --help and wrong calls are answered at once.
    from deepreg_wf.app.run import run_app

    return run_app(settings, command_line=shlex.join(['deepreg_wf', *arguments]))

"""The parser of ``deepreg_wf``, and the settings that it makes of a command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from deepreg_wf.cli import arguments
from deepreg_wf.cli.errors import print_error
from deepreg_wf.settings import Settings, read_options
from deepreg_wf.utils.text_file import read_user_text

_EPILOG = """\
exit status:
  0  all images are done
  1  some failed; failed.tsv in the output folder says which and why, the others are complete
  2  the call, or all of its input, cannot be used
  130  interrupted
The same call again continues where the last run ended.

examples:
  deepreg_wf bids out participant --participant-label 01 02 -w work --nprocs 8
  deepreg_wf bids out participant --output-spaces MNI152NLin2009cAsym:res-1:res-2
  deepreg_wf bids out group
"""


class Parser(argparse.ArgumentParser):
    """Argument parser that reports an error as one sentence."""

    def error(self, message: str) -> NoReturn:
        """Print the message and exit with status 2.

        Parameters
        ----------
        message : str
            Error in the call.
        """
        print_error(self.prog, f'{message}; see {self.prog} --help.')
        self.exit(2)


def parse_settings(argv: Sequence[str]) -> Settings:
    """Build the settings from a command line.

    Parameters
    ----------
    argv : sequence of str
        Arguments after the program name; ``--some_option`` means ``--some-option``.

    Returns
    -------
    Settings
        Validated settings: defaults, overridden by ``--config-file``, overridden by the options.

    Raises
    ------
    InputError
        If a value cannot be used.
    SystemExit
        If an option is unknown or malformed, or help or the version is asked for.
    """
    words = [_with_dashes(word) for word in argv]
    has_config = any(word.partition('=')[0] == '--config-file' for word in words)
    given = vars(build_parser(positionals='?' if has_config else None).parse_args(words))
    options = {name: value for name, value in given.items() if value is not None}
    options.pop('notrack', None)
    config = options.pop('config_file', None)
    return Settings.from_options(options, base=_read_config(config) if config else None)


def build_parser(*, positionals: str | None = None) -> Parser:
    """Build the parser of ``deepreg_wf``; options that are not given are parsed as None.

    Parameters
    ----------
    positionals : str, optional
        ``nargs`` of the positional arguments; ``?`` if a settings file may provide them.

    Returns
    -------
    Parser
        Parser with all options of ``deepreg_wf``.
    """
    parser = Parser(
        prog='deepreg_wf',
        usage='%(prog)s bids_dir output_dir {participant,group} [options]',
        description='Register the T1-weighted images of a BIDS dataset to a template by geodesic '
        'shooting.',
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    arguments.add_positionals(parser, positionals)
    for add_group in (
        arguments.add_selection,
        arguments.add_anatomical,
        arguments.add_registration,
        arguments.add_output,
        arguments.add_resources,
        arguments.add_workflow,
        arguments.add_other,
    ):
        add_group(parser)
    return parser


def _with_dashes(word: str) -> str:
    """Replace the underscores in the name of an option."""
    name, equals, value = word.partition('=')
    return f'{name.replace("_", "-")}{equals}{value}' if name.startswith('--') else word


def _read_config(path: Path) -> dict[str, Any]:
    return read_options(read_user_text(path), source=str(path))

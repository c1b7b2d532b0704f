"""Command ``deepreg_wf-demo``: register synthetic subjects and print the errors."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from deepreg_wf import __version__
from deepreg_wf.app.exit_status import ALL_DONE, SOME_FAILED
from deepreg_wf.cli.errors import handle_errors
from deepreg_wf.cli.main import main as register
from deepreg_wf.cli.parser import Parser, parse_settings
from deepreg_wf.cli.values import nonempty_path

_EPILOG = 'Further options go to deepreg_wf as they are; see deepreg_wf --help.'


@handle_errors('deepreg_wf-demo', on_interrupt='interrupted; the same call continues from here.')
def main(argv: Sequence[str] | None = None) -> int:
    """Write the embedded dataset, register it and print the error of the result.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments after the name of the program; by default those of ``sys.argv``.

    Returns
    -------
    int
        Exit status of the registration; 2 if the call or the output folder cannot be used.
    """
    options, further = _parser().parse_known_args(argv)
    out = options.output_dir
    call = [str(out / 'bids'), str(out / 'derivatives'), 'participant']
    call += ['--work-dir', str(out / 'work'), *further]
    parse_settings(call)

    from deepreg_wf.demo.run import make_dataset, prepare_folder, print_errors

    prepare_folder(out)
    truths = make_dataset(out)
    print(f'Registering them: {shlex.join(["deepreg_wf", *call])}', flush=True)
    status = register(call)
    if status in (ALL_DONE, SOME_FAILED):
        print_errors(out, truths)
    return status


def _parser() -> Parser:
    parser = Parser(
        prog='deepreg_wf-demo',
        description='Make two synthetic brains by known transforms, register them to the template '
        'and print how far the recovered transforms are from the known ones.',
        epilog=_EPILOG,
        allow_abbrev=False,
    )
    parser.add_argument(
        'output_dir', type=nonempty_path, help='new folder, or that of an earlier demo'
    )
    parser.add_argument('--version', action='version', version=f'%(prog)s {__version__}')
    return parser

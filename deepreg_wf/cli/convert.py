"""The command ``deepreg_wf-convert-weights``: networks of the original Quicksilver as ours."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from deepreg_wf import __version__
from deepreg_wf.app.exit_status import ALL_DONE
from deepreg_wf.cli.errors import handle_errors
from deepreg_wf.cli.parser import Parser
from deepreg_wf.errors import InputError


@handle_errors('deepreg_wf-convert-weights')
def main(argv: Sequence[str] | None = None) -> int:
    """Convert a file.

    Parameters
    ----------
    argv : sequence of str, optional
        Words after the name of the program; those of ``sys.argv`` by default.

    Returns
    -------
    int
        0, or 2 where the file is unusable.
    """
    options = build_parser().parse_args(argv)
    from deepreg_wf.quicksilver import WeightsError, convert_legacy, save_checkpoint

    try:
        checkpoint = convert_legacy(options.legacy, role=options.role, dropout=options.dropout)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(checkpoint, options.output)
    except WeightsError as error:
        raise InputError(str(error)) from error
    except OSError as error:
        raise InputError(
            f'cannot be written ({error.strerror})',
            advice='give another file',
            path=options.output,
        ) from error
    spec = checkpoint.spec
    print(
        f'{options.output}: {spec.role} network, f = {spec.features}, patches of {spec.patch} '
        f'voxels; use it with --weights {options.output.parent} --registration-resolution 1'
    )
    return ALL_DONE


def build_parser() -> Parser:
    """Build the parser of ``deepreg_wf-convert-weights``."""
    parser = Parser(
        prog='deepreg_wf-convert-weights',
        description='Convert a network of the original Quicksilver. Only tensors and plain values '
        'are read from its file.',
        epilog='Name the output prediction.safetensors, correction.safetensors or '
        'probabilistic.safetensors: deepreg_wf --weights takes the folder.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument('legacy', type=Path, metavar='LEGACY.pth.tar')
    parser.add_argument('output', type=Path, metavar='OUT.safetensors')
    parser.add_argument(
        '--role', choices=('prediction', 'correction'), default='prediction', help='what it does'
    )
    parser.add_argument(
        '--dropout', type=float, default=0.0, help='0.2 for the probabilistic network'
    )
    parser.add_argument('--version', action='version', version=f'%(prog)s {__version__}')
    return parser

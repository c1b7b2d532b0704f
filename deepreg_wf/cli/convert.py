"""Command ``deepreg_wf-convert-weights``: convert weights of the original Quicksilver."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from deepreg_wf import __version__
from deepreg_wf.app.exit_status import ALL_DONE
from deepreg_wf.cli.errors import handle_errors
from deepreg_wf.cli.parser import Parser
from deepreg_wf.cli.values import fraction, nonempty_path
from deepreg_wf.errors import InputError


@handle_errors('deepreg_wf-convert-weights')
def main(argv: Sequence[str] | None = None) -> int:
    """Convert a weights file.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments after the name of the program; those of ``sys.argv`` by default.

    Returns
    -------
    int
        0, converted; 2, the file is unusable.
    """
    options = build_parser().parse_args(argv)
    from deepreg_wf.quicksilver import convert_legacy, save_checkpoint

    checkpoint = convert_legacy(options.legacy, role=options.role, dropout=options.dropout)
    try:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(checkpoint, options.output)
    except OSError as error:
        raise InputError(
            f'the file cannot be written ({error.strerror})',
            advice='give another one',
            path=options.output,
        ) from error
    spec = checkpoint.spec
    print(
        f'{options.output}: {spec.role} network, f = {spec.features}, patches of '
        f'{spec.patch_size} voxels; use it with --weights {options.output.parent} '
        '--registration-resolution 1'
    )
    return ALL_DONE


def build_parser() -> Parser:
    """Build the parser of ``deepreg_wf-convert-weights``.

    Returns
    -------
    Parser
    """
    parser = Parser(
        prog='deepreg_wf-convert-weights',
        description='Convert a network of the original Quicksilver. Only tensors and plain values '
        'are read from its file.',
        epilog='Name the output prediction.safetensors, correction.safetensors or '
        'probabilistic.safetensors, and give its folder to deepreg_wf --weights.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        'legacy', type=nonempty_path, metavar='LEGACY.pth.tar', help='weights file of the original'
    )
    parser.add_argument(
        'output', type=nonempty_path, metavar='OUT.safetensors', help='weights file to write'
    )
    parser.add_argument(
        '--role',
        choices=('prediction', 'correction'),
        default='prediction',
        help='purpose of the network',
    )
    parser.add_argument(
        '--dropout',
        type=fraction,
        default=0.0,
        help='dropout rate; 0.2 for the original probabilistic network',
    )
    parser.add_argument('--version', action='version', version=f'%(prog)s {__version__}')
    return parser

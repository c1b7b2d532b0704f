"""The command ``deepreg_wf-register``: two images in, transforms between them out."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from deepreg_wf import __version__
from deepreg_wf.app.pair import PairSettings, register_pair
from deepreg_wf.cli.errors import handle_errors
from deepreg_wf.cli.parser import Parser
from deepreg_wf.cli.values import nonempty, nonempty_path, number, whole_number
from deepreg_wf.settings import MOMENTUM_METHODS, SKULL_STRIP_MODES, Anatomical, Registration

_EPILOG = """\
Written: PREFIX and Warped.nii.gz (the moving image on the grid of the fixed one),
InverseWarped.nii.gz, Composite.h5 and InverseComposite.h5 (transforms of ITK), LogJacobian.nii.gz,
Momentum.nii.gz and Quality.json.

exit status: 0, done; 1, failed; 2, the call or an image cannot be used; 130, interrupted.
"""


@handle_errors('deepreg_wf-register')
def main(argv: Sequence[str] | None = None) -> int:
    """Register one image to another.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments after the program name; those of this process by default.

    Returns
    -------
    int
        Exit status: 0, done; 1, failed; 2, the call or an image cannot be used; 130, interrupted.
    """
    options = build_parser().parse_args(argv)
    return register_pair(
        PairSettings(
            moving=options.moving,
            fixed=options.fixed,
            output_prefix=options.output_prefix,
            moving_mask=options.moving_mask,
            fixed_mask=options.fixed_mask,
            anatomical=Anatomical(skull_strip=options.skull_strip),
            registration=Registration(
                momentum=options.momentum,
                refine=options.refine,
                weights=options.weights,
                direction='subject-to-template',
                registration_resolution=options.registration_resolution,
            ),
            device=options.device,
            nprocs=options.nprocs,
            work_dir=options.work_dir,
        )
    )


def build_parser() -> Parser:
    """Build the parser of ``deepreg_wf-register``."""
    parser = Parser(
        prog='deepreg_wf-register',
        description='Register one T1-weighted image to another, without a dataset.',
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        '--moving',
        metavar='FILE',
        type=nonempty_path,
        required=True,
        help='image that is deformed',
    )
    add(
        '--fixed',
        metavar='FILE',
        type=nonempty_path,
        required=True,
        help='image that the moving image is to match',
    )
    add(
        '--output-prefix',
        metavar='PREFIX',
        type=nonempty,
        required=True,
        help='beginning of the paths of the results',
    )
    add(
        '--moving-mask',
        metavar='FILE',
        type=nonempty_path,
        help='brain mask of the moving image (default: extract the brain)',
    )
    add(
        '--fixed-mask',
        metavar='FILE',
        type=nonempty_path,
        help='brain mask of the fixed image (default: extract the brain)',
    )
    add('--skull-strip', choices=SKULL_STRIP_MODES, default='auto', help='as for deepreg_wf')
    add(
        '--momentum', choices=MOMENTUM_METHODS, default='predict+correct', help='as for deepreg_wf'
    )
    add(
        '--refine',
        metavar='N',
        type=whole_number,
        default=5,
        help='as for deepreg_wf (default: 5)',
    )
    add(
        '--registration-resolution',
        metavar='MM',
        type=number,
        default=2.0,
        help='as for deepreg_wf (default: 2)',
    )
    add('--weights', metavar='DIR', type=nonempty_path, help='as for deepreg_wf')
    add('--device', metavar='{auto,cpu,cuda,cuda:N}', default='auto', help='(default: auto)')
    add('--nprocs', metavar='N', type=whole_number, help='processors used at once (default: all)')
    add(
        '-w',
        '--work-dir',
        metavar='DIR',
        type=nonempty_path,
        help='folder of intermediate files, which is kept (default: a temporary folder)',
    )
    add('--version', action='version', version=f'%(prog)s {__version__}')
    return parser

"""Command ``deepreg_wf-evaluate``: evaluate transforms of any tool by label overlap."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from deepreg_wf import __version__
from deepreg_wf.app.exit_status import ALL_DONE, SOME_FAILED, UNUSABLE
from deepreg_wf.cli.errors import handle_errors, print_error
from deepreg_wf.cli.parser import Parser
from deepreg_wf.cli.values import nonempty, nonempty_path, positive_integer, whole_number

if TYPE_CHECKING:
    from deepreg_wf.evaluation import LabelPair

PROG = 'deepreg_wf-evaluate'
_DESCRIPTION = """\
Measure the quality of transforms made by any tool: overlap of labels, Jacobian determinants, and
the agreement of a transform with its inverse.
"""
_EPILOG = """\
A transform maps fixed points to moving points, so that it resamples the moving image on the fixed
one: a composite (.h5), an affine (.mat, .txt, .tfm) or a displacement field (.nii, .nii.gz) of ITK
and ANTs, [FILE,1] for the inverse of an affine, or the word identity. Of several, the last is
applied to the image first, as by antsApplyTransforms; in PAIRS.tsv they are separated by ";".

exit status: 0, all pairs are evaluated; 1, some are not (the tables have the others); 2, the call,
or all of its input, is unusable; 130, interrupted.
"""
_SINGLE = {
    'moving_labels': ('FILE', None, 'label image to resample'),
    'fixed_labels': ('FILE', None, 'label image with the target grid'),
    'transform': ('T', '+', 'transform that resamples the moving image onto the fixed one'),
    'inverse': ('T', '+', 'transform of the opposite direction, if there is one'),
}


@handle_errors(PROG, on_interrupt='interrupted; nothing is written.')
def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate pairs, write the tables and print a summary.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments after the name of the program; by default those of ``sys.argv``.

    Returns
    -------
    int
        Exit status: 0, all pairs are evaluated; 1, some are not; 2, the call, or all of its
        input, is unusable; 130, interrupted.
    """
    parser = build_parser()
    options = parser.parse_intermixed_args(argv)
    _check_options(parser, options)
    return _run(options)


def build_parser() -> Parser:
    """Build the parser of the command line."""
    parser = Parser(
        prog=PROG,
        usage='%(prog)s PAIRS.tsv OUTPUT_DIR [options]\n'
        '       %(prog)s OUTPUT_DIR --moving-labels FILE --fixed-labels FILE --transform T [T ...]'
        ' [--inverse T [T ...]] [options]',
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        'pairs',
        nargs='?',
        type=nonempty_path,
        metavar='PAIRS.tsv',
        help='table with a line for each pair and tool; columns moving_labels, fixed_labels, '
        'transform and, optionally, inverse, name, method; paths are relative to its folder',
    )
    parser.add_argument(
        'output_dir',
        type=nonempty_path,
        metavar='OUTPUT_DIR',
        help='folder of the tables; made if missing',
    )
    group = parser.add_argument_group('a single pair, in place of PAIRS.tsv')
    for name, (metavar, nargs, text) in _SINGLE.items():
        group.add_argument(_flag(name), metavar=metavar, nargs=nargs, type=nonempty, help=text)
    parser.add_argument(
        '--labels-of-interest',
        nargs='+',
        type=_label,
        default=(),
        metavar='LABEL',
        help='labels to compare; all others count as background (default: all)',
    )
    parser.add_argument(
        '--nprocs',
        type=positive_integer,
        default=1,
        metavar='N',
        help='pairs to evaluate at the same time (default: 1)',
    )
    parser.add_argument('--version', action='version', version=f'%(prog)s {__version__}')
    return parser


def _flag(name: str) -> str:
    return f'--{name.replace("_", "-")}'


def _label(word: str) -> int:
    label = whole_number(word)
    if label == 0:
        raise argparse.ArgumentTypeError('0 is the background, not a label')
    return label


def _check_options(parser: Parser, options: argparse.Namespace) -> None:
    """Check that there is either a table or a single pair."""
    given = [name for name in _SINGLE if getattr(options, name)]
    missing = [name for name in _SINGLE if name not in (*given, 'inverse')]
    if options.pairs and given:
        parser.error(f'there are both {options.pairs} and {_flag(given[0])}; give one of them')
    if not options.pairs and not given:
        parser.error('there are no pairs; give PAIRS.tsv before OUTPUT_DIR, or a single pair')
    if not options.pairs and missing:
        parser.error(f'there is no {" and no ".join(map(_flag, missing))}; add it')


def _run(options: argparse.Namespace) -> int:
    from deepreg_wf.evaluation import read_pairs
    from deepreg_wf.evaluation.run import run_evaluation

    pairs = read_pairs(options.pairs) if options.pairs else [_single_pair(options)]
    evaluations = run_evaluation(
        pairs,
        options.output_dir,
        labels_of_interest=options.labels_of_interest,
        n_processes=options.nprocs,
        warn=partial(print_error, PROG),
    )
    if not evaluations:
        return UNUSABLE
    return ALL_DONE if len(evaluations) == len(pairs) else SOME_FAILED


def _single_pair(options: argparse.Namespace) -> LabelPair:
    from deepreg_wf.evaluation import LabelPair, default_name

    return LabelPair(
        name=default_name(options.moving_labels, options.fixed_labels),
        moving_labels=options.moving_labels,
        fixed_labels=options.fixed_labels,
        transform=options.transform,
        inverse=options.inverse or (),
    )

"""The command ``deepreg_wf-evaluate``: labels and transforms of any tool in, tables out."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepreg_wf import __version__
from deepreg_wf.app.exit_status import ALL_DONE, SOME_FAILED, UNUSABLE
from deepreg_wf.bids.entities import write_json, write_text
from deepreg_wf.cli.errors import handle_errors, print_error
from deepreg_wf.cli.parser import Parser
from deepreg_wf.errors import InputError

if TYPE_CHECKING:
    from concurrent.futures import Future

    from deepreg_wf.evaluation import Evaluation, Pair

PROG = 'deepreg_wf-evaluate'
_DESCRIPTION = """\
Measure how good transforms are, of whatever tool: overlap of labels, Jacobian determinants, and
how well a transform and its inverse agree.
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
    'moving_labels': ('FILE', None, 'label image that moves'),
    'fixed_labels': ('FILE', None, 'label image that it is resampled on'),
    'transform': ('T', '+', 'what resamples the moving on the fixed image'),
    'inverse': ('T', '+', 'what resamples the fixed on the moving image, if there is one'),
}


@handle_errors(PROG, on_interrupt='interrupted; nothing is written.')
def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate pairs, write the tables and print a summary.

    Parameters
    ----------
    argv : sequence of str, optional
        Words after the name of the program; those of ``sys.argv`` by default.

    Returns
    -------
    int
        Exit status: 0, all pairs are evaluated; 1, some are not; 2, the call, or all of its
        input, is unusable; 130, interrupted.
    """
    parser = build_parser()
    options = parser.parse_intermixed_args(argv)
    _check(parser, options)
    return _run(options)


def build_parser() -> Parser:
    """Put the arguments together."""
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
        type=Path,
        metavar='PAIRS.tsv',
        help='table with a line for each pair and tool; columns moving_labels, fixed_labels, '
        'transform and, if wanted, inverse, name, method; paths are relative to its folder',
    )
    parser.add_argument(
        'output_dir', type=Path, metavar='OUTPUT_DIR', help='folder of the tables; made if missing'
    )
    group = parser.add_argument_group('a single pair, in place of PAIRS.tsv')
    for name, (metavar, nargs, text) in _SINGLE.items():
        group.add_argument(_flag(name), metavar=metavar, nargs=nargs, help=text)
    parser.add_argument(
        '--labels-of-interest',
        nargs='+',
        type=_label,
        default=(),
        metavar='LABEL',
        help='labels to look at; all others count as background (default: all)',
    )
    parser.add_argument(
        '--nprocs', type=_processes, default=1, metavar='N', help='pairs at a time (default: 1)'
    )
    parser.add_argument('--version', action='version', version=f'%(prog)s {__version__}')
    return parser


def _flag(name: str) -> str:
    return f'--{name.replace("_", "-")}'


def _label(word: str) -> int:
    label = _whole(word)
    if label == 0:
        raise argparse.ArgumentTypeError('0 is the background, not a label')
    return label


def _processes(word: str) -> int:
    number = _whole(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f'{number} is no number of processes')
    return number


def _whole(word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f'{word} is not a whole number') from None


def _check(parser: Parser, options: argparse.Namespace) -> None:
    """See to it that there is either a table or one pair."""
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

    pairs = read_pairs(options.pairs) if options.pairs else [_single(options)]
    _make(options.output_dir)
    done: list[Evaluation] = []
    for pair, outcome in _outcomes(pairs, options.labels_of_interest, options.nprocs):
        if isinstance(outcome, str):
            print_error(PROG, f'[{_title(pair)}] {outcome}')
        else:
            done.append(outcome)
    if not done:
        return UNUSABLE
    _write(options.output_dir, done)
    _warn_of_uneven_methods(done)
    if len(done) < len(pairs):
        print_error(PROG, f'{len(pairs) - len(done)} of {len(pairs)} pairs are not in the tables.')
        return SOME_FAILED
    return ALL_DONE


def _single(options: argparse.Namespace) -> Pair:
    from deepreg_wf.evaluation import Pair, pair_name

    return Pair(
        name=pair_name(options.moving_labels, options.fixed_labels),
        moving_labels=options.moving_labels,
        fixed_labels=options.fixed_labels,
        transform=options.transform,
        inverse=options.inverse or (),
    )


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f'{folder}: not a usable folder ({error.strerror}); give another.'
        ) from None


def _outcomes(
    pairs: Sequence[Pair], of_interest: Collection[int], nprocs: int
) -> Iterator[tuple[Pair, Evaluation | str]]:
    """What came out for each pair, in their order, or the sentence that says why nothing did."""
    if nprocs == 1 or len(pairs) == 1:
        yield from ((pair, _attempt(pair, of_interest)) for pair in pairs)
        return
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(min(nprocs, len(pairs)), get_context('spawn')) as pool:
        tasks = [pool.submit(_attempt, pair, of_interest) for pair in pairs]
        yield from ((pair, _result(task)) for pair, task in zip(pairs, tasks, strict=True))


def _result(task: Future[Evaluation | str]) -> Evaluation | str:
    from concurrent.futures.process import BrokenProcessPool

    try:
        return task.result()
    except BrokenProcessPool:
        return 'a process was ended, as for want of memory; give a smaller --nprocs.'


def _attempt(pair: Pair, of_interest: Collection[int]) -> Evaluation | str:
    from deepreg_wf.evaluation import evaluate

    try:
        return evaluate(pair, of_interest)
    except InputError as error:
        return str(error)
    except MemoryError:
        return 'there is not enough memory for it; give a smaller --nprocs or smaller images.'


def _write(folder: Path, done: Sequence[Evaluation]) -> None:
    from deepreg_wf.evaluation import tables

    figures = [evaluation.figures for evaluation in done]
    overlaps = [row for evaluation in done for row in evaluation.overlaps]
    summary = tables.summarise(figures)
    content: dict[str, Any] = {
        'overlap.tsv': (overlaps, tables.OVERLAP),
        'pairs.tsv': (figures, tables.PAIRS),
        'summary.tsv': (summary, tables.SUMMARY),
    }
    try:
        for name, (rows, columns) in content.items():
            write_text(folder / name, tables.tsv(rows, columns))
        write_json(folder / 'evaluation.json', tables.sidecar())
    except OSError as error:
        raise InputError(
            f'{folder}: not a usable folder ({error.strerror}); give another.'
        ) from None
    print(tables.aligned(summary, tables.SUMMARY))
    print(f'Tables: {", ".join(str(folder / name) for name in content)}')


def _warn_of_uneven_methods(done: Sequence[Evaluation]) -> None:
    pairs: dict[Any, set[Any]] = {}
    for evaluation in done:
        pairs.setdefault(evaluation.figures['method'], set()).add(evaluation.figures['name'])
    if len({frozenset(names) for names in pairs.values()}) > 1:
        print_error(
            PROG, 'the methods have different pairs, which the summary does not make up for.'
        )


def _title(pair: Pair) -> str:
    from deepreg_wf.evaluation.pairs import NOT_GIVEN

    return pair.name if pair.method == NOT_GIVEN else f'{pair.name}, {pair.method}'

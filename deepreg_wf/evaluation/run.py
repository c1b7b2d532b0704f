"""Evaluation of many pairs, in several processes, with tables of the results."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

from deepreg_wf.errors import InputError
from deepreg_wf.evaluation import tables
from deepreg_wf.evaluation.pairs import Evaluation, LabelPair, evaluate_pair
from deepreg_wf.utils.atomic import write_json, write_text

Outcome = Evaluation | InputError
"""Results of a pair, or the reason why there are none."""


def run_evaluation(
    pairs: Sequence[LabelPair],
    output_dir: Path,
    *,
    labels_of_interest: Collection[int] = (),
    n_processes: int = 1,
    warn: Callable[[str], None],
) -> list[Evaluation]:
    """Evaluate pairs, write the tables and print the summary.

    Parameters
    ----------
    pairs : sequence of LabelPair
    output_dir : Path
        Folder of the tables; it is made if it does not exist.
    labels_of_interest : collection of int
        Labels to compare; the others count as background. If it is empty, all are compared.
    n_processes : int
        Number of pairs that are evaluated at the same time.
    warn : callable
        Called with a sentence for each pair that cannot be evaluated, and if the methods have
        different pairs.

    Returns
    -------
    list of Evaluation
        Results of the pairs that could be evaluated. If there are none, no table is written.

    Raises
    ------
    InputError
        If the folder cannot be used.
    """
    _make_folder(output_dir)
    evaluations = []
    for pair, outcome in evaluate_pairs(pairs, labels_of_interest, n_processes):
        if isinstance(outcome, InputError):
            warn(f'[{pair.title}] {outcome}')
        else:
            evaluations.append(outcome)
    if evaluations:
        paths = write_tables(output_dir, evaluations)
        summary = tables.summarise([evaluation.measures for evaluation in evaluations])
        print(tables.format_aligned(summary, tables.SUMMARY_COLUMNS))
        print(f'Tables: {", ".join(map(str, paths))}')
        if not _have_same_pairs(evaluations):
            warn('the methods have different pairs, which the summary does not correct for.')
    if evaluations and len(evaluations) < len(pairs):
        warn(f'{len(pairs) - len(evaluations)} of {len(pairs)} pairs are not in the tables.')
    return evaluations


def evaluate_pairs(
    pairs: Sequence[LabelPair], labels_of_interest: Collection[int] = (), n_processes: int = 1
) -> Iterator[tuple[LabelPair, Outcome]]:
    """Evaluate pairs, in their order; an unusable pair does not stop the others.

    Parameters
    ----------
    pairs : sequence of LabelPair
    labels_of_interest : collection of int
        Labels to compare; all if it is empty.
    n_processes : int
        Number of pairs that are evaluated at the same time.

    Yields
    ------
    LabelPair
    Evaluation or InputError
    """
    if n_processes == 1 or len(pairs) == 1:
        yield from ((pair, _try_evaluate(pair, labels_of_interest)) for pair in pairs)
        return
    with ProcessPoolExecutor(min(n_processes, len(pairs)), get_context('spawn')) as pool:
        tasks = [pool.submit(_try_evaluate, pair, labels_of_interest) for pair in pairs]
        yield from ((pair, _result(task)) for pair, task in zip(pairs, tasks, strict=True))


def _result(task: Future[Outcome]) -> Outcome:
    try:
        return task.result()
    except BrokenProcessPool:
        return InputError(
            'its process was killed, probably because the memory was full',
            advice='give a smaller --nprocs',
        )


def _try_evaluate(pair: LabelPair, labels_of_interest: Collection[int]) -> Outcome:
    try:
        return evaluate_pair(pair, labels_of_interest)
    except InputError as error:
        return error
    except MemoryError:
        return InputError(
            'there is not enough memory for it',
            advice='give a smaller --nprocs or smaller images',
        )


def write_tables(output_dir: Path, evaluations: Sequence[Evaluation]) -> list[Path]:
    """Write the tables of an evaluation and their sidecar.

    Parameters
    ----------
    output_dir : Path
    evaluations : sequence of Evaluation

    Returns
    -------
    list of Path
        ``overlap.tsv``, ``pairs.tsv`` and ``summary.tsv``.

    Raises
    ------
    InputError
        If the folder cannot be used.
    """
    measures = [evaluation.measures for evaluation in evaluations]
    overlaps = [row for evaluation in evaluations for row in evaluation.overlaps]
    contents = {
        'overlap.tsv': tables.format_tsv(overlaps, tables.OVERLAP_COLUMNS),
        'pairs.tsv': tables.format_tsv(measures, tables.PAIR_COLUMNS),
        'summary.tsv': tables.format_tsv(tables.summarise(measures), tables.SUMMARY_COLUMNS),
    }
    try:
        for name, text in contents.items():
            write_text(output_dir / name, text)
        write_json(output_dir / 'evaluation.json', tables.make_sidecar())
    except OSError as error:
        raise _unusable_folder(output_dir, error) from None
    return [output_dir / name for name in contents]


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable_folder(folder, error) from None


def _unusable_folder(folder: Path, error: OSError) -> InputError:
    return InputError(
        f'not a usable folder ({error.strerror})', advice='give another', path=folder
    )


def _have_same_pairs(evaluations: Sequence[Evaluation]) -> bool:
    """Check that all methods have the same pairs."""
    names: dict[tables.Value, set[tables.Value]] = {}
    for evaluation in evaluations:
        row = evaluation.measures
        names.setdefault(row['method'], set()).add(row['name'])
    return len({frozenset(pairs) for pairs in names.values()}) <= 1

"""How a run ended, for a person and for a script."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deepreg_wf.engine.failures import Failure, first_of_each, update_table
from deepreg_wf.engine.logs import Streams
from deepreg_wf.engine.progress import EVERYBODY, in_words
from deepreg_wf.utils.os_errors import explain

ALL_DONE, SOME_FAILED, UNUSABLE = 0, 1, 2
_MANY = 10


def conclude(
    failures: Sequence[Failure],
    *,
    elsewhere: Sequence[Failure] = (),
    participants: Sequence[str],
    output_dir: Path,
    seconds: float,
    streams: Streams,
) -> int:
    """Tell how a run ended: a sentence for each image that failed, ``failed.tsv``, a summary.

    Parameters
    ----------
    failures
        All that failed.
    elsewhere
        What another run is at work on: told, and not written down, for the other one writes what
        becomes of it.
    participants
        Labels of those that the run was about.
    output_dir
        Folder of the derivatives.
    seconds
        How long it took.
    streams
        Where a person reads.

    Returns
    -------
    int
        Exit status.

    """
    table = output_dir / 'failed.tsv'
    try:
        update_table(table, failures, participants)
        where = f'What failed, and why: {table}'
    except OSError as error:  # a full disk, of which the failures will tell
        where = f'{table}: could not be written, {explain(str(error))}.'
    everybody = [*participants, *(failure.participant for failure in elsewhere)]
    status = tell([*failures, *elsewhere], participants=everybody, streams=streams)
    failed = len(_who_failed(failures, participants))
    counts = f'{len(participants) - failed} done, {failed} failed'
    counts += f', {len(elsewhere)} left to another run' if elsewhere else ''
    lines = [f'{counts}, in {in_words(seconds)}.']
    if failures:
        lines.append(where)
    lines += _where_reports_are(output_dir, participants)
    print('\n'.join(lines), file=streams.out)
    return status


def tell(failures: Sequence[Failure], *, participants: Sequence[str], streams: Streams) -> int:
    """Tell what failed.

    Parameters
    ----------
    failures
        All that failed.
    participants
        Labels of those that the run was about.
    streams
        Where a person reads.

    Returns
    -------
    int
        Exit status.

    """
    told = first_of_each(failures)
    for failure in told:
        print(failure.sentence, file=streams.err)
    if not failures:
        return ALL_DONE
    nobody_is_done = len(_who_failed(failures, participants)) == len(participants)
    input_is_at_fault = all(failure.is_input_error for failure in told)
    return UNUSABLE if nobody_is_done and input_is_at_fault else SOME_FAILED


def _who_failed(failures: Sequence[Failure], participants: Sequence[str]) -> set[str]:
    failed = {failure.participant for failure in failures}
    return set(participants) if EVERYBODY in failed else failed


def _where_reports_are(output_dir: Path, participants: Sequence[str]) -> list[str]:
    pages = [output_dir / f'sub-{label}.html' for label in participants]
    pages = [page for page in pages if page.is_file()]
    if len(pages) > _MANY:
        return [f'Reports: {output_dir / "sub-*.html"}']
    return [f'Report: {page}' for page in pages]

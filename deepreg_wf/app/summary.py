"""Summary of a run for the user, and its exit status."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deepreg_wf.app.exit_status import ALL_DONE, SOME_FAILED, UNUSABLE
from deepreg_wf.engine.failures import (
    Failure,
    first_per_image,
    participant_of,
    update_failures,
)
from deepreg_wf.engine.logs import Streams
from deepreg_wf.engine.progress import ALL_IMAGES, format_duration
from deepreg_wf.utils.os_errors import explain_exception

FAILURES_TABLE = 'failed.tsv'
_MAX_LISTED = 10


def write_summary(
    failures: Sequence[Failure],
    *,
    skipped: Sequence[Failure] = (),
    images: Sequence[str],
    output_dir: Path,
    seconds: float,
    streams: Streams,
) -> int:
    """Update ``failed.tsv``, print a sentence for each image that failed, and print a summary.

    Parameters
    ----------
    failures : sequence of Failure
        Failures of the run.
    skipped : sequence of Failure
        Participants that another run is processing. They are printed and not written to the
        table, because the other run records how they end.
    images : sequence of str
        Names of the images of the run, such as ``sub-01_ses-pre``.
    output_dir : Path
        Folder of the derivatives.
    seconds : float
        Duration of the run.
    streams : Streams
        Streams that the user reads.

    Returns
    -------
    int
        Exit status.
    """
    table = output_dir / FAILURES_TABLE
    participants = list(dict.fromkeys(map(participant_of, images)))
    try:
        update_failures(table, failures, participants)
        table_line = f'What failed, and why: {table}'
    except OSError as error:  # such as a full disk; the failures are still printed
        table_line = f'{table}: could not be written, {explain_exception(error)}.'
    everything = [*images, *(failure.image for failure in skipped)]
    status = print_failures([*failures, *skipped], images=everything, streams=streams)
    n_failed = len(_failed_images(failures, images))
    counts = f'{len(images) - n_failed} done, {n_failed} failed'
    counts += f', {len(skipped)} left to another run' if skipped else ''
    lines = [f'{counts}, in {format_duration(seconds)}.']
    if failures:
        lines.append(table_line)
    lines += _report_lines(output_dir, participants)
    print('\n'.join(lines), file=streams.out)
    return status


def print_failures(failures: Sequence[Failure], *, images: Sequence[str], streams: Streams) -> int:
    """Print the first failure of each image.

    Parameters
    ----------
    failures : sequence of Failure
        Failures of the run.
    images : sequence of str
        Names of the images of the run.
    streams : Streams
        Streams that the user reads.

    Returns
    -------
    int
        Exit status.
    """
    printed = first_per_image(failures)
    for failure in printed:
        print(failure.sentence, file=streams.err)
    if not failures:
        return ALL_DONE
    all_failed = len(_failed_images(failures, images)) == len(images)
    input_is_unusable = all(failure.is_input_error for failure in printed)
    return UNUSABLE if all_failed and input_is_unusable else SOME_FAILED


def _failed_images(failures: Sequence[Failure], images: Sequence[str]) -> set[str]:
    """Return the images that failed; a failure may name an image, a participant or all images."""
    if any(failure.participant == ALL_IMAGES for failure in failures):
        return set(images)
    failed = {failure.image for failure in failures}
    return {name for name in images if failed & {name, name.partition('_')[0]}}


def _report_lines(output_dir: Path, participants: Sequence[str]) -> list[str]:
    pages = [output_dir / f'sub-{label}.html' for label in participants]
    pages = [page for page in pages if page.is_file()]
    if len(pages) > _MAX_LISTED:
        return [f'Reports: {output_dir / "sub-*.html"}']
    return [f'Report: {page}' for page in pages]

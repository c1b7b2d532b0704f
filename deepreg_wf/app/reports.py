"""The page of each participant."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from deepreg_wf.engine.failures import Failure
from deepreg_wf.engine.progress import Display, in_words
from deepreg_wf.utils.os_errors import explain


def write_reports(
    output_dir: Path, runs: Mapping[str, str], display: Display, *, begun: float | None = None
) -> list[Failure]:
    """Write the page of each participant; that of one who failed tells why.

    Parameters
    ----------
    output_dir
        Folder of the derivatives.
    runs
        Which run the page is about, by the label of the participant.
    display
        Where the steps are shown.
    begun
        When this run began, in seconds of the epoch, if the pages are to say how long it took.

    Returns
    -------
    list of Failure
        Pages that could not be written.

    """
    from deepreg_wf.reports import write_subject_report

    failures = []
    for label, run_id in runs.items():
        start, image = time.time(), f'sub-{label}'
        elapsed = None if begun is None else start - begun
        outcome = 'failed'
        try:
            write_subject_report(output_dir, label, run_id, elapsed=elapsed)
            outcome = f'done in {in_words(time.time() - start)}'
        except Exception as error:  # one page is not worth all that was computed
            reason = explain(f'{type(error).__name__}: {error}'.split('\n')[0])
            failures.append(Failure(participant=label, image=image, step='report', reason=reason))
        display.ended(image, 'report', outcome)
    return failures


def last_run(output_dir: Path, participant: str) -> str | None:
    """Find the last run of a participant.

    Parameters
    ----------
    output_dir
        Folder of the derivatives.
    participant
        Label, without ``sub-``.

    Returns
    -------
    str or None
        Name of the folder of its log; they are named by time.

    """
    records = (output_dir / f'sub-{participant}' / 'log').glob('*/deepreg_wf.toml')
    return max((record.parent.name for record in records), default=None)

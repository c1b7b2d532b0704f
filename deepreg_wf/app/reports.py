"""Write the report of each participant, a page that shows the registrations of its images."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from deepreg_wf.app.records import SETTINGS_FILE
from deepreg_wf.engine.failures import Failure
from deepreg_wf.engine.progress import Display, format_duration
from deepreg_wf.utils.os_errors import explain_exception


def write_reports(
    output_dir: Path, runs: Mapping[str, str], display: Display, *, started: float | None = None
) -> list[Failure]:
    """Write the report of each participant; that of a participant that failed says why.

    Parameters
    ----------
    output_dir : Path
        Folder of the derivatives.
    runs : mapping of str to str
        Name of the run that a report is about, by the label of the participant.
    display : Display
        Display of the steps.
    started : float, optional
        Start of the run, in seconds since the epoch; by default the reports do not say how long
        the run took.

    Returns
    -------
    list of Failure
        Reports that could not be written.
    """
    from deepreg_wf.reports import write_subject_report

    failures = []
    for label, run_id in runs.items():
        begin, image = time.time(), f'sub-{label}'
        elapsed = None if started is None else begin - started
        outcome = 'failed'
        try:
            write_subject_report(output_dir, label, run_id, elapsed=elapsed)
            outcome = f'done in {format_duration(time.time() - begin)}'
        except Exception as error:  # an error in one report must not end the run
            text = f'{type(error).__name__}: {error}'.split('\n')[0]
            reason = explain_exception(error, text)
            failures.append(Failure(participant=label, image=image, step='report', reason=reason))
        display.step_ended(image, 'report', outcome)
    return failures


def find_last_run(output_dir: Path, participant: str) -> str | None:
    """Find the last run of a participant.

    Parameters
    ----------
    output_dir : Path
        Folder of the derivatives.
    participant : str
        Label, without ``sub-``.

    Returns
    -------
    str or None
        Name of the run, which is that of its log folder; names begin with the time.
    """
    records = (output_dir / f'sub-{participant}' / 'log').glob(f'*/{SETTINGS_FILE}')
    return max((record.parent.name for record in records), default=None)

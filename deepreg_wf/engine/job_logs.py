"""Reasons for which SLURM has ended a job, read from the log of the job."""

from __future__ import annotations

import re
from pathlib import Path

_TAIL_BYTES = 65_536
_REASONS = {
    r'oom.kill|[Ee]xceeded .*memory|memory limit': (
        'the scheduler ended it because it took more memory than it had asked for'
    ),
    'DUE TO TIME LIMIT': 'the scheduler ended it because it reached its time limit',
    'DUE TO NODE FAILURE': 'the machine that it ran on failed',
    'DUE TO PREEMPTION': 'the scheduler ended it in favour of another job',
    'CANCELLED AT': 'it was cancelled',
}
"""Meaning of the lines that SLURM's daemon writes into the log of a job that it ends.

Nothing else tells the reason on a cluster without SLURM's database of jobs.
"""


def termination_reason(log: Path) -> str | None:
    """Find the reason for which SLURM ended a job.

    Parameters
    ----------
    log : Path
        Output of the job, to which SLURM adds lines.

    Returns
    -------
    str or None
        Part of a sentence; None if the log has no such line.
    """
    text = _read_tail(log)
    for pattern, reason in _REASONS.items():
        if re.search(rf'slurmstepd\S* error: .*({pattern})', text):
            return reason
    return None


def last_line(log: Path) -> str | None:
    """Return the last line of a log that is not blank; None if there is none."""
    lines = [line.strip() for line in _read_tail(log).splitlines() if line.strip()]
    return lines[-1] if lines else None


def _read_tail(log: Path) -> str:
    if not log.is_file():
        return ''
    with log.open('rb') as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        return file.read().decode('utf-8', errors='replace')

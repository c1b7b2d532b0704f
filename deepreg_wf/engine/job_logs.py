"""What the log of a job says of its end."""

from __future__ import annotations

import re
from pathlib import Path

_TAIL = 65_536
_SLURM = r'slurmstepd\S* error: .*'
_PBS = 'PBS: job killed: '
_CLUES = {
    rf'{_SLURM}(oom.kill|[Ee]xceeded .*memory|memory limit)|{_PBS}mem|TERM_MEMLIMIT': (
        'the scheduler ended it, for it took more memory than it had asked for'
    ),
    rf'{_SLURM}DUE TO TIME LIMIT|{_PBS}walltime|TERM_RUNLIMIT': (
        'the scheduler ended it, for its time was over'
    ),
    rf'{_SLURM}DUE TO NODE FAILURE': 'the node that it ran on failed',
    rf'{_SLURM}DUE TO PREEMPTION|TERM_PREEMPT': 'the scheduler ended it, in favour of another',
    rf'{_SLURM}CANCELLED AT|TERM_OWNER|TERM_ADMIN': 'it was cancelled',
}
"""What schedulers write into the log of a job that they end, and what it means."""


def reason_of_end(log: Path) -> str | None:
    """Find why a scheduler ended a job.

    Parameters
    ----------
    log
        What the job and the scheduler have written.

    Returns
    -------
    str or None
        Part of a sentence; None where the log says nothing of it.

    """
    text = _tail(log)
    return next((meaning for clue, meaning in _CLUES.items() if re.search(clue, text)), None)


def last_line(log: Path) -> str | None:
    """Last line of a log that says anything; None of one that is empty or missing."""
    lines = [line.strip() for line in _tail(log).splitlines() if line.strip()]
    return lines[-1] if lines else None


def _tail(log: Path) -> str:
    if not log.is_file():
        return ''
    with log.open('rb') as file:
        file.seek(max(0, log.stat().st_size - _TAIL))
        return file.read().decode('utf-8', errors='replace')

"""State of each participant of a cohort, from the output folder and the queue."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from deepreg_wf.app.batch.script import Batch, read_batches
from deepreg_wf.app.batch.slurm import PENDING, tasks_in_queue
from deepreg_wf.app.summary import FAILURES_TABLE
from deepreg_wf.engine.failures import read_failures
from deepreg_wf.engine.job_logs import last_line, termination_reason
from deepreg_wf.engine.usage import read_usages


class Progress(Enum):
    """Progress of a participant; values are as printed, in the order of the summary."""

    DONE = 'done'
    RUNNING = 'running'
    WAITING = 'waiting'
    FAILED = 'failed'
    TO_DO = 'to do'


@dataclass(frozen=True)
class State:
    """State of a participant.

    Parameters
    ----------
    progress : Progress
        Progress of the participant.
    since : float
        Time of the observation, in seconds since the epoch.
    reason : str
        Reason of a failure.
    log : Path, optional
        File or folder that says more about a failure.
    """

    progress: Progress
    since: float = 0.0
    reason: str = ''
    log: Path | None = None


def cohort_states(output_dir: Path, labels: Iterable[str]) -> dict[str, State]:
    """Determine the state of each participant.

    The latest of all its tasks and of its last run counts, in a batch or not.

    Parameters
    ----------
    output_dir : Path
        Folder of the derivatives.
    labels : iterable of str
        Participants.

    Returns
    -------
    dict of str to State
        State by label.

    Raises
    ------
    InputError
        If tasks may be in the queue and SLURM does not answer.
    """
    failures: dict[str, str] = {}
    for row in read_failures(output_dir / FAILURES_TABLE):
        label = row['participant_id'].removeprefix('sub-')
        failures.setdefault(label, f'{row["step"]}: {row["reason"]}')
    tasks = [
        (batch, task, label)
        for batch in read_batches(output_dir)
        for task, label in enumerate(batch.labels, start=1)
    ]
    is_open = any(not batch.status_file(task).is_file() for batch, task, _ in tasks)
    queue = tasks_in_queue() if is_open else {}
    states = {label: State(Progress.TO_DO) for label in labels}
    found = [
        (label, _task_state(batch, task, queue.get((batch.name, task)), failures.get(label)))
        for batch, task, label in tasks
    ]
    last_runs = ((label, _last_run_state(output_dir, label, failures)) for label in states)
    found += [(label, state) for label, state in last_runs if state is not None]
    for label, state in found:
        if label in states and state.since >= states[label].since:
            states[label] = state
    return states


def format_states(states: Mapping[str, State]) -> list[str]:
    """Format the states of a cohort.

    Parameters
    ----------
    states : mapping of str to State
        State of each participant, by label.

    Returns
    -------
    list of str
        A line with the counts, and one line for each participant that failed.
    """
    count = Counter(state.progress for state in states.values())
    counts = ', '.join(f'{count[progress]} {progress.value}' for progress in Progress)
    lines = [f'{len(states)} participants: {counts}.']
    for label, state in states.items():
        if state.progress is Progress.FAILED:
            log = f'; see {state.log}' if state.log else ''
            lines.append(f'sub-{label} failed: {state.reason.rstrip(".")}{log}.')
    return lines


def _task_state(batch: Batch, task: int, queued: str | None, failure: str | None) -> State:
    """Determine the state of a task.

    Parameters
    ----------
    batch : Batch
        Batch of the task.
    task : int
        Number of the task.
    queued : str or None
        State in the queue of SLURM, if the task is there.
    failure : str or None
        Reason that ``failed.tsv`` gives for the participant, if there is one.
    """
    log, status_file = batch.log(task), batch.status_file(task)
    if status_file.is_file():
        status, since = status_file.read_text(encoding='utf-8').strip(), _mtime(status_file)
        if status == '0':
            return State(Progress.DONE, since)
        recorded = failure if status == '1' else None
        reason = termination_reason(log) or recorded or last_line(log) or f'exit status {status}'
        return State(Progress.FAILED, since, reason, log)
    if queued is not None:
        progress = Progress.WAITING if queued == PENDING else Progress.RUNNING
        return State(progress, time.time())
    if log.is_file():
        last = last_line(log) or 'its log is empty'
        reason = termination_reason(log) or f'it ended before it was done ({last})'
        return State(Progress.FAILED, _mtime(log), reason, log)
    return State(Progress.TO_DO)


def _mtime(path: Path) -> float:
    return path.stat().st_mtime


def _last_run_state(output_dir: Path, label: str, failures: Mapping[str, str]) -> State | None:
    """Determine the state after the last run that came to its end, if there was one."""
    usages = read_usages(output_dir, label)
    if not usages:
        return None
    last = usages[-1]
    if label in failures:
        return State(Progress.FAILED, last.ended, failures[label], last.folder)
    return State(Progress.DONE, last.ended)

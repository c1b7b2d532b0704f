"""How far a cohort is: from the output folder, and from the queue of the scheduler."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepreg_wf.app.batch.schedulers import tasks_in_queue
from deepreg_wf.app.batch.script import Batch, read_batches
from deepreg_wf.engine.failures import read_table
from deepreg_wf.engine.job_logs import last_line, reason_of_end
from deepreg_wf.engine.usage import read_usages

STATES = ('done', 'running', 'waiting', 'failed', 'to do')


@dataclass(frozen=True)
class State:
    """How far a participant is.

    Parameters
    ----------
    name
        One of `STATES`.
    since
        When this was so, in seconds of the epoch.
    reason
        Why one failed.
    log
        Where more is told of it.

    """

    name: str
    since: float = 0.0
    reason: str = ''
    log: Path | None = None


def cohort_states(output_dir: Path, labels: Iterable[str], scheduler: str) -> dict[str, State]:
    """Tell how far each participant is.

    Of all its tasks, and its last run, whoever started it, the latest counts.

    Parameters
    ----------
    output_dir
        Folder of the derivatives.
    labels
        Participants.
    scheduler
        Name of it; the queue of SLURM is looked at, if tasks may be in it.

    Returns
    -------
    dict of str to State
        By label.

    Raises
    ------
    InputError
        If the scheduler does not answer.

    """
    failures: dict[str, str] = {}
    for row in read_table(output_dir / 'failed.tsv'):
        failures.setdefault(
            row['participant_id'].removeprefix('sub-'), f'{row["step"]}: {row["reason"]}'
        )
    tasks = [
        (batch, task, label)
        for batch in read_batches(output_dir)
        for task, label in enumerate(batch.labels, start=1)
    ]
    is_open = any(not batch.status_file(task).is_file() for batch, task, _ in tasks)
    queue = tasks_in_queue() if scheduler == 'slurm' and is_open else {}
    states = {label: State('to do') for label in labels}
    found = [
        (label, _state_of(batch, task, queue.get((batch.name, task)), failures.get(label)))
        for batch, task, label in tasks
    ]
    found += [
        (label, state) for label in states for state in _last_run(output_dir, label, failures)
    ]
    for label, state in found:
        if label in states and state.since >= states[label].since:
            states[label] = state
    return states


def summary(states: dict[str, State]) -> list[str]:
    """Sum up a cohort.

    Parameters
    ----------
    states
        Of each participant.

    Returns
    -------
    list of str
        A line of figures, and one for each that failed.

    """
    count = Counter(state.name for state in states.values())
    figures = ', '.join(f'{count[name]} {name}' for name in STATES)
    lines = [f'{len(states)} participants: {figures}.']
    for label, state in states.items():
        if state.name == 'failed':
            more = f'; see {state.log}' if state.log else ''
            lines.append(f'sub-{label} failed: {state.reason.rstrip(".")}{more}.')
    return lines


def _state_of(batch: Batch, task: int, queued: str | None, failure: str | None) -> State:
    """State of a task.

    Parameters
    ----------
    batch, task
        Which one.
    queued
        What the scheduler calls its state, if it has it still.
    failure
        What ``failed.tsv`` says of the participant.

    """
    log, ended = batch.log(task), batch.status_file(task)
    if ended.is_file():
        status, since = ended.read_text(encoding='utf-8').strip(), ended.stat().st_mtime
        if status == '0':
            return State('done', since)
        told = failure if status == '1' else None
        reason = reason_of_end(log) or told or last_line(log) or f'exit status {status}'
        return State('failed', since, reason, log)
    if queued is not None:
        name = 'waiting' if queued == 'PENDING' else 'running'
        return State(name, float('inf'))
    if log.is_file():
        reason = reason_of_end(log) or f'it ended in the middle ({last_line(log) or "no word"})'
        return State('failed', log.stat().st_mtime, reason, log)
    return State('to do')


def _last_run(output_dir: Path, label: str, failures: dict[str, str]) -> Sequence[State]:
    """State that the last run has left, if it came to its end."""
    usages = read_usages(output_dir, label)
    if not usages:
        return ()
    last = usages[-1]
    if label in failures:
        return (State('failed', last.ended, failures[label], last.folder),)
    return (State('done', last.ended),)

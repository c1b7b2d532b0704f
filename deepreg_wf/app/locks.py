"""Locks on participants: a run leaves out a participant that another run is processing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from deepreg_wf.app.inputs import Inputs
from deepreg_wf.engine.failures import Failure
from deepreg_wf.errors import InputError
from deepreg_wf.utils.locks import ParticipantLocks, is_locked

OUTPUT_LOCKS = 'logs/.locks'
WORK_LOCKS = '.deepreg_wf_locks'
_GROUP = 'group level'
_ADVICE = 'wait until it has ended, and make the same call again if anything is left to do'


@contextmanager
def lock_participants(
    inputs: Inputs, output_dir: Path, work_dir: Path
) -> Iterator[tuple[Inputs, list[Failure]]]:
    """Lock participants in both folders for the length of a block.

    Runs on different participants may share any folder. Two runs on the same participant would
    write the same files.

    Parameters
    ----------
    inputs : Inputs
        Images of the call.
    output_dir, work_dir : Path
        Folders of the call, which exist.

    Yields
    ------
    locked : Inputs
        Images of the participants that this run has locked.
    skipped : list of Failure
        One failure for each participant that another run is processing.

    Raises
    ------
    InputError
        If another run is processing all participants.
    """
    with (
        ParticipantLocks(output_dir / OUTPUT_LOCKS) as output,
        ParticipantLocks(work_dir / WORK_LOCKS) as work,
    ):
        acquired = {
            folder: locks.try_acquire_all(inputs.subjects)
            for folder, locks in ((output_dir, output), (work_dir, work))
        }
        held = {
            label: [folder for folder, labels in acquired.items() if label not in labels]
            for label in inputs.subjects
        }
        locked = {label: paths for label, paths in inputs.subjects.items() if not held[label]}
        skipped = [_failure(label, folders[0]) for label, folders in held.items() if folders]
        if not locked:
            raise InputError(
                'another run is processing these participants',
                advice=_ADVICE,
                path=next(iter(held.values()))[0],
            )
        yield replace(inputs, subjects=locked), skipped


@contextmanager
def lock_group(output_dir: Path) -> Iterator[None]:
    """Lock the group level of a folder for the length of a block.

    Parameters
    ----------
    output_dir : Path
        Folder of the derivatives.

    Raises
    ------
    InputError
        If another run is summarising the folder.
    """
    with ParticipantLocks(output_dir / OUTPUT_LOCKS) as locks:
        if not locks.try_acquire(_GROUP):
            raise InputError(
                'another run is summarising this folder',
                advice='wait until it has ended',
                path=output_dir,
            )
        yield


def check_unlocked(work_dir: Path) -> None:
    """Check that no run is using a work folder that is to be cleaned.

    Parameters
    ----------
    work_dir : Path
        The work folder; it may be missing.

    Raises
    ------
    InputError
        If a run is using it.
    """
    if is_locked(work_dir / WORK_LOCKS):
        raise InputError(
            'another run is using this folder, which --clean-workdir would empty',
            advice='wait until it has ended, or give another --work-dir',
            path=work_dir,
        )


def _failure(label: str, folder: Path) -> Failure:
    return Failure(
        participant=label,
        image=f'sub-{label}',
        step='locking the participant',
        reason=f'another run is processing this participant in {folder}; {_ADVICE}.',
        is_input_error=True,
    )

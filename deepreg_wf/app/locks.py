"""Who is at work on whom: a participant that another run has in hand is left to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from deepreg_wf.app.inputs import Inputs
from deepreg_wf.engine.failures import Failure
from deepreg_wf.errors import InputError
from deepreg_wf.utils.locks import Claims

IN_OUTPUT = 'logs/.claims'
IN_WORK = '.deepreg_wf_claims'
_GROUP = 'group level'


@contextmanager
def claimed(
    inputs: Inputs, output_dir: Path, work_dir: Path
) -> Iterator[tuple[Inputs, list[Failure]]]:
    """Claim participants in both folders for the length of a block.

    Runs about different participants share any folder; two about the same one would write the
    same files.

    Parameters
    ----------
    inputs
        Images of the call.
    output_dir, work_dir
        Folders of the call, which exist.

    Yields
    ------
    Inputs
        What this run has to itself.
    list of Failure
        One for each participant that another run is at work on.

    Raises
    ------
    InputError
        If that is the case of all of them.

    """
    with Claims(output_dir / IN_OUTPUT) as output, Claims(work_dir / IN_WORK) as work:
        places = {output_dir: output, work_dir: work}
        held = {
            label: [folder for folder, claims in places.items() if not claims.take(label)]
            for label in inputs.subjects
        }
        ours = {label: paths for label, paths in inputs.subjects.items() if not held[label]}
        elsewhere = [_failure(label, folders[0]) for label, folders in held.items() if folders]
        if not ours:
            folder = next(iter(held.values()))[0]
            raise InputError(f'{folder}: another run is at work on these participants; {_ADVICE}.')
        yield replace(inputs, subjects=ours), elsewhere


@contextmanager
def group_claimed(output_dir: Path) -> Iterator[None]:
    """Have the group level of a folder to oneself for the length of a block.

    Parameters
    ----------
    output_dir
        Folder of the derivatives.

    Raises
    ------
    InputError
        If another run is summing it up.

    """
    with Claims(output_dir / IN_OUTPUT) as claims:
        if not claims.take(_GROUP):
            raise InputError(
                f'{output_dir}: another run is summing this folder up; wait until it has ended.'
            )
        yield


def check_idle(work_dir: Path) -> None:
    """See that no run is at work in a folder that is to be cleaned.

    Parameters
    ----------
    work_dir
        It may be missing.

    Raises
    ------
    InputError
        If one is.

    """
    if not (work_dir / IN_WORK).exists():
        return
    with Claims(work_dir / IN_WORK) as claims:
        if not claims.take_all():
            raise InputError(
                f'{work_dir}: another run is at work in this folder, which --clean-workdir would '
                'empty; wait until it has ended, or give another --work-dir.'
            )


_ADVICE = 'wait until it has ended, and make the same call again if anything is left to do'


def _failure(label: str, folder: Path) -> Failure:
    return Failure(
        participant=label,
        image=f'sub-{label}',
        step='claiming the participant',
        reason=f'another run is at work on this participant in {folder}; {_ADVICE}.',
        is_input_error=True,
    )

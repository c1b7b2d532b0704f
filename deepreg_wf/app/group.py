"""The group level: what is in a folder of derivatives, summed up."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deepreg_wf.app.inputs import make_writable
from deepreg_wf.app.locks import group_claimed
from deepreg_wf.app.summary import ALL_DONE, SOME_FAILED
from deepreg_wf.engine.failures import read_table
from deepreg_wf.engine.progress import PlainDisplay, in_words
from deepreg_wf.engine.resources import available_processors
from deepreg_wf.errors import InputError
from deepreg_wf.settings import Settings

if TYPE_CHECKING:
    from deepreg_wf.group import Member, Members


def run_group(settings: Settings) -> int:
    """Write the table, the page and the average images of a group.

    Parameters
    ----------
    settings
        Of the call; the dataset itself is not looked at.

    Returns
    -------
    int
        Exit status: 1 if some images had to be left out of the averages.

    Raises
    ------
    InputError
        If there is nothing to sum up.

    """
    from deepreg_wf.group import find_members

    began, output_dir = time.time(), settings.output.output_dir
    found = find_members(output_dir)
    spaces = _chosen(found, settings.selection.participant_label)
    if not spaces:
        raise InputError(
            f'{output_dir}: no registration is in it; run the participant level first.'
        )
    make_writable(output_dir)
    with group_claimed(output_dir):
        return _sum_up(settings, began, found, spaces)


def _sum_up(
    settings: Settings, began: float, found: Members, spaces: Mapping[str, list[Member]]
) -> int:
    """Write it all; return the exit status."""
    import torch

    from deepreg_wf.group import build_atlas, ranked, write_table
    from deepreg_wf.reports import write_group_report

    output_dir = settings.output.output_dir
    members = [member for of_space in spaces.values() for member in of_space]
    torch.set_num_threads(settings.execution.nprocs or available_processors())
    display, left_out = PlainDisplay(sys.stdout), dict[str, str]()

    def complain(member: Member, reason: str) -> None:
        left_out[f'{member.image}, {member.space}'] = reason
        print(f'[{member.image}] {reason}', file=sys.stderr)

    table = write_table(output_dir, members)
    atlases = []
    for space, of_space in spaces.items():
        atlases.append(build_atlas(output_dir, space, of_space, complain, display.say))
    for path, reason in found.unreadable.items():
        print(f'{path}: {reason}; run this image again.', file=sys.stderr)
    lacking = left_out | _lacking(output_dir, found)
    page = write_group_report(output_dir, ranked(members), atlases, lacking)
    display.say(f'{len(members)} registrations summarised in {in_words(time.time() - began)}')
    print(f'Table: {table}\nReport: {page}')
    return SOME_FAILED if left_out or found.unreadable else ALL_DONE


def _chosen(found: Members, labels: Sequence[str]) -> dict[str, list[Member]]:
    """Members of the participants that were asked for; all, if nobody was."""
    chosen = {
        space: [member for member in members if not labels or member.participant in labels]
        for space, members in found.by_space.items()
    }
    return {space: members for space, members in chosen.items() if members}


def _lacking(output_dir: Path, found: Members) -> dict[str, str]:
    """Who failed, who has nothing, and what cannot be read."""
    lacking = {f'sub-{label}': 'no registration was completed' for label in found.without}
    for row in read_table(output_dir / 'failed.tsv'):
        lacking.pop(row['participant_id'], None)
        lacking[row['image']] = f'{row["step"]}: {row["reason"]}'
    return lacking | {path.name: reason for path, reason in found.unreadable.items()}

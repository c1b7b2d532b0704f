"""What failed and why, read from Nipype's crash files: these survive any way of running."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from deepreg_wf.bids.dataset import LOCK
from deepreg_wf.bids.entities import write_text
from deepreg_wf.engine.crashes import Crash, read_crashes
from deepreg_wf.engine.progress import EVERYBODY, Glossary
from deepreg_wf.utils.locks import locked

COLUMNS = ('participant_id', 'image', 'step', 'node', 'reason', 'crash_file')


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A step that failed.

    Parameters
    ----------
    participant
        Label, without ``sub-``.
    image
        Name of the image without its suffix, such as ``sub-01_ses-pre``.
    step
        What could not be done.
    node
        Full name of Nipype's node, if it was one.
    reason
        One sentence.
    crash_file
        Where all of it stands.
    is_input_error
        Whether the image is at fault, so that `reason` says all there is to say.

    """

    participant: str
    image: str
    step: str
    reason: str
    node: str = 'n/a'
    crash_file: Path | None = None
    is_input_error: bool = False

    @property
    def sentence(self) -> str:
        """What a person is told."""
        if self.is_input_error:
            return f'[{self.image}] {self.reason}'
        more = f'; see {self.crash_file}' if self.crash_file else ''
        return f'[{self.image}] {self.step} failed: {self.reason.rstrip(".")}{more}.'


def collect_failures(
    folders: Iterable[Path], glossary: Glossary, untold: Iterable[Crash] = ()
) -> list[Failure]:
    """Read the crash files of a run.

    Parameters
    ----------
    folders
        Where the crash files of the run are.
    glossary
        Words for the nodes of the graph.
    untold
        Crashes that have no file.

    Returns
    -------
    list of Failure
        In the order in which they happened, image by image.

    """
    crashes = [crash for folder in folders for crash in read_crashes(folder)]
    failures = [_failure(crash, glossary) for crash in (*crashes, *untold)]
    return sorted(failures, key=lambda failure: failure.image)


def first_of_each(failures: Iterable[Failure]) -> list[Failure]:
    """Keep the first failure of each image: one is enough for a person to be told.

    Parameters
    ----------
    failures
        In the order in which they happened.

    Returns
    -------
    list of Failure
        One for each image.

    """
    first: dict[str, Failure] = {}
    for failure in failures:
        first.setdefault(failure.image, failure)
    return list(first.values())


def participant_of(image: str) -> str:
    """Label in the name of an image; that of all is ``all``."""
    return image.split('_')[0].removeprefix('sub-')


def update_table(path: Path, failures: Iterable[Failure], participants: Collection[str]) -> None:
    """Bring ``failed.tsv`` up to date; without failures there is no such file.

    Parameters
    ----------
    path
        The table. What it says of other participants, from other runs, stays.
    failures
        Of this run.
    participants
        Labels of those that this run was about.

    """
    with locked(path.parent / LOCK):
        _update(path, failures, {f'sub-{label}' for label in participants} | {EVERYBODY})


def _update(path: Path, failures: Iterable[Failure], ours: Collection[str]) -> None:
    rows = [row for row in read_table(path) if row['participant_id'] not in ours]
    rows += [_row(failure) for failure in failures]
    if not rows:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, delimiter='\t', lineterminator='\n')
    writer.writeheader()
    writer.writerows(sorted(rows, key=lambda row: (row['participant_id'], row['image'])))
    write_text(path, text.getvalue())


def _failure(crash: Crash, glossary: Glossary) -> Failure:
    image = glossary.image_of(crash.node)
    return Failure(
        participant=participant_of(image),
        image=image,
        step=glossary.steps.get(crash.node, crash.step),
        node=crash.node,
        reason=crash.reason,
        crash_file=crash.path,
        is_input_error=f'InputError: {crash.reason}' in crash.traceback,
    )


def read_table(path: Path) -> list[dict[str, str]]:
    """Rows of ``failed.tsv``; none where there is no such file."""
    if not path.is_file():
        return []
    with path.open(encoding='utf-8', newline='') as file:
        rows = csv.DictReader(file, delimiter='\t')
        return [{name: row.get(name) or 'n/a' for name in COLUMNS} for row in rows]


def _row(failure: Failure) -> dict[str, str]:
    everybody = failure.participant == EVERYBODY
    return {
        'participant_id': EVERYBODY if everybody else f'sub-{failure.participant}',
        'image': failure.image,
        'step': failure.step,
        'node': failure.node,
        'reason': ' '.join(failure.reason.split()),
        'crash_file': str(failure.crash_file or 'n/a'),
    }

"""Failures of a run, which are read from its crash files, and the table ``failed.tsv``.

Every plugin of Nipype writes crash files, and they remain when a run is killed.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from deepreg_wf.bids.dataset import SHARED_LOCK
from deepreg_wf.engine.crashes import Crash, read_crashes, read_tsv
from deepreg_wf.engine.progress import ALL_IMAGES, StepLabels
from deepreg_wf.utils.atomic import write_text
from deepreg_wf.utils.locks import locked

COLUMNS = ('participant_id', 'image', 'step', 'node', 'reason', 'crash_file')


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A step that failed.

    Parameters
    ----------
    participant : str
        Label, without ``sub-``.
    image : str
        Name of the image without its suffix, such as ``sub-01_ses-pre``.
    step : str
        Name of the step for the user.
    reason : str
        One sentence that says why.
    node : str
        Full name of Nipype's node; ``n/a`` if it was none.
    crash_file : Path, optional
        File with the traceback.
    is_input_error : bool
        Whether the input is unusable; `reason` is then all that the user needs.
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
        """The failure as one sentence for the user."""
        if self.is_input_error:
            return f'[{self.image}] {self.reason}'
        more = f'; see {self.crash_file}' if self.crash_file else ''
        return f'[{self.image}] {self.step} failed: {self.reason.rstrip(".")}{more}.'


def collect_failures(
    folders: Iterable[Path], step_labels: StepLabels, unwritten_crashes: Iterable[Crash] = ()
) -> list[Failure]:
    """Read the crash files of a run.

    Parameters
    ----------
    folders : iterable of Path
        Folders of the crash files.
    step_labels : StepLabels
        Names of the steps for the user.
    unwritten_crashes : iterable of Crash
        Crashes whose file could not be written.

    Returns
    -------
    list of Failure
        Sorted by image; those of one image are in the order in which they happened.
    """
    crashes = [crash for folder in folders for crash in read_crashes(folder)]
    failures = [_failure(crash, step_labels) for crash in (*crashes, *unwritten_crashes)]
    return sorted(failures, key=lambda failure: failure.image)


def _failure(crash: Crash, step_labels: StepLabels) -> Failure:
    image = step_labels.image_of(crash.node)
    return Failure(
        participant=participant_of(image),
        image=image,
        step=step_labels.steps.get(crash.node, crash.step),
        node=crash.node,
        reason=crash.reason,
        crash_file=crash.path,
        is_input_error=crash.error.is_input_error,
    )


def first_per_image(failures: Iterable[Failure]) -> list[Failure]:
    """Return the first failure of each image; others of that image follow from it.

    Parameters
    ----------
    failures : iterable of Failure
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
    """Return the label of the participant of an image; ``all`` for all images."""
    return image.split('_')[0].removeprefix('sub-')


def update_failures(
    path: Path, failures: Iterable[Failure], participants: Collection[str]
) -> None:
    """Update ``failed.tsv``; the file is removed if it has no rows left.

    Parameters
    ----------
    path : Path
        The table. Rows of other participants, from other runs, remain.
    failures : iterable of Failure
        Failures of this run.
    participants : collection of str
        Labels of the participants of this run.
    """
    with locked(path.parent / SHARED_LOCK):
        _replace_rows(path, failures, {f'sub-{label}' for label in participants} | {ALL_IMAGES})


def _replace_rows(path: Path, failures: Iterable[Failure], ids: Collection[str]) -> None:
    rows = [row for row in read_failures(path) if row['participant_id'] not in ids]
    rows += [_row(failure) for failure in failures]
    if not rows:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, delimiter='\t', lineterminator='\n')
    writer.writeheader()
    writer.writerows(sorted(rows, key=lambda row: (row['participant_id'], row['image'])))
    write_text(path, text.getvalue())


def _row(failure: Failure) -> dict[str, str]:
    is_shared = failure.participant == ALL_IMAGES
    return {
        'participant_id': ALL_IMAGES if is_shared else f'sub-{failure.participant}',
        'image': failure.image,
        'step': failure.step,
        'node': failure.node,
        'reason': ' '.join(failure.reason.split()),
        'crash_file': str(failure.crash_file or 'n/a'),
    }


def read_failures(path: Path) -> list[dict[str, str]]:
    """Read the rows of ``failed.tsv``; none if there is no such file.

    A column that is missing is ``n/a``. Rows without a participant or an image, and all after a
    row that is damaged, are left out.
    """
    rows = ({name: row.get(name) or 'n/a' for name in COLUMNS} for row in read_tsv(path))
    return [row for row in rows if 'n/a' not in (row['participant_id'], row['image'])]

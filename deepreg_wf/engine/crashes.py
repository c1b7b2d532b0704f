"""What failed, read from the crash files that Nipype leaves."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path

from deepreg_wf.utils.os_errors import explain

_HEAD = 'Traceback (most recent call last)'


@dataclass(frozen=True)
class Crash:
    """A step that failed.

    Parameters
    ----------
    node : str
        Full name of the step in the workflow.
    reason : str
        One sentence.
    traceback : str
        All that Python said.
    path : Path or None
        The crash file, if it could be written.
    words : str
        What the step is called.
    """

    node: str
    reason: str
    traceback: str
    path: Path | None = None
    words: str = ''

    @property
    def step(self) -> str:
        """What the step is called; else the last part of the name of the node."""
        return self.words or self.node.rsplit('.', 1)[-1]


def read_crashes(folder: Path, table: Path | None = None) -> list[Crash]:
    """Read the crash files of a run.

    Parameters
    ----------
    folder : Path
        May be missing, if nothing failed.
    table : Path, optional
        ``failed.tsv``, which says what the steps are called; it may be missing, too.

    Returns
    -------
    list of Crash
        In the order in which they happened.
    """
    words = _read_words(table) if table is not None and table.is_file() else {}
    paths = sorted(folder.glob('crash-*.txt'))
    return [replace(_read(path), words=words.get(path.name, '')) for path in paths]


def _read_words(table: Path) -> dict[str, str]:
    """Words for the step of each crash file, by its name."""
    with table.open(encoding='utf-8', newline='') as file:
        rows = csv.DictReader(file, delimiter='\t')
        return {Path(row['crash_file'] or '').name: row['step'] for row in rows}


def crash_of(node: str, traceback: str, path: Path | None = None) -> Crash:
    """Make a crash of what Python said.

    Parameters
    ----------
    node : str
        Full name of the step in the workflow.
    traceback : str
    path : Path, optional
        Where it stands.

    Returns
    -------
    Crash
    """
    name, colon, message = _raised(traceback)
    says_all = name in ('InputError', 'WorkerDied') and message
    reason = message if says_all else explain(f'{name}{colon}{message}')
    return Crash(node, reason, traceback, path)


def reason_of(traceback: str) -> str:
    """Name and message of the exception that came first of all."""
    return ''.join(_raised(traceback))


def _raised(traceback: str) -> tuple[str, str, str]:
    """Name, colon and message; Nipype nests the exception in its own, indented by a tab."""
    lines = [line.lstrip('\t') for line in traceback.splitlines()]
    heads = [i for i, line in enumerate(lines) if line.startswith(_HEAD)]
    after = lines[heads[-1] + 1 :] if heads else lines[-1:]
    raised = next((line for line in after if line and not line.startswith(' ')), 'unknown error')
    kind, colon, message = raised.partition(': ')
    return kind.rsplit('.', 1)[-1], colon, message


def _read(path: Path) -> Crash:
    text = path.read_text(encoding='utf-8', errors='replace')
    node = text.partition('\n')[0].removeprefix('Node: ')
    start = text.find(_HEAD)
    return crash_of(node, text[max(start, 0) :].strip(), path)

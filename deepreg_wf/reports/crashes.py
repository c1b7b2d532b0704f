"""What failed, read from the crash files that Nipype leaves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deepreg_wf.troubles import explain

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
    """

    node: str
    reason: str
    traceback: str
    path: Path | None = None

    @property
    def step(self) -> str:
        """Last part of the name of the node."""
        return self.node.rsplit('.', 1)[-1]


def read_crashes(folder: Path) -> list[Crash]:
    """Read the crash files of a run.

    Parameters
    ----------
    folder : Path
        May be missing, if nothing failed.

    Returns
    -------
    list of Crash
        In the order in which they happened.
    """
    return [_read(path) for path in sorted(folder.glob('crash-*.txt'))]


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

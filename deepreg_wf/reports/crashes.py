"""What failed, read from the crash files that Nipype leaves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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
    path : Path
        The crash file.
    """

    node: str
    reason: str
    traceback: str
    path: Path

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


def _read(path: Path) -> Crash:
    text = path.read_text(encoding='utf-8', errors='replace')
    node = text.partition('\n')[0].removeprefix('Node: ')
    start = text.find(_HEAD)
    traceback = text[max(start, 0) :].strip()
    return Crash(node, _reason(traceback), traceback, path)


def _reason(traceback: str) -> str:
    """The exception that came first of all: Nipype nests it in its own, indented by a tab."""
    lines = [line.lstrip('\t') for line in traceback.splitlines()]
    heads = [i for i, line in enumerate(lines) if line.startswith(_HEAD)]
    after = lines[heads[-1] + 1 :] if heads else lines[-1:]
    raised = next((line for line in after if line and not line.startswith(' ')), 'unknown error')
    kind, colon, message = raised.partition(': ')
    name = kind.rsplit('.', 1)[-1]
    return message if name == 'InputError' and message else f'{name}{colon}{message}'

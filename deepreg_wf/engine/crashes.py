"""Records of failed steps: the crash files of Nipype, and the facts that are stored beside them.

Beside a crash file, ``crash-*.txt``, a file of the same name that ends in ``.json`` holds the
facts of the exception. Steps that a worker of Nipype's own runs, such as a job of a cluster, have
no such file; their facts are then read from the traceback in the crash file.
"""

from __future__ import annotations

import csv
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from deepreg_wf.errors import InputError
from deepreg_wf.utils.atomic import write_json
from deepreg_wf.utils.json_file import read_json_object
from deepreg_wf.utils.os_errors import explain, explain_exception, is_out_of_memory

_HEAD = 'Traceback (most recent call last)'


class WorkerDied(RuntimeError):
    """A worker process ended in the middle of a step."""


class JobEnded(RuntimeError):
    """A job of a cluster ended without a result."""


_SELF_EXPLANATORY = (InputError, WorkerDied, JobEnded)
"""Exceptions whose message is the reason of a failure; that of others follows their name."""


@dataclass(frozen=True, kw_only=True)
class ErrorRecord:
    """Facts of an exception, as plain data that can be sent to another process and stored.

    Parameters
    ----------
    type_name : str
        Name of the class of the exception.
    message : str
        First line of its text.
    reason : str
        One sentence for the user.
    problem, advice, path : str, optional
        Fields of an `InputError`.
    is_input_error : bool
        Whether it is an `InputError`.
    is_out_of_memory : bool
        Whether there was too little memory.
    is_gpu_error : bool
        Whether that was the memory of a GPU.
    traceback : str
        Text of Python.
    """

    type_name: str
    message: str
    reason: str
    problem: str | None = None
    advice: str | None = None
    path: str | None = None
    is_input_error: bool = False
    is_out_of_memory: bool = False
    is_gpu_error: bool = False
    traceback: str = ''


def describe_exception(error: BaseException, *, traceback: str) -> ErrorRecord:
    """Collect the facts of an exception.

    Parameters
    ----------
    error : BaseException
        The exception.
    traceback : str
        Text of Python for it, or for one that it led to.

    Returns
    -------
    ErrorRecord
    """
    name = type(error).__name__
    message = next(iter(str(error).splitlines()), '')
    text = f'{name}: {message}' if message else name
    is_clear = bool(message) and isinstance(error, _SELF_EXPLANATORY)
    given = error if isinstance(error, InputError) else None
    return ErrorRecord(
        type_name=name,
        message=message,
        reason=message if is_clear else explain_exception(error, text),
        problem=given.problem if given else None,
        advice=given.advice if given else None,
        path=given.path if given else None,
        is_input_error=given is not None,
        is_out_of_memory=is_out_of_memory(error),
        is_gpu_error=_is_gpu_error(error),
        traceback=traceback,
    )


def _is_gpu_error(error: BaseException) -> bool:
    """Return whether torch raised an error of a GPU; older releases have no class for most."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return not names.isdisjoint({'OutOfMemoryError', 'AcceleratorError'}) or 'CUDA' in str(error)


def parse_traceback(traceback: str) -> ErrorRecord:
    """Read the facts of an exception from its traceback, where nothing else is left of it.

    Parameters
    ----------
    traceback : str
        Text of Python, in which Nipype may have nested that of an exception before it.

    Returns
    -------
    ErrorRecord
    """
    # Nipype indents the nested text by a tab; the exception that came first is then the last.
    lines = [line.lstrip('\t') for line in traceback.splitlines()]
    heads = [i for i, line in enumerate(lines) if line.startswith(_HEAD)]
    after = lines[heads[-1] + 1 :] if heads else lines[-1:]
    raised = next((line for line in after if line and not line.startswith(' ')), 'unknown error')
    qualified, _, message = raised.partition(': ')
    name = qualified.rsplit('.', 1)[-1]
    is_clear = bool(message) and name in {error.__name__ for error in _SELF_EXPLANATORY}
    return ErrorRecord(
        type_name=name,
        message=message,
        reason=message if is_clear else explain(f'{name}: {message}' if message else name),
        is_input_error=name == InputError.__name__,
        is_out_of_memory=is_out_of_memory(raised),
        traceback=traceback,
    )


@dataclass(frozen=True)
class Crash:
    """A step that failed.

    Parameters
    ----------
    node : str
        Full name of the step in the workflow.
    error : ErrorRecord
        Facts of the exception.
    path : Path or None
        The crash file, if it could be written.
    label : str
        Name of the step for the user.
    """

    node: str
    error: ErrorRecord
    path: Path | None = None
    label: str = ''

    @property
    def step(self) -> str:
        """Name of the step for the user, or the last part of the name of the node."""
        return self.label or self.node.rsplit('.', 1)[-1]

    @property
    def reason(self) -> str:
        """One sentence that says why the step failed."""
        return self.error.reason

    @property
    def traceback(self) -> str:
        """Text of Python for the exception."""
        return self.error.traceback


def read_crashes(folder: Path, table: Path | None = None) -> list[Crash]:
    """Read the crash files of a run.

    Parameters
    ----------
    folder : Path
        Folder of the crash files; it may be missing if nothing failed.
    table : Path, optional
        ``failed.tsv``, which has the names of the steps; it may be missing, too.

    Returns
    -------
    list of Crash
        In the order in which they happened.
    """
    labels = _read_labels(table) if table is not None else {}
    paths = sorted(folder.glob('crash-*.txt'))
    return [_read_crash(path, labels.get(path.name, '')) for path in paths]


def _read_labels(table: Path) -> dict[str, str]:
    """Read the name of the step of each crash file, by the name of the file."""
    return {
        Path(row.get('crash_file') or '').name: row.get('step') or '' for row in read_tsv(table)
    }


def read_tsv(path: Path) -> list[dict[str, str | None]]:
    """Read the rows of a table, up to a row that is damaged.

    Parameters
    ----------
    path : Path
        Table with tabs and a header, such as ``failed.tsv``. Bytes that are not UTF-8 are
        replaced.

    Returns
    -------
    list of dict of str to str or None
        Values by column; None in place of a value that a row lacks. Empty if there is no such
        file.
    """
    rows: list[dict[str, str | None]] = []
    if not path.is_file():
        return rows
    with (
        path.open(encoding='utf-8-sig', errors='replace', newline='') as file,
        suppress(csv.Error),  # such as a field of more than 128 KiB, or a null byte
    ):
        for row in csv.DictReader(file, delimiter='\t'):
            rows.append(row)  # noqa: PERF402 (rows before an error are kept)
    return rows


def _read_crash(path: Path, label: str) -> Crash:
    text = path.read_text(encoding='utf-8', errors='replace')
    node = text.partition('\n')[0].removeprefix('Node: ')
    traceback = text[max(text.find(_HEAD), 0) :].strip()
    facts = _read_facts(path.with_suffix('.json'))
    error = parse_traceback(traceback) if facts is None else replace(facts, traceback=traceback)
    return Crash(node, error, path, label)


def _read_facts(path: Path) -> ErrorRecord | None:
    """Read the facts of an exception; return None if there are none, or they are damaged."""
    try:
        content = read_json_object(path)
    except InputError:
        return None
    facts = {
        field.name: content[field.name] for field in fields(ErrorRecord) if field.name in content
    }
    texts = [facts.get(name) for name in ('type_name', 'message', 'reason')]
    return ErrorRecord(**facts) if all(isinstance(text, str) for text in texts) else None


def write_facts(crash_file: Path, error: ErrorRecord) -> None:
    """Store the facts of an exception beside the crash file of Nipype, which has the traceback.

    Parameters
    ----------
    crash_file : Path
        File that Nipype has written.
    error : ErrorRecord
        Facts to store.
    """
    facts = asdict(error)
    del facts['traceback']
    write_json(crash_file.with_suffix('.json'), facts)

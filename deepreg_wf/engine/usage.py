"""Time and memory that a run has used, recorded beside its results."""

from __future__ import annotations

import resource
import sys
import threading
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from deepreg_wf.errors import InputError
from deepreg_wf.utils.atomic import write_json
from deepreg_wf.utils.json_file import read_json_object

USAGE_FILE = 'usage.json'
_INTERVAL = 0.5
_MIB = 2**20


class ResourceMonitor(AbstractContextManager['ResourceMonitor']):
    """Context manager that measures the time and memory of this process and of its children.

    Memory that processes share is counted for each of them, so that a job that asks for the sum
    has enough.

    Attributes
    ----------
    seconds : float
        Duration of the block.
    memory_mb : float
        Largest resident memory in MiB, sampled twice a second.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.memory_mb = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> ResourceMonitor:
        """Start to measure."""
        self._started = time.time()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop measuring."""
        self._over.set()
        self._thread.join()
        self.seconds = time.time() - self._started
        self.memory_mb = max(self.memory_mb, _own_peak_mb())

    def _sample(self) -> None:
        import psutil

        this = psutil.Process()
        while not self._over.wait(_INTERVAL):
            total = sum(map(_resident_bytes, (this, *this.children(recursive=True))))
            self.memory_mb = max(self.memory_mb, total / _MIB)


def _resident_bytes(process: Any) -> int:
    """Return the resident memory of a process; 0 if it has ended since."""
    import psutil

    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _own_peak_mb() -> float:
    """Return the peak of this process since its start, which sampling can miss."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (_MIB if sys.platform == 'darwin' else 1024)


@dataclass(frozen=True)
class Usage:
    """Record of what a run has used.

    Parameters
    ----------
    folder : Path
        Folder of the log of the run, which has its settings, too.
    content : dict
        Fields that `write_usage` has written.
    """

    folder: Path
    content: dict[str, Any]

    @property
    def ended(self) -> float:
        """End of the run, in seconds of the epoch."""
        return datetime.fromisoformat(self.content['Ended']).timestamp()


def write_usage(folder: Path, monitor: ResourceMonitor, **fields: Any) -> None:
    """Write ``usage.json``, which also marks a run as complete.

    Parameters
    ----------
    folder : Path
        Folder of the log of the run.
    monitor : ResourceMonitor
        Measurements.
    **fields : Any
        Further fields.
    """
    content = {
        'Ended': datetime.now().astimezone().isoformat(timespec='microseconds'),
        'Seconds': round(monitor.seconds, 1),
        'MemoryMB': round(monitor.memory_mb),
        **fields,
    }
    write_json(folder / USAGE_FILE, content)


def read_usages(output_dir: Path, participant: str) -> list[Usage]:
    """Read the records of the runs of a participant.

    Parameters
    ----------
    output_dir : Path
        Folder of the derivatives.
    participant : str
        Label, without ``sub-``.

    Returns
    -------
    list of Usage
        The oldest first; records that are damaged are left out.
    """
    records = (output_dir / f'sub-{participant}' / 'log').glob(f'*/{USAGE_FILE}')
    usages = map(_read_usage, sorted(records))
    return [usage for usage in usages if usage is not None]


def _read_usage(path: Path) -> Usage | None:
    """Read a record; return None if it is damaged."""
    try:
        usage = Usage(path.parent, read_json_object(path))
        return usage if usage.ended else None
    except (InputError, KeyError, TypeError, ValueError, OverflowError):
        return None

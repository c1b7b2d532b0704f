"""What a run has used: kept beside its results, and asked for the next time."""

from __future__ import annotations

import json
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

from deepreg_wf.bids.entities import write_json

RECORD = 'usage.json'
_EVERY = 0.5
_MIB = 2**20


class Meter(AbstractContextManager['Meter']):
    """Measures the time and the memory of this process and of all that it starts.

    Memory that processes share is counted for each of them, so that a job which asks for as much
    has enough.

    Attributes
    ----------
    seconds
        How long the block took.
    memory_mb
        Largest resident memory, in MiB, looked at twice a second.

    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.memory_mb = 0.0
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Meter:
        """Begin to measure."""
        self._begun = time.time()
        self._watcher.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop measuring."""
        self._over.set()
        self._watcher.join()
        self.seconds = time.time() - self._begun
        self.memory_mb = max(self.memory_mb, _own_peak_mb())

    def _watch(self) -> None:
        import psutil

        this = psutil.Process()
        while not self._over.wait(_EVERY):
            total = sum(map(_resident, (this, *this.children(recursive=True))))
            self.memory_mb = max(self.memory_mb, total / _MIB)


def _resident(process: Any) -> int:
    """Bytes in memory; none of a process that has ended since."""
    import psutil

    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _own_peak_mb() -> float:
    """Peak of this process since it began, which no look can miss."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (_MIB if sys.platform == 'darwin' else 1024)


@dataclass(frozen=True)
class Usage:
    """What a run has used.

    Parameters
    ----------
    folder
        Log of the run, where its settings are.
    content
        As `write_usage` has written it.

    """

    folder: Path
    content: dict[str, Any]

    @property
    def ended(self) -> float:
        """When the run ended, in seconds of the epoch."""
        return datetime.fromisoformat(self.content['Ended']).timestamp()


def write_usage(folder: Path, meter: Meter, **facts: Any) -> None:
    """Write ``usage.json``; a run that has one came to its end.

    Parameters
    ----------
    folder
        Log of the run.
    meter
        Of the run.
    **facts
        More to know of it.

    """
    content = {
        'Ended': datetime.now().astimezone().isoformat(timespec='microseconds'),
        'Seconds': round(meter.seconds, 1),
        'MemoryMB': round(meter.memory_mb),
        **facts,
    }
    write_json(folder / RECORD, content)


def read_usages(output_dir: Path, participant: str) -> list[Usage]:
    """Read what the runs of a participant have used.

    Parameters
    ----------
    output_dir
        Folder of the derivatives.
    participant
        Label, without ``sub-``.

    Returns
    -------
    list of Usage
        The oldest first.

    """
    records = (output_dir / f'sub-{participant}' / 'log').glob(f'*/{RECORD}')
    return [
        Usage(record.parent, json.loads(record.read_text(encoding='utf-8')))
        for record in sorted(records)
    ]

"""What a task asks its scheduler for: what others of its kind have used."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from deepreg_wf.engine.usage import read_usages
from deepreg_wf.errors import InputError
from deepreg_wf.settings import Settings

CPUS = 2
_MARGIN = 1.25
_STEP_MB = 256
_LEAST_MINUTES = 15
_TIMES_LONGER = 3
_FIRST_MB = {2.0: 3072, 0.0: 4096}
_FIRST_MINUTES = 120


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a task may use.

    Parameters
    ----------
    cpus
        Processors.
    memory_mb
        Memory, in MiB.
    minutes
        Time.
    gpus
        Number of GPUs, or ``TYPE:NUMBER``; empty for none.
    source
        Where the figures are from.

    """

    cpus: int
    memory_mb: int
    minutes: int
    gpus: str = ''
    source: str = ''

    @property
    def sentence(self) -> str:
        """What a person is told."""
        gpus = f', gpu:{self.gpus}' if self.gpus else ''
        return (
            f'{self.cpus} processors, {self.memory_mb} MiB, {self.minutes} min{gpus} each '
            f'({self.source})'
        )


def estimate_needs(settings: Settings, *, minutes: int | None, gpus: str) -> Needs:
    """Estimate what one participant takes.

    The most that was measured in the output folder, with a margin: of runs of one participant with
    as many processors and the same registration. Where there are none, it is a guess.

    Parameters
    ----------
    settings
        Of the call; its ``nprocs`` and ``mem_mb`` are kept.
    minutes
        Time, if it is given.
    gpus
        As in `Needs`.

    Returns
    -------
    Needs
        With the source of the figures.

    """
    cpus = settings.execution.nprocs or CPUS
    seen = _measured(settings, cpus)
    if seen:
        most_mb, longest = max(mb for mb, _ in seen), max(seconds for _, seconds in seen) / 60
        memory = _STEP_MB * math.ceil(_MARGIN * most_mb / _STEP_MB)
        time = max(_LEAST_MINUTES, math.ceil(_TIMES_LONGER * longest))
        source = f'{len(seen)} runs took up to {most_mb:.0f} MiB and {longest:.0f} min'
    else:
        finest = settings.registration.registration_resolution
        memory = next(mb for spacing, mb in _FIRST_MB.items() if finest >= spacing)
        time, source = _FIRST_MINUTES, 'a guess; the next time, from what was used'
    return Needs(
        cpus=cpus,
        memory_mb=settings.execution.mem_mb or memory,
        minutes=minutes or time,
        gpus=gpus,
        source=source,
    )


def _measured(settings: Settings, cpus: int) -> list[tuple[float, float]]:
    """Memory, in MiB, and seconds of earlier runs that were alike."""
    output_dir, found = settings.output.output_dir, []
    for folder in output_dir.glob('sub-*/log'):
        for usage in read_usages(output_dir, folder.parent.name.removeprefix('sub-')):
            used = usage.content
            alone = used['Participants'] == 1 and used['Plugin'] in ('MultiProc', 'Linear')
            if alone and used['Processors'] == cpus and _is_alike(usage.folder, settings):
                found.append((used['MemoryMB'], used['Seconds']))
    return found


def _is_alike(folder: Path, settings: Settings) -> bool:
    record = folder / 'deepreg_wf.toml'
    try:
        then = Settings.from_toml(record.read_text(encoding='utf-8'), source=str(record))
    except (OSError, InputError):  # of another version
        return False
    return then.registration == settings.registration and then.anatomical == settings.anatomical

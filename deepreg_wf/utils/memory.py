"""Memory that a run may take."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from deepreg_wf.errors import InputError

MEMORY_VARIABLE = 'DEEPREG_WF_MEM_MB'
"""Environment variable with the memory of a run in MiB; empty or absent for the default."""

_MACHINE_SHARE = 0.9
"""Share of the memory of the machine that a run may take by default."""

_CGROUP_LIMITS = ('/sys/fs/cgroup/memory.max', '/sys/fs/cgroup/memory/memory.limit_in_bytes')
"""Files with the limit of a container, in version 2 and 1 of cgroups."""


def memory_limit(environ: Mapping[str, str] = os.environ) -> int:
    """Return the memory that this run may take.

    Parameters
    ----------
    environ : mapping of str to str
        Environment variables; `MEMORY_VARIABLE` is used if it is set.

    Returns
    -------
    int
        Bytes; by default nine tenths of the memory of the machine or of the container.
    """
    given = environ.get(MEMORY_VARIABLE, '')
    if given.isascii() and given.isdigit():
        return int(given) << 20
    return int(_MACHINE_SHARE * min(_machine_limits()))


def check_memory(needed: int, path: str | Path) -> None:
    """Check that a file can be read with the memory of this run, before any of it is taken.

    Parameters
    ----------
    needed : int
        Bytes of memory that reading takes.
    path : path-like
        The file.

    Raises
    ------
    InputError
        If this run may not take so much.
    """
    limit = memory_limit()
    if needed > limit:
        raise InputError(
            f'reading it takes {needed >> 20} MiB of memory, and this run may take {limit >> 20}',
            advice='give more (--mem-mb), or a smaller image',
            path=path,
        )


def _machine_limits() -> list[int]:
    """Return the memory of the machine and, if there is one, the limit of the container."""
    machine = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    return [machine, *filter(None, map(_read_limit, _CGROUP_LIMITS))]


def _read_limit(file: str) -> int | None:
    try:
        return int(Path(file).read_text(encoding='ascii'))
    except (OSError, ValueError):  # absent, or "max"
        return None

"""End of a process with its parent, however the parent ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

_PR_SET_PDEATHSIG = 1
"""Option of Linux: signal that the kernel sends to a process when its parent ends (prctl(2))."""

_INTERVAL_S = 0.2


def end_with_parent(parent: int) -> None:
    """Make this process end when its parent ends, also if that is killed.

    On Linux the kernel kills this process at once. Elsewhere a thread looks for the parent, which
    has to wait for a library that holds the interpreter lock.

    Parameters
    ----------
    parent : int
        Identifier of the process that has started this one.
    """
    kill_with_parent()
    threading.Thread(target=_await_end, args=(parent,), daemon=True).start()


def kill_with_parent() -> None:
    """Let the kernel kill this process when its parent ends; without effect outside Linux."""
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _await_end(parent: int) -> None:
    """Wait until the parent has ended, which then is another process, and end this one."""
    while os.getppid() == parent:
        time.sleep(_INTERVAL_S)
    os.kill(os.getpid(), signal.SIGKILL)

"""Home folder of users that have none."""

from __future__ import annotations

import os
from pathlib import Path

NO_HOME = '/'
"""Home folder of a user who has none, as Docker sets it."""


def ensure_home() -> None:
    """Set ``HOME`` if this user has no home folder, which pybids and others need on import.

    This happens in containers that run as a user without an entry in ``/etc/passwd``.
    """
    try:
        Path.home()
    except RuntimeError:
        os.environ['HOME'] = NO_HOME

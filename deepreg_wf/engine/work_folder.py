"""Check that the work folder of a run stays where it is."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType


class WorkFolderRemoved(RuntimeError):
    """The work folder of a run was removed, moved or replaced."""


class WorkFolder:
    """Work folder of a run that is going on.

    Steps make the folders above their own, so that a path of a removed folder soon exists again.
    Therefore this folder is held open, and compared with the one that has the path.

    Parameters
    ----------
    path : Path
        The folder, which exists.
    name : Path
        Folder that the user knows: `path` or one above it.
    """

    def __init__(self, path: Path, name: Path) -> None:
        self._path, self._name = path, name
        self._descriptor = os.open(path, os.O_RDONLY)

    def __enter__(self) -> WorkFolder:
        """Hold the folder open for the length of a block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the folder."""
        os.close(self._descriptor)

    def problem(self) -> WorkFolderRemoved | None:
        """Return an error if the folder is no longer there.

        Returns
        -------
        WorkFolderRemoved or None
            Error with one sentence for the user.
        """
        try:
            found = os.stat(self._path)
        except (FileNotFoundError, NotADirectoryError):
            found = None
        if found is not None and os.path.samestat(found, os.fstat(self._descriptor)):
            return None
        return WorkFolderRemoved(
            f'the work folder {self._name} was removed or replaced during the run; make the same '
            'call again, and keep the folder until it has ended'
        )

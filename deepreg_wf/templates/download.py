"""Downloads from TemplateFlow, the only use of the network; the user has to allow them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from deepreg_wf.errors import InputError


def write_stubs(home: Path) -> None:
    """Fill an empty folder of TemplateFlow with a stub for every file of every template.

    TemplateFlow itself does this at its first use, and brings the list of files. A folder that is
    not empty does not change.

    Parameters
    ----------
    home : Path
        Folder of TemplateFlow.

    Raises
    ------
    InputError
        If the folder cannot be written.
    """
    from templateflow.client import TemplateFlowClient

    try:
        TemplateFlowClient(root=home).cache.ensure()
    except OSError as error:
        raise InputError(
            f'the folder of TemplateFlow cannot be written ({error.strerror})',
            advice='set TEMPLATEFLOW_HOME to another',
            path=home,
        ) from error


def download_files(space: str, files: Sequence[Path], home: Path) -> None:
    """Download files of a template; only complete files replace their stubs.

    Parameters
    ----------
    space : str
        Name of the template.
    files : sequence of Path
        Files to download, as paths in the folder of TemplateFlow.
    home : Path
        Folder of TemplateFlow.

    Raises
    ------
    InputError
        If they cannot be downloaded.
    """
    from templateflow.client import TemplateFlowClient

    try:
        with tempfile.TemporaryDirectory(dir=home, prefix='.deepreg_wf-') as folder:
            temporary_files = {file: Path(folder) / file.relative_to(home) for file in files}
            for temporary in temporary_files.values():
                temporary.parent.mkdir(parents=True, exist_ok=True)
                temporary.touch()
            # TemplateFlow downloads the empty files in its folder, which are only these.
            TemplateFlowClient(root=folder).get(space)
            for file, temporary in temporary_files.items():
                temporary.replace(file)
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().split('\n')[0].rstrip('.')
        raise InputError(
            f'{space}: cannot be downloaded ({reason})',
            advice=f'try again, or copy it into {home}',
        ) from error

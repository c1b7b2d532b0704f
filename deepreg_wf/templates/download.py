"""The only place that goes to the network, and only where `--allow-download` was given."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from deepreg_wf.errors import InputError


def list_templates(home: Path) -> None:
    """Put a stub for every file of every template into an empty folder of TemplateFlow.

    TemplateFlow itself does so at its first use, and brings the list along; a folder that has
    something in it is left as it is.

    Parameters
    ----------
    home
        Folder of TemplateFlow.

    Raises
    ------
    InputError
        If it cannot be written.

    """
    from templateflow.client import TemplateFlowClient

    try:
        TemplateFlowClient(root=home).cache.ensure()
    except OSError as error:
        raise InputError(
            f'{home}: the folder of TemplateFlow cannot be written ({error.strerror}); set '
            'TEMPLATEFLOW_HOME to another.'
        ) from error


def fetch(space: str, files: Sequence[Path], home: Path) -> None:
    """Download files of a template; they are whole before they take the place of their stubs.

    Parameters
    ----------
    space
        Name of the template.
    files
        Where they belong, within the folder of TemplateFlow.
    home
        Folder of TemplateFlow.

    Raises
    ------
    InputError
        If they cannot be had.

    """
    from templateflow.client import TemplateFlowClient

    try:
        with tempfile.TemporaryDirectory(dir=home, prefix='.deepreg_wf-') as folder:
            drafts = {file: Path(folder) / file.relative_to(home) for file in files}
            for draft in drafts.values():
                draft.parent.mkdir(parents=True, exist_ok=True)
                draft.touch()
            # It fetches what is an empty file among those of its folder, which are these alone.
            TemplateFlowClient(root=folder).get(space)
            for file, draft in drafts.items():
                draft.replace(file)
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().split('\n')[0].rstrip('.')
        raise InputError(
            f'{space}: cannot be downloaded ({reason}); try again, or copy it into {home}.'
        ) from error

"""Nipype takes a folder as it is named: not as a pattern, and not as a format string."""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import Any


def match_in_folder(pattern: str) -> list[str]:
    """Find the files that match a pattern, whose folder is not part of the pattern.

    Parameters
    ----------
    pattern : str
        Path whose last part may have wildcards.

    Returns
    -------
    list of str
        Paths that exist.
    """
    folder, name = os.path.split(pattern)
    return glob.glob(os.path.join(glob.escape(folder), name))


def use_literal_folders() -> None:
    """Let Nipype find the files of a node in folders with ``[``, ``]``, ``*`` or ``?``.

    Nipype finds the hash files and the results of a node by `glob`, with the folder of the node
    as part of the pattern. In a folder with brackets it finds none, deletes the results as files
    that are not needed, and every step fails. To be called in each process that runs nodes.
    """
    from nipype.pipeline.engine import nodes, utils

    for module in (nodes, utils):
        module.glob = match_in_folder


def set_default_crash_dir(config: Any, crash_dir: Path) -> None:
    """Set the folder of the crash files of nodes that have none of their own.

    Parameters
    ----------
    config : nipype.utils.config.NipypeConfig
        Configuration of Nipype, whose parser takes ``%`` as the start of a reference.
    crash_dir : Path
        The folder.
    """
    config.update_config({'execution': {'crashdump_dir': str(crash_dir).replace('%', '%%')}})


def unescape_crash_dirs(config: Any, workflow: Any) -> None:
    """Undo the escape of `set_default_crash_dir` in the nodes, which copied it.

    Parameters
    ----------
    config : nipype.utils.config.NipypeConfig
        Configuration of Nipype.
    workflow : nipype.Workflow
        Workflow that is about to run.
    """
    crash_dir = config.get('execution', 'crashdump_dir')
    escaped = crash_dir.replace('%', '%%')
    nodes = (workflow.get_node(name) for name in workflow.list_node_names())
    for part in (workflow, *nodes):
        execution = (part.config or {}).get('execution', {})
        if execution.get('crashdump_dir') == escaped:
            execution['crashdump_dir'] = crash_dir

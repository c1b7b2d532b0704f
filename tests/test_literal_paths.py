"""Folders with characters that are special in patterns and format strings."""

from __future__ import annotations

from pathlib import Path

import pytest
from nipype import config
from nipype.interfaces.utility import Function
from nipype.pipeline import engine as pe

from deepreg_wf.engine.literal_paths import (
    match_in_folder,
    set_default_crash_dir,
    unescape_crash_dirs,
)
from deepreg_wf.engine.multiproc import WorkerPool

NAMES = ['study [v1]', '50% done', 'a*b?', 'plain']


def count_runs(folder: str) -> str:
    """Append a line to a file; return its folder."""
    with open(f'{folder}/log', 'a') as file:
        file.write('run\n')
    return folder


@pytest.mark.parametrize('name', NAMES)
def test_a_pattern_matches_files_and_not_folders(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / '_0x1.json').touch()
    found = match_in_folder(str(tmp_path / name / '_0x*.json'))
    assert found == [str(tmp_path / name / '_0x1.json')]


@pytest.mark.parametrize('name', NAMES)
def test_a_step_is_run_once_in_any_folder(name: str, tmp_path: Path) -> None:
    for _ in range(2):
        step = Function(output_names=['out'], function=count_runs)
        node = pe.Node(step, name='node')
        node.inputs.folder = str(tmp_path)
        workflow = pe.Workflow(name='workflow', base_dir=str(tmp_path / name))
        workflow.add_nodes([node])
        workflow.run(plugin=WorkerPool({'n_procs': 1}))
    assert (tmp_path / 'log').read_text() == 'run\n'


@pytest.mark.parametrize('name', NAMES)
def test_crash_files_have_any_folder(name: str, tmp_path: Path) -> None:
    before = config.get('execution', 'crashdump_dir')
    try:
        set_default_crash_dir(config, tmp_path / name)
        workflow = pe.Workflow(name='workflow')
        workflow.add_nodes([pe.Node(Function(function=count_runs), name='node')])
        unescape_crash_dirs(config, workflow)
        assert workflow.config['execution']['crashdump_dir'] == str(tmp_path / name)
    finally:
        config.update_config({'execution': {'crashdump_dir': before or ''}})

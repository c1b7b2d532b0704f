"""Provenance: the page names the runs that computed the results, not the run that found them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
from nilearn.datasets import load_mni152_template

from deepreg_wf.engine.computed import UNKNOWN, leave_settings, read_computed, write_computed
from deepreg_wf.engine.progress import StepLabels
from deepreg_wf.reports import write_subject_report

IMAGE, WORKFLOW = 'sub-01', 'single_subject_01_wf'
LABELS = StepLabels(
    {WORKFLOW: IMAGE},
    {
        f'deepreg_wf.{WORKFLOW}.anat_wf.strip': 'brain extraction',
        f'deepreg_wf.{WORKFLOW}.Toy_wf.align': 'affine alignment',
        f'deepreg_wf.{WORKFLOW}.Toy_wf.shoot': 'geodesic shooting',
    },
)
FIRST, SECOND, THIRD = '20250101-000000_a', '20250102-000000_b', '20250103-000000_c'


class Folders:
    """Work folder and log of one image, with times that the test chooses."""

    def __init__(self, folder: Path) -> None:
        self.work, self.log = folder / 'work', folder / 'sub-01' / 'log'

    def start(self, run_id: str, time: float) -> None:
        text = (
            f'[run]\ncommand_line = "call of {run_id}"\n[run.software]\ntorch = "0.0.{time:g}"\n'
        )
        leave_settings(self.work / 'deepreg_wf', [WORKFLOW], run_id, text)
        path = self.work / 'deepreg_wf' / WORKFLOW / 'runs' / f'{run_id}.toml'
        os.utime(path, (time, time))

    def compute(self, step: str, started: float, ended: float) -> None:
        (node,) = (node for node, label in LABELS.steps.items() if label == step)
        folder = self.work.joinpath(*node.split('.'))
        folder.mkdir(parents=True, exist_ok=True)
        for name, time in (('_inputs', started), (f'result_{folder.name}', ended)):
            (folder / f'{name}.pklz').touch()
            os.utime(folder / f'{name}.pklz', (time, time))

    def end(self, run_id: str, images: set[str] = frozenset({IMAGE})) -> None:
        write_computed(self.log / run_id, self.work, LABELS, images)

    def found(self) -> dict[str, tuple[str, ...]]:
        return {run.run_id: run.computed[IMAGE].steps for run in read_computed(self.log)}


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """Folders after a run that has computed all."""
    folders = Folders(tmp_path)
    folders.start(FIRST, 100)
    folders.compute('brain extraction', 101, 201)
    folders.compute('affine alignment', 201, 301)
    folders.compute('geodesic shooting', 301, 400.5)
    folders.end(FIRST)
    return folders


ALL = tuple(LABELS.steps.values())


def test_all_results_of_a_rerun_are_those_of_the_first_run(folders: Folders) -> None:
    folders.start(SECOND, 1000)
    folders.end(SECOND)
    (run,) = read_computed(folders.log)
    assert (run.run_id, run.computed[IMAGE].steps) == (FIRST, ALL)
    assert run.computed[IMAGE].text == 'all 3 steps, in 5 min 00 s'
    assert run.settings['run']['command_line'] == f'call of {FIRST}'


def test_new_settings_share_the_results_between_two_runs(folders: Folders) -> None:
    folders.start(SECOND, 1000)
    folders.compute('affine alignment', 1001, 1010)
    folders.compute('geodesic shooting', 1010, 1020)
    folders.end(SECOND)
    assert folders.found() == {FIRST: ALL[:1], SECOND: ALL[1:]}
    texts = [run.computed[IMAGE].text for run in read_computed(folders.log)]
    assert texts[1] == 'affine alignment, geodesic shooting, in 19.0 s'


def test_a_run_that_was_killed_keeps_its_part(folders: Folders) -> None:
    """It has left its settings, but no record of its own."""
    folders.start(SECOND, 1000)
    folders.compute('affine alignment', 1001, 1010)
    folders.start(THIRD, 2000)
    folders.compute('geodesic shooting', 2001, 2002)
    folders.end(THIRD)
    assert folders.found() == {FIRST: ALL[:1], SECOND: ALL[1:2], THIRD: ALL[2:]}


def test_results_of_another_work_folder_replace_those_before(
    folders: Folders, tmp_path: Path
) -> None:
    """And those of the first come back with it."""
    other = Folders(tmp_path)
    other.work = tmp_path / 'other'
    other.start(SECOND, 1000)
    for step in ALL:
        other.compute(step, 1001, 1002)
    other.end(SECOND)
    assert folders.found() == {SECOND: ALL}
    folders.start(THIRD, 2000)
    folders.end(THIRD)
    assert folders.found() == {FIRST: ALL}


def test_a_failed_image_keeps_its_record(folders: Folders) -> None:
    folders.start(SECOND, 1000)
    folders.end(SECOND, set())
    assert folders.found() == {FIRST: ALL}


def test_results_without_a_record_are_of_an_unknown_run(folders: Folders) -> None:
    (folders.work / 'deepreg_wf' / WORKFLOW / 'runs' / f'{FIRST}.toml').unlink()
    folders.start(SECOND, 1000)
    folders.end(SECOND)
    assert folders.found() == {UNKNOWN: ALL}


def test_page_has_the_calls_and_the_versions_of_the_runs(folders: Folders, tmp_path: Path) -> None:
    """Not those of the process that writes the page."""
    folders.start(SECOND, 1000)
    folders.compute('geodesic shooting', 1001, 1002)
    folders.end(SECOND)
    last = folders.log / THIRD / 'deepreg_wf.toml'
    last.parent.mkdir()
    last.write_text('[run]\ncommand_line = "the last call"\n')
    page = write_subject_report(tmp_path, '01', THIRD, elapsed=19).read_text(encoding='utf-8')
    provenance = page[page.index('<section id="provenance">') :]
    parts = re.split('<h3>', provenance)
    assert len(parts) == 4
    for part, words in zip(
        parts[1:],
        (
            (f'call of {FIRST}', 'brain extraction, affine alignment, in 3 min 20 s', '0.0.100'),
            (f'call of {SECOND}', 'geodesic shooting, in 1.0 s', '0.0.1000'),
            ('the last call', 'computed none', '19 s'),
        ),
        strict=True,
    ):
        assert all(word in part for word in words)
    assert re.findall(r'<dt>torch</dt>\s*<dd>(.*)</dd>', provenance) == ['0.0.100', '0.0.1000']


@pytest.mark.slow
def test_a_rerun_of_the_app_keeps_the_command_and_the_duration(tmp_path: Path) -> None:
    anat = tmp_path / 'bids' / 'sub-01' / 'anat'
    anat.mkdir(parents=True)
    (tmp_path / 'bids' / 'dataset_description.json').write_text(
        json.dumps({'Name': 'tiny', 'BIDSVersion': '1.10.0'})
    )
    template = load_mni152_template(resolution=4)
    brain = nb.Nifti1Image(1000 * template.get_fdata(dtype=np.float32), template.affine)
    brain.to_filename(anat / 'sub-01_T1w.nii.gz')
    sections = []
    for options in (['--notrack'], ['--write-graph'], ['--reports-only']):
        words = [sys.executable, '-m', 'deepreg_wf', tmp_path / 'bids', tmp_path / 'out']
        words += ['participant', '-w', tmp_path / 'work', '--registration-resolution', 4]
        words += ['--momentum', 'predict', '--sloppy', '--nprocs', 1, *options]
        subprocess.run([str(word) for word in words], capture_output=True, check=True)
        page = (tmp_path / 'out' / 'sub-01.html').read_text(encoding='utf-8')
        sections.append(page[page.index('<section id="provenance">') :])
    for section in sections:
        computed = section.split('Last run, which computed none')[0]
        assert '--notrack' in computed
        assert '--write-graph' not in computed
        (duration,) = re.findall(r'all \d+ steps, in (.*)</dd>', computed)
        assert duration == re.findall(r'all \d+ steps, in (.*)</dd>', sections[0])[0]
    assert '--write-graph' in sections[1]
    assert '--reports-only' not in sections[2]

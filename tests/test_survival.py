"""Runs that are killed, run out of disk or memory, lack permissions, or run side by side."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest

from deepreg_wf.app.cleanup import find_damaged_steps
from deepreg_wf.app.locks import OUTPUT_LOCKS

pytestmark = pytest.mark.slow

QUICK = (
    *('--registration-resolution', 4, '--momentum', 'predict', '--refine', 0, '--sloppy'),
    *('--level', 'minimal', '--affine-method', 'classical', '--omp-nthreads', 1),
)
T1W = 'sub-{0}/anat/sub-{0}_T1w.nii.gz'
TIMEOUT = 240.0


def write_subject(folder: Path, label: str, brain: nb.Nifti1Image) -> None:
    """Write a raw image, and its mask and its corrected image as derivatives."""
    for dataset in ('bids', 'prep'):
        (folder / dataset / f'sub-{label}' / 'anat').mkdir(parents=True)
    stem = f'sub-{label}/anat/sub-{label}'
    brain.to_filename(folder / f'bids/{stem}_T1w.nii.gz')
    brain.to_filename(folder / f'prep/{stem}_desc-preproc_T1w.nii.gz')
    inside = (np.asarray(brain.dataobj) > 0).astype(np.uint8)
    mask = nb.Nifti1Image(inside, brain.affine)
    mask.to_filename(folder / f'prep/{stem}_desc-brain_mask.nii.gz')


@pytest.fixture(scope='module')
def dataset(make_brain, tmp_path_factory) -> Path:
    """Dataset of two participants, two more whose images are damaged by tests, and a template."""
    folder = tmp_path_factory.mktemp('dataset')
    for number, label in enumerate(('01', '02'), start=1):
        write_subject(folder, label, make_brain(seed=number))
    for label in ('03', '04'):
        (folder / f'bids/sub-{label}/anat').mkdir(parents=True)
        make_brain().to_filename(folder / f'bids/{T1W.format(label)}')
    for name, kind in (('bids', 'raw'), ('prep', 'derivative')):
        description = {'Name': 'tiny', 'BIDSVersion': '1.10.0', 'DatasetType': kind}
        (folder / name / 'dataset_description.json').write_text(json.dumps(description))
    make_brain().to_filename(folder / 'template.nii.gz')
    return folder


class Run:
    """Call of the command line in its own group of processes."""

    def __init__(self, dataset: Path, out: Path, work: Path, *words: object, **popen) -> None:
        call = [dataset / 'bids', out, 'participant', '-w', work, '-d', f'x={dataset / "prep"}']
        call += ['--template', dataset / 'template.nii.gz', *QUICK, *words]
        before = popen.pop('before', ())
        self.process = subprocess.Popen(
            [*before, sys.executable, '-m', 'deepreg_wf', *map(str, call)],
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **popen,
        )

    def wait(self) -> Run:
        """Wait for its end."""
        self.out, self.err = self.process.communicate(timeout=TIMEOUT)
        self.status = self.process.returncode
        assert 'Traceback' not in self.out + self.err
        return self

    def kill_when(self, condition: Callable[[], object], kill: Callable = os.killpg) -> None:
        """Kill all its processes, or its main process alone, as soon as a condition holds."""
        end = time.monotonic() + TIMEOUT
        while not condition():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < end
            time.sleep(0.01)
        kill(self.process.pid, signal.SIGKILL)
        self.process.communicate()
        while True:  # workers end after the main process
            try:
                os.killpg(self.process.pid, 0)
            except ProcessLookupError:
                return
            assert time.monotonic() < end
            time.sleep(0.01)


@pytest.fixture(scope='module')
def whole(dataset, tmp_path_factory) -> Path:
    """Return the folder with the ``out`` and ``work`` of undisturbed runs."""
    folder = tmp_path_factory.mktemp('whole')
    words = ('--nprocs', 2, '--participant-label', '01', '02')
    done = Run(dataset, folder / 'out', folder / 'work', *words).wait()
    assert done.status == 0, done.err
    return folder


def derivatives(out: Path, *labels: str) -> dict[str, bytes]:
    """Read all derivatives and figures of these participants."""
    files = [path for label in labels for path in (out / f'sub-{label}').rglob('*.*')]
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in files
        if path.is_file() and path.parent.name in ('anat', 'figures') and path.name[0] != '.'
    }


def assert_same(out: Path, whole: Path, *labels: str) -> None:
    """Check that all derivatives of these participants are complete, and nothing else exists."""
    assert_whole(out, whole, *labels)
    assert derivatives(out, *labels).keys() == derivatives(whole / 'out', *labels).keys()
    assert not list(out.rglob('.tmp-*'))


def assert_whole(out: Path, whole: Path, *labels: str) -> None:
    """Check that the derivatives that exist of these participants are right to the byte."""
    expected = derivatives(whole / 'out', *labels)
    for name, content in derivatives(out, *labels).items():
        assert content == expected[name], name


def finished_steps(work: Path) -> dict[Path, int]:
    """Return when finished steps were done; steps that store derivatives always run."""
    results = work.rglob('result_*.pklz')
    return {
        path: path.stat().st_mtime_ns
        for path in results
        if any('unfinished' not in hashed.name for hashed in path.parent.glob('_0x*.json'))
        and not re.match(r'save|ds_|store', path.parent.name)
    }


def test_a_killed_run_continues_where_it_was(dataset, whole, tmp_path):
    out, work = tmp_path / 'out', tmp_path / 'work'
    moments = {
        'early': lambda: list(work.rglob('_node.pklz')),
        'middle': lambda: list(work.rglob('predict*/result_*.pklz')),
        'while writing': lambda: list(out.rglob('anat/*.h5')) or list(out.rglob('.tmp-*h5')),
    }
    kills = (os.killpg, os.kill, os.killpg)
    kept: dict[Path, int] = {}
    for moment, kill in zip(moments.values(), kills, strict=True):
        Run(dataset, out, work, '--participant-label', '01').kill_when(moment, kill)
        assert_whole(out, whole, '01')
        done = finished_steps(work)
        assert kept.items() <= done.items()
        kept = done
    assert len(kept) > 10
    again = Run(dataset, out, work, '--participant-label', '01').wait()
    assert again.status == 0, again.err
    assert kept.items() <= finished_steps(work).items()
    assert_same(out, whole, '01')
    assert (out / 'sub-01.html').exists()


def test_runs_share_folders_but_not_a_participant(dataset, whole, tmp_path):
    out, work = tmp_path / 'out', tmp_path / 'work'
    runs = [
        Run(dataset, out, work, '--nprocs', 1, '--participant-label', label)
        for label in ('01', '02')
    ]

    def is_locked() -> bool:
        return any(
            '01' in file.read_text().split() for file in (out / OUTPUT_LOCKS).glob('*.lock')
        )

    while not is_locked():
        assert runs[0].process.poll() is None
        time.sleep(0.02)
    third = Run(dataset, out, tmp_path / 'work3', '--participant-label', '01').wait()
    assert third.status == 2
    assert third.err == (
        f'deepreg_wf: {out}: another run is processing these participants; wait until it has '
        'ended, and make the same call again if anything is left to do.\n'
    )
    for run in runs:
        assert run.wait().status == 0, run.err
    assert_same(out, whole, '01', '02')
    assert len(list((work / 'deepreg_wf').glob('prepare_*'))) == 1
    assert not (out / 'failed.tsv').exists()


def test_only_damaged_steps_are_run_again(dataset, whole, tmp_path):
    assert not list(find_damaged_steps(whole / 'work'))
    out, work = tmp_path / 'out', whole / 'work'
    before = finished_steps(work)
    damaged = next(work.rglob('single_subject_01_wf/**/shoot*/*.nii.gz'))
    damaged.write_bytes(damaged.read_bytes()[:-1000])
    assert list(find_damaged_steps(work)) == [damaged.parent]
    done = Run(dataset, out, work, '--participant-label', '01').wait()
    assert done.status == 0, done.err
    assert_same(out, whole, '01')
    after = finished_steps(work)
    again = {path for path in before if after[path] != before[path]}
    assert damaged.parent in {path.parent for path in again}
    assert not any('affine_wf' in str(path) for path in again)


def grow(disk: Path) -> None:
    """Make room on a disk."""
    subprocess.run(['mount', '-o', 'remount,size=100m', str(disk)], check=True)


def sentences(text: str) -> dict[str, str]:
    """Find the sentence printed for each image."""
    return dict(re.findall(r'^\[(sub-\w+)\] (.*)$', text, re.MULTILINE))


@pytest.mark.parametrize('folder', ['out', 'work'])
def test_a_full_disk_is_reported_and_no_file_is_partial(
    dataset, whole, tmp_path, small_disk, folder
):
    out = small_disk / 'out' if folder == 'out' else tmp_path / 'out'
    work = whole / 'work' if folder == 'out' else small_disk / 'work'
    words = ('--nprocs', 2, '--participant-label', '01')
    full = Run(dataset, out, work, *words).wait()
    assert full.status == 1
    assert 'the disk is full' in sentences(full.err)['sub-01'], full.err
    assert 'make room' in sentences(full.err)['sub-01']
    assert_whole(out, whole, '01')
    grow(small_disk)
    again = Run(dataset, out, work, *words).wait()
    assert again.status == 0, again.err
    assert_same(out, whole, '01')


def test_a_limit_on_file_sizes_is_reported_as_a_full_disk(dataset, whole, tmp_path):
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    out, work = tmp_path / 'out', whole / 'work'
    words = ('--participant-label', '01', '02')
    full = Run(dataset, out, work, *words, preexec_fn=limit).wait()
    assert full.status == 1
    assert all('the disk is full' in sentence for sentence in sentences(full.err).values()), (
        full.err
    )
    assert sentences(full.err).keys() == {'sub-01', 'sub-02'}
    assert_whole(out, whole, '01', '02')


def bound_by_permissions() -> list[str]:
    """Return the words that make a command of root respect permissions."""
    if os.geteuid():
        return []
    without = '-dac_override,-dac_read_search'
    words = ['setpriv', '--bounding-set', without, '--inh-caps', without]
    if subprocess.run([*words, 'true'], capture_output=True).returncode:
        pytest.skip('root ignores permissions here')
    return words


def test_unreadable_files_and_folders_stop_only_their_participants(dataset, whole, tmp_path):
    before, out = bound_by_permissions(), tmp_path / 'out'
    image, closed = dataset / f'bids/{T1W.format("03")}', dataset / 'bids/sub-04/anat'
    folders = [path for path in (dataset / 'bids').rglob('*') if path.is_dir()]
    modes = {path: path.stat().st_mode for path in (image, dataset / 'bids', *folders)}
    try:
        for path in (dataset / 'bids', *folders):  # the dataset may only be read
            path.chmod(0o555)
        image.chmod(0)
        closed.chmod(0)
        words = ('--participant-label', '01', '03', '04')
        done = Run(dataset, out, whole / 'work', *words, before=before).wait()
    finally:
        for path, mode in modes.items():
            path.chmod(mode)
    assert done.status == 1
    printed = sentences(done.err)
    assert printed.keys() == {'sub-03', 'sub-04'}
    assert str(image) in printed['sub-03']
    assert printed['sub-04'] == f'{closed}: the folder may not be read; change its permissions.'
    assert all('permission' in sentence.lower() for sentence in printed.values())
    assert_same(out, whole, '01')


def test_an_image_too_large_for_the_memory_stops_only_its_participant(dataset, whole, tmp_path):
    needed = 'import torch, ants, nipype; print(open("/proc/self/status").read())'
    status = subprocess.run([sys.executable, '-c', needed], capture_output=True, text=True).stdout
    enough = 1024 * int(re.search(r'VmPeak:\s*(\d+) kB', status)[1]) + 2**30

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (enough, enough))

    huge = nb.Nifti1Image(np.zeros((700, 700, 700), np.uint8), np.diag([0.3, 0.3, 0.3, 1]))
    huge.to_filename(dataset / f'bids/{T1W.format("04")}')
    out, words = tmp_path / 'out', ('--participant-label', '01', '04', '--nprocs', 2)
    done = Run(dataset, out, whole / 'work', *words, preexec_fn=limit).wait()
    assert done.status == 1
    assert list(sentences(done.err)) == ['sub-04']
    assert 'there is not enough memory' in sentences(done.err)['sub-04']
    assert 'give the run more memory' in sentences(done.err)['sub-04']
    assert_same(out, whole, '01')

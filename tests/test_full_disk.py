"""The commands end with a sentence and without a traceback when the disk is full."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import synthetic_brain

from deepreg_wf.training import Cohort, save_cohort
from deepreg_wf.training.cohort import TEMPLATE

pytestmark = pytest.mark.slow

SPACING = (8.0, 8.0, 8.0)


def call(
    command: str, *words: object, file_limit: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command in a process whose files may have `file_limit` bytes."""

    def limit() -> None:
        if file_limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))

    code = f'import sys; from deepreg_wf.cli.{command} import main; sys.exit(main())'
    return subprocess.run(
        [sys.executable, '-c', code, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
    )


def fill(disk: Path) -> None:
    """Leave no room on a disk."""
    with (disk / 'filler').open('wb', buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return


def assert_one_sentence(done: subprocess.CompletedProcess[str], prog: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith(f'{prog}: the disk is full ('), done.stderr
    assert done.stderr.endswith('; make room, and make the same call again.\n')
    assert done.stderr.count('\n') == 1


def test_the_demo_reports_a_full_disk(small_disk: Path) -> None:
    assert_one_sentence(call('demo', small_disk / 'demo', '--nprocs', 1), 'deepreg_wf-demo')


@pytest.mark.parametrize('file_limit', [4_000, 100_000])
def test_training_reports_a_full_disk(tmp_path: Path, file_limit: int) -> None:
    images = {
        name: torch.from_numpy(
            synthetic_brain((16, 20, 16), SPACING, seed=seed).get_fdata() * 255 / 1000
        ).to(torch.uint8)
        for seed, name in enumerate((TEMPLATE, 'sub-0', 'sub-1', 'sub-2'))
    }
    save_cohort(Cohort(images, SPACING, ('sub-2',), 'made up'), tmp_path / 'cohort.safetensors')
    plan = ['--features', 8, '--spacing', 8, '--prediction-brains', 4, '--between', 0]
    plan += ['--correction-brains', 0, '--probabilistic-brains', 0, '--geodesics', 1]
    words = [tmp_path / 'cohort.safetensors', tmp_path / 'out', '--nprocs', 1, *plan]
    done = call('train', *words, file_limit=file_limit)
    assert_one_sentence(done, 'deepreg_wf-train')


def test_the_registration_of_a_pair_reports_a_full_disk(tmp_path: Path, small_disk: Path) -> None:
    for seed, name in enumerate(('moving', 'fixed')):
        synthetic_brain(seed=seed).to_filename(tmp_path / f'{name}.nii.gz')
    words = ['--moving', tmp_path / 'moving.nii.gz', '--fixed', tmp_path / 'fixed.nii.gz']
    words += ['--nprocs', 1, '--momentum', 'predict', '--refine', 0]
    words += ['--registration-resolution', 4]
    work = ['-w', tmp_path / 'work']
    done = call('register', *words, *work, '--output-prefix', small_disk / 'x_')
    assert done.returncode == 1, done.stderr
    assert 'failed: the disk is full (' in done.stderr
    assert 'Traceback' not in done.stdout + done.stderr
    fill(small_disk)
    done = call('register', *words, '-w', small_disk, '--output-prefix', tmp_path / 'x_')
    assert done.returncode in (1, 2), done.stderr
    assert 'the disk is full (' in done.stderr
    assert 'Traceback' not in done.stdout + done.stderr

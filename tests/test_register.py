"""The command deepreg_wf-register."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
from nilearn.datasets import load_mni152_brain_mask, load_mni152_template

from deepreg_wf.cli.register import build_parser
from deepreg_wf.spatial import load_transform

PAGE = Path(__file__).resolve().parents[1] / 'docs' / 'usage.md'


def write_pair(folder: Path) -> np.ndarray:
    """Write a brain and a rigidly transformed copy; return the matrix of the transform."""
    brain, mask = load_mni152_template(resolution=4), load_mni152_brain_mask(resolution=4)
    data = 1000 * brain.get_fdata(dtype=np.float32) * (np.asanyarray(mask.dataobj) > 0)
    moved = np.eye(4)
    moved[:3, :3] = nb.eulerangles.euler2mat(x=0.1, z=0.15)
    moved[:3, 3] = [6, -9, 4]
    nb.Nifti1Image(data, brain.affine).to_filename(folder / 'fixed.nii.gz')
    nb.Nifti1Image(data, moved @ brain.affine).to_filename(folder / 'moving.nii.gz')
    return moved


def register(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command in a new process, since it configures Nipype globally."""
    code = 'from deepreg_wf.cli.register import main; exit(main())'
    call = [sys.executable, '-c', code, *words]
    return subprocess.run(call, cwd=cwd, capture_output=True, text=True)


@pytest.mark.slow
def test_the_documented_call_registers_one_image_to_another(tmp_path: Path) -> None:
    moved = write_pair(tmp_path)
    line = re.search(r'^deepreg_wf-register (.*)$', PAGE.read_text('utf-8'), re.M).group(1)
    words = [*shlex.split(line), '--registration-resolution', '4', '--momentum', 'predict']
    words += ['--refine', '0', '--nprocs', '1', '--device', 'cpu']
    done = register(*words, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, ''), done.stdout + done.stderr
    assert sorted(path.name for path in tmp_path.glob('pair_*')) == [
        'pair_Composite.h5',
        'pair_InverseComposite.h5',
        'pair_InverseWarped.nii.gz',
        'pair_LogJacobian.nii.gz',
        'pair_Momentum.nii.gz',
        'pair_Quality.json',
        'pair_Warped.nii.gz',
    ]
    points = np.random.default_rng(0).uniform([-50, -70, -20], [50, 40, 50], (200, 3))
    there = points @ moved[:3, :3].T + moved[:3, 3]
    forward, back = (load_transform(tmp_path / f'pair_{n}Composite.h5') for n in ('', 'Inverse'))
    assert np.abs(forward.map_points(points) - there).max() < 2  # half a voxel
    assert np.abs(back.map_points(there) - points).max() < 2
    fixed, warped = (nb.load(tmp_path / f'{n}.nii.gz') for n in ('fixed', 'pair_Warped'))
    assert np.allclose(warped.affine, fixed.affine)
    inside = fixed.get_fdata() > 0
    assert np.corrcoef(warped.get_fdata()[inside], fixed.get_fdata()[inside])[0, 1] > 0.95
    quality = json.loads((tmp_path / 'pair_Quality.json').read_text())
    assert quality['nonpositive_jacobian_fraction'] == 0


def test_a_missing_or_damaged_image_is_reported_in_one_line(tmp_path: Path) -> None:
    write_pair(tmp_path)
    call = ['--fixed', 'fixed.nii.gz', '--output-prefix', 'out/x_', '--nprocs', '1']
    done = register('--moving', 'absent.nii.gz', *call, cwd=tmp_path)
    assert done.returncode == 2
    assert re.fullmatch(
        r'deepreg_wf-register: absent.nii.gz: no such file; [^\n]*\.\n', done.stderr
    )
    assert not (tmp_path / 'out').exists()
    damaged = tmp_path / 'damaged.nii.gz'
    damaged.write_bytes((tmp_path / 'moving.nii.gz').read_bytes()[:5000])
    done = register('--moving', damaged.name, *call, cwd=tmp_path)
    assert done.returncode == 2
    assert re.fullmatch(r'\[damaged.nii.gz\] .*damaged.nii.gz: [^\n]*\.\n', done.stderr)
    assert not list((tmp_path / 'out').iterdir())


def test_required_options_are_checked() -> None:
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args(['--moving', 'a.nii.gz'])
    assert ended.value.code == 2

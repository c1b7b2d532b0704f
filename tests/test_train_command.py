"""Tests of the commands that train networks and convert weights."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
import torch
from test_quicksilver import legacy_state

from deepreg_wf.cli import convert, train
from deepreg_wf.quicksilver import load_checkpoint
from deepreg_wf.training import TrainingSettings, load_cohort

SMALLEST = {
    'features': 2,
    'prediction-brains': 4,
    'prediction-pairs': 1,
    'correction-brains': 2,
    'probabilistic-brains': 2,
    'between': 0,
    'geodesics': 1,
    'affine-steps': 2,
}


def call(command: str, *words: object) -> subprocess.CompletedProcess[str]:
    code = f'import sys; from deepreg_wf.cli.{command} import main; sys.exit(main())'
    return subprocess.run(
        [sys.executable, '-c', code, *map(str, words)], capture_output=True, text=True, check=False
    )


@pytest.fixture(scope='module')
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write two brains that differ by more than an affine, and a file that is not an image."""
    from nilearn.datasets import load_mni152_template

    root = tmp_path_factory.mktemp('cohort') / 'bids'
    template = load_mni152_template(resolution=3)
    data = template.get_fdata(dtype=np.float32)
    for label, shift in (('01', 2), ('02', -2)):
        (root / f'sub-{label}' / 'anat').mkdir(parents=True)
        moved = data.copy()
        moved[:, 35:] = np.roll(data, shift, axis=2)[:, 35:]
        image = nb.Nifti1Image(1000 * moved, template.affine)
        image.to_filename(root / f'sub-{label}/anat/sub-{label}_T1w.nii.gz')
    (root / 'sub-03' / 'anat').mkdir(parents=True)
    (root / 'sub-03/anat/sub-03_T1w.nii.gz').write_bytes(b'no image')
    description = {'Name': 'two brains', 'BIDSVersion': '1.10.0'}
    (root / 'dataset_description.json').write_text(json.dumps(description))
    return root


@pytest.mark.slow
def test_networks_trained_on_a_dataset_register_it(dataset: Path, tmp_path: Path) -> None:
    networks = tmp_path / 'networks'
    options = [word for name, value in SMALLEST.items() for word in (f'--{name}', value)]
    words = ['--resolution', 6, '--spacing', 6, '--licence', 'CC0-1.0', '--nprocs', 1, *options]
    done = call('train', dataset, networks, *words)
    assert done.returncode == 0, done.stderr
    assert 'sub-03_T1w.nii.gz' in done.stderr
    cohort = load_cohort(networks / 'cohort.safetensors')
    assert (cohort.training, cohort.validation) == (('sub-01',), ('sub-02',))
    assert cohort.source.startswith('two brains')
    assert load_checkpoint(networks / 'prediction.safetensors').card['validation'] == ['sub-02']
    assert (networks / 'training.png').stat().st_size > 0

    out = tmp_path / 'out'
    options = ['--weights', networks, '--registration-resolution', 6, '-w', tmp_path / 'work']
    options += ['--participant-label', '02', '--nprocs', 1, '--refine', 0]
    done = call('main', dataset, out, 'participant', *options)
    assert done.returncode == 0, done.stderr
    (qc,) = out.glob('sub-02/anat/*_desc-registration_qc.json')
    assert json.loads(qc.read_text())['nonpositive_jacobian_fraction'] == 0


def test_unusable_cohort_gives_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / 'text').write_text('nothing')
    assert train.main([str(tmp_path / 'text'), str(tmp_path / 'out')]) == 2
    message = capsys.readouterr().err
    assert message.startswith('deepreg_wf-train: ')
    assert str(tmp_path / 'text') in message
    assert message.count('\n') == 1


def test_convert_weights(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    content = {'state_dict': legacy_state(2), 'patch_size': 15, 'network_feature': 2}
    torch.save(content, tmp_path / 'old.pth.tar')
    out = tmp_path / 'new' / 'correction.safetensors'
    assert convert.main([str(tmp_path / 'old.pth.tar'), str(out), '--role', 'correction']) == 0
    assert load_checkpoint(out).spec.role == 'correction'
    assert convert.main([str(tmp_path / 'none.pth.tar'), str(out)]) == 2
    message = capsys.readouterr().err
    assert 'none.pth.tar: there is no such file' in message
    assert message.count('\n') == 1


def test_options_set_the_fields_of_the_training_settings() -> None:
    words = ['bids', 'out', '--detail', '3', '--repeats', '4', '--between', '2', '--rate', '0.1']
    words += ['--batch', '5', '--geodesics', '6', '--variants', '7', '--no-hints']
    settings = train._training_settings(train.build_parser().parse_args(words))
    assert settings == TrainingSettings(
        energy_spacing=3.0,
        n_iterations=4,
        n_between=2,
        learning_rate=0.1,
        batch_size=5,
        n_geodesics=6,
        n_variants=7,
        gradient_channels=False,
    )

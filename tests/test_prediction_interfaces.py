"""Tests of the interfaces of the networks, and of the weights files that they take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deepreg_wf.checkpoints.locate import SHIPPED, describe_weights, find_weights
from deepreg_wf.errors import InputError
from deepreg_wf.interfaces.prediction import (
    CorrectMomentum,
    PredictMomentum,
    TransformUncertainty,
    _checkpoint,
)
from deepreg_wf.lddmm import Metric, diagnostics, fields, normalise, shoot
from deepreg_wf.quicksilver import Checkpoint, NetworkSpec, load_checkpoint, save_checkpoint
from deepreg_wf.settings import Compute, Registration
from deepreg_wf.spatial import VoxelGrid, load_image, load_vector, save_image


@pytest.fixture(scope='module')
def pair(make_brain, tmp_path_factory) -> dict[str, Path]:
    """Write a brain, and the same deformed by a smooth map of some millimetres."""
    folder = tmp_path_factory.mktemp('pair')
    image = make_brain((56, 64, 56), (3.0, 3.0, 3.0))
    # Of 2 mm, which divides the coarse grid of the networks.
    grid = VoxelGrid(image.shape, np.diag([2.0, 2.0, 2.0, 1.0]))
    data = torch.from_numpy(image.get_fdata(dtype=np.float32))
    x, y, _ = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in data.shape), indexing='ij')
    wave = torch.stack([2 * torch.sin(3 * y), 1.5 * torch.cos(3 * x), 0 * x])
    save_image(folder / 'moving.nii.gz', data.numpy(), grid)
    save_image(folder / 'fixed.nii.gz', fields.interpolate(data[None], wave)[0].numpy(), grid)
    return {path.name.partition('.')[0]: path for path in folder.iterdir()}


@pytest.fixture
def inputs(pair, tmp_path, monkeypatch) -> dict[str, Path]:
    monkeypatch.chdir(tmp_path)
    return {'moving_image': pair['moving'], 'fixed_image': pair['fixed']}


def similarity(momentum: str | None, pair: dict[str, Path]) -> float:
    """Return the correlation inside the fixed brain after shooting a momentum."""
    moving, grid = load_image(pair['moving'])
    fixed, _ = load_image(pair['fixed'])
    warped = normalise(torch.from_numpy(moving))
    if momentum is not None:
        metric = Metric(grid.shape, grid.spacing)
        inverse = shoot(torch.from_numpy(load_vector(momentum)[0]), metric).phi_inverse
        assert fields.jacobian_determinant(inverse).min() > 0
        warped = fields.interpolate(warped[None], inverse)[0]
    inside = torch.from_numpy(fixed) > 0
    return diagnostics.correlation(warped[inside], torch.from_numpy(fixed)[inside])


def test_shipped_networks_register_images(pair, inputs) -> None:
    """On images unlike their training data."""
    weights = find_weights(momentum='predict+correct')
    predicted = PredictMomentum(weights=weights.prediction, **inputs).run().outputs
    correction = CorrectMomentum(weights=weights.correction, momentum=predicted.momentum, **inputs)
    first = similarity(predicted.momentum, pair)
    corrected = correction.run().outputs
    assert similarity(None, pair) < first < similarity(corrected.momentum, pair)
    assert corrected.metric == predicted.metric == describe_weights(weights.prediction)['metric']


def test_uncertainty_is_in_millimetres_and_largest_in_the_brain(pair, inputs) -> None:
    weights = find_weights(momentum='predict', uncertainty=3)
    found = TransformUncertainty(weights=weights.probabilistic, samples=3, seed=1, **inputs).run()
    deviation, grid = load_image(found.outputs.uncertainty)
    moving, own_grid = load_image(pair['moving'])
    assert grid == own_grid
    assert deviation.min() >= 0
    assert 0.01 < deviation[moving > 0].mean() < 5
    assert deviation[:3].mean() < deviation[moving > 0].mean()


def test_errors_name_the_file(pair, inputs, tmp_path) -> None:
    weights = SHIPPED / 'prediction.safetensors'
    with pytest.raises(InputError, match='no dropout') as caught:
        TransformUncertainty(weights=weights, samples=2, **inputs).run()
    assert str(weights) in str(caught.value)
    empty, grid = load_image(pair['moving'])
    save_image(tmp_path / 'empty.nii.gz', 0 * empty, grid)
    with pytest.raises(InputError, match='empty.nii.gz: the image has no positive voxel'):
        PredictMomentum(
            weights=weights, **inputs | {'fixed_image': tmp_path / 'empty.nii.gz'}
        ).run()
    (tmp_path / 'text').write_text('no weights')
    with pytest.raises(InputError, match='text: not a readable'):
        PredictMomentum(weights=tmp_path / 'text', **inputs).run()


def test_images_on_different_grids_are_rejected(pair, inputs, tmp_path) -> None:
    data, _ = load_image(pair['fixed'])
    other = VoxelGrid(data.shape, np.diag([2.0, 2.0, 2.1, 1.0]))
    save_image(tmp_path / 'other.nii.gz', data, other)
    inputs['fixed_image'] = tmp_path / 'other.nii.gz'
    with pytest.raises(InputError, match='does not lie on the registration grid'):
        PredictMomentum(weights=SHIPPED / 'prediction.safetensors', **inputs).run()


def test_hash_depends_on_the_weights_and_not_on_resources(inputs, tmp_path) -> None:
    spec = NetworkSpec(features=2, spacing=4.0)
    other = tmp_path / 'other.safetensors'
    save_checkpoint(Checkpoint(spec.new_network(), spec), other)
    weights = SHIPPED / 'prediction.safetensors'

    def digest(**options: object) -> str:
        interface = PredictMomentum(**{'weights': weights} | inputs | options)
        return interface.inputs.get_hashval(hash_method='content')[1]

    assert digest() == digest(batch_size=3, device='cuda', num_threads=7)
    assert digest() != digest(weights=other)


def test_network_is_cached_until_its_file_changes(tmp_path) -> None:
    path = tmp_path / 'network.safetensors'
    path.write_bytes((SHIPPED / 'prediction.safetensors').read_bytes())
    first = _checkpoint(str(path), 'cpu')
    assert _checkpoint(str(path), 'cpu') is first
    spec = NetworkSpec(features=2, spacing=4.0)
    save_checkpoint(Checkpoint(spec.new_network(), spec), path)
    assert _checkpoint(str(path), 'cpu').spec == spec


def test_other_weights_rerun_only_the_steps_that_depend_on_them(pair, tmp_path) -> None:
    """In one work folder, first with other resources, then with another correction network."""
    from nipype import config

    from deepreg_wf.workflows import init_quicksilver_wf

    config.update_config({'execution': {'create_report': 'false'}})
    shipped = find_weights(momentum='predict+correct')
    checkpoint = load_checkpoint(shipped.correction)
    with torch.no_grad():
        for parameter in checkpoint.network.parameters():
            parameter.mul_(0.9)
    save_checkpoint(checkpoint, tmp_path / 'correction.safetensors')

    def run(**options: object) -> set[str]:
        """Return the names of the steps that were run."""
        workflow = init_quicksilver_wf(registration=Registration(refine=0), **options)
        workflow.base_dir = str(tmp_path / 'work')
        files = {'template_brain': pair['moving'], 't1w_affine': pair['fixed']}
        for name, path in files.items():
            setattr(workflow.inputs.inputnode, name, str(path))
        before = {path: path.stat().st_mtime_ns for path in results()}
        workflow.run(plugin='Linear')
        return {p.parent.name for p in results() if p.stat().st_mtime_ns != before.get(p)}

    def results() -> list[Path]:
        return list((tmp_path / 'work').rglob('result_*.pklz'))

    assert run() == {'predict', 'correct', 'shoot'}
    assert run(compute=Compute(omp_nthreads=2, batch_size=1)) == set()
    other = replace(shipped, correction=tmp_path / 'correction.safetensors')
    assert run(weights=other) == {'correct', 'shoot'}


# Weights files


@pytest.mark.parametrize('name', ['prediction', 'correction', 'probabilistic'])
def test_shipped_weights_are_valid_and_describe_themselves(name: str) -> None:
    path = SHIPPED / f'{name}.safetensors'
    assert path.stat().st_size < 16e6
    checkpoint = load_checkpoint(path)
    assert checkpoint.card['licence'] == 'CC0-1.0'
    assert not set(checkpoint.card['training']) & set(checkpoint.card['validation'])
    patches = torch.rand(2, 2, 15, 15, 15)
    assert checkpoint.network(patches).shape == (2, 3, 15, 15, 15)
    assert checkpoint.network(patches).isfinite().all()


def test_missing_and_unsuitable_weights_are_reported(tmp_path) -> None:
    assert find_weights(momentum='optimise').prediction is None
    assert find_weights(momentum='predict').correction is None
    with pytest.raises(InputError, match=r'prediction\.safetensors: no such weights file'):
        find_weights(momentum='predict', folder=tmp_path)
    with pytest.raises(InputError, match='a grid of 4 mm, which is not a multiple .* of 3 mm'):
        find_weights(momentum='predict', resolution=3.0)
    (tmp_path / 'prediction.safetensors').write_bytes(b'12345678')
    with pytest.raises(InputError, match='not a deepreg_wf weights file'):
        find_weights(momentum='predict', folder=tmp_path)

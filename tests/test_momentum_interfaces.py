"""Interfaces of LDDMM: matching, shooting and quality measures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from deepreg_wf import lddmm
from deepreg_wf.errors import InputError
from deepreg_wf.interfaces.momentum import GeodesicShooting, RefineMomentum
from deepreg_wf.interfaces.qc import RegistrationQC
from deepreg_wf.spatial import (
    VoxelGrid,
    load_displacement,
    load_image,
    load_vector,
    resample,
    save_affine,
    save_image,
    save_vector,
)


@pytest.fixture(scope='module')
def case(make_brain, tmp_path_factory) -> dict[str, Path]:
    """A template, a subject made from it by a known geodesic, and the momentum of that."""
    folder = tmp_path_factory.mktemp('case')
    image = make_brain()
    data, grid = image.get_fdata(dtype=np.float32), VoxelGrid(image.shape, image.affine)
    metric = lddmm.Metric(grid.shape, grid.spacing, **lddmm.DEFAULT_METRIC)
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(1, 3, 5, 6, 5, generator=generator)
    velocity = torch.nn.functional.interpolate(coarse, size=grid.shape, mode='trilinear')[0]
    inside = torch.nn.functional.avg_pool3d(torch.from_numpy(data > 0).float()[None], 7, 1, 3)[0]
    momentum = metric.momentum(4.0 * inside * velocity)
    inverse = lddmm.shoot(momentum, metric).phi_inverse
    subject = lddmm.fields.interpolate(torch.from_numpy(data)[None], inverse)[0].numpy()
    save_image(folder / 'template.nii.gz', data, grid)
    save_image(folder / 'mask.nii.gz', data > 0, grid, np.uint8)
    save_image(folder / 'subject.nii.gz', subject, grid)
    save_image(folder / 'subject_mask.nii.gz', subject > 0, grid, np.uint8)
    save_vector(folder / 'momentum.nii.gz', momentum.numpy(), grid)
    save_affine(folder / 'affine.txt', np.diag([0.9, 1.0, 1.0, 1.0]))
    return {path.name.partition('.')[0]: path for path in folder.iterdir()}


@pytest.fixture
def working_directory(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_matching_and_shooting_warp_the_subject_onto_the_template(case, working_directory) -> None:
    """The warp maps template points to subject points: it resamples the subject."""
    match = RefineMomentum(
        moving_image=case['template'], fixed_image=case['subject'], iterations=[8, 5]
    ).run()
    shot = GeodesicShooting(momentum=match.outputs.momentum, metric=match.outputs.metric).run()
    template, grid = load_image(case['template'])
    subject, _ = load_image(case['subject'])
    before = np.corrcoef(subject.ravel(), template.ravel())[0, 1]
    warped = pull(subject, shot.outputs.warp)
    assert np.corrcoef(warped.ravel(), template.ravel())[0, 1] > before
    carried = pull(template, shot.outputs.inverse_warp)
    assert np.corrcoef(carried.ravel(), subject.ravel())[0, 1] > before
    trace = json.loads(Path(match.outputs.trace).read_text())
    assert [level['spacing'] for level in trace['levels']] == [8.0, 4.0]
    assert all(level['energy'][-1] < level['energy'][0] for level in trace['levels'])


def pull(data: np.ndarray, warp: str) -> np.ndarray:
    displacement, _ = load_displacement(warp)
    field = torch.from_numpy(displacement)
    return lddmm.fields.interpolate(torch.from_numpy(data)[None], field)[0].numpy()


def test_a_chain_is_composed_in_its_order(case, working_directory) -> None:
    """Matched by two geodesics, the images agree better than by the first alone."""
    match = RefineMomentum(
        moving_image=case['template'], fixed_image=case['subject'], iterations=3
    ).run()
    found = match.outputs
    later = {'later_momenta': found.later_momenta, 'later_metrics': found.later_metrics}

    def inverse_of(momentum: str, metric: dict, **others: object) -> torch.Tensor:
        shot = GeodesicShooting(momentum=momentum, metric=metric, **others).run().outputs
        return torch.from_numpy(load_displacement(shot.inverse_warp)[0])

    first = inverse_of(found.momentum, found.metric)
    second = inverse_of(found.later_momenta, found.later_metrics[0])
    both = inverse_of(found.momentum, found.metric, **later)
    torch.testing.assert_close(both, lddmm.fields.compose(first, second), atol=1e-4, rtol=0)
    template, subject = (torch.from_numpy(load_image(case[n])[0]) for n in ('template', 'subject'))
    left = [
        (lddmm.fields.interpolate(template[None], inverse)[0] - subject).square().mean()
        for inverse in (first, both)
    ]
    assert left[1] < left[0]
    numbers = [level['geodesic'] for level in json.loads(Path(found.trace).read_text())['levels']]
    assert numbers == sorted(numbers)
    assert {*numbers} == {1, 2}


def test_the_other_direction_swaps_the_maps(case, working_directory) -> None:
    fields = {}
    for direction in ('template-to-subject', 'subject-to-template'):
        outputs = GeodesicShooting(momentum=case['momentum'], direction=direction).run().outputs
        fields[direction] = [
            load_displacement(path)[0] for path in (outputs.warp, outputs.inverse_warp)
        ]
    forward, backward = fields.values()
    assert np.array_equal(forward[0], backward[1])
    assert np.array_equal(forward[1], backward[0])


def test_log_jacobian_is_of_the_warp(case, working_directory) -> None:
    outputs = GeodesicShooting(momentum=case['momentum']).run().outputs
    warp = torch.from_numpy(load_displacement(outputs.warp)[0])
    log_jacobian, _ = load_image(outputs.log_jacobian)
    expected = lddmm.fields.jacobian_determinant(warp).numpy()
    np.testing.assert_allclose(np.exp(log_jacobian), expected, rtol=1e-4)


def test_matching_starts_from_the_given_momentum(case, working_directory) -> None:
    """The true momentum has less energy at once than the identity."""
    energies = []
    for start in ({}, {'momentum': case['momentum']}):
        outputs = (
            RefineMomentum(
                moving_image=case['template'], fixed_image=case['subject'], iterations=[1], **start
            )
            .run()
            .outputs
        )
        energies.append(json.loads(Path(outputs.trace).read_text())['levels'][0]['energy'][0])
    assert energies[1] < 0.9 * energies[0]


def test_a_folding_momentum_is_shortened_and_saved(case, working_directory) -> None:
    momentum, grid = load_vector(case['momentum'])
    save_vector('strong.nii.gz', 3 * momentum, grid)
    shot = GeodesicShooting(momentum='strong.nii.gz').run().outputs
    assert np.isfinite(load_image(shot.log_jacobian)[0]).all()
    share = load_vector(shot.momentum)[0] / (3 * momentum + (momentum == 0))
    assert 0 < share.max() < 1
    again = GeodesicShooting(momentum=shot.momentum).run().outputs
    assert again.momentum == shot.momentum
    np.testing.assert_allclose(
        load_displacement(again.warp)[0], load_displacement(shot.warp)[0], atol=1e-4
    )


def test_an_image_on_another_grid_is_refused(case, working_directory) -> None:
    data, grid = load_image(case['subject'])
    other = grid.resampled(8.0)
    save_image('other.nii.gz', resample(data, grid, other), other)
    with pytest.raises(InputError, match=r'other\.nii\.gz: it does not lie on'):
        RefineMomentum(moving_image=case['template'], fixed_image='other.nii.gz').run()


def test_an_empty_image_is_refused(case, working_directory) -> None:
    data, grid = load_image(case['subject'])
    save_image('empty.nii.gz', np.zeros_like(data), grid)
    with pytest.raises(InputError, match=r'empty\.nii\.gz: the image has no positive voxel'):
        RefineMomentum(moving_image=case['template'], fixed_image='empty.nii.gz').run()


def test_a_momentum_that_diverges_is_refused(case, working_directory) -> None:
    momentum, grid = load_vector(case['momentum'])
    momentum[0, 5, 5, 5] = np.nan
    save_vector('nan.nii.gz', momentum, grid)
    with pytest.raises(InputError, match=r'nan\.nii\.gz: .* finite; check the brain mask'):
        GeodesicShooting(momentum='nan.nii.gz').run()


def test_quality_measures_of_a_perfect_registration(case, working_directory) -> None:
    shot = GeodesicShooting(momentum=case['momentum']).run().outputs
    subject, grid = load_image(case['subject'])
    save_image('warped.nii.gz', pull(subject, shot.warp), grid)
    out_file = (
        RegistrationQC(
            template_image=case['template'],
            template_mask=case['mask'],
            affine=case['affine'],
            affine_image=case['subject'],
            affine_mask=case['subject_mask'],
            warped_image='warped.nii.gz',
            warped_mask=case['mask'],
            warp=shot.warp,
            inverse_warp=shot.inverse_warp,
            shooting_trace=shot.trace,
        )
        .run()
        .outputs.out_file
    )
    figures = json.loads(Path(out_file).read_text())
    assert figures['affine_determinant'] == pytest.approx(0.9)
    assert figures['mask_dice_final'] == 1
    assert figures['mask_dice_affine'] < 1
    assert figures['correlation_final'] > max(0.9, figures['correlation_affine'])
    assert figures['nonpositive_jacobian_fraction'] == 0
    assert 0 < figures['jacobian_min'] < 1 < figures['jacobian_max']
    assert figures['inverse_error_median_mm'] < 0.5  # an eighth of a voxel
    assert 1 < figures['displacement_median_mm'] < figures['displacement_max_mm']
    assert figures['energy_drift'] < 0.5

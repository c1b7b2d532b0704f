"""Interfaces of the template, and resampling to isotropic grids."""

from __future__ import annotations

import nibabel as nb
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from deepreg_wf.errors import InputError
from deepreg_wf.interfaces.template import PrepareTemplate
from deepreg_wf.spatial import VoxelGrid, load_image
from deepreg_wf.spatial.isotropic import isotropic_ras_grid, low_pass, resample_brain
from deepreg_wf.spatial.masks import volume_ml
from deepreg_wf.templates.locate import get_template
from deepreg_wf.templates.spaces import BUNDLED


@pytest.fixture(scope='module')
def bundled(tmp_path_factory):
    return get_template(BUNDLED, cache_dir=tmp_path_factory.mktemp('cache'))


def prepare(tmp_path, **inputs):
    folder = tmp_path / 'node'
    folder.mkdir(exist_ok=True)
    return PrepareTemplate(**inputs).run(cwd=folder).outputs


def margins(data, grid):
    """Distance in mm from the border to the nearest voxel that is not zero, on each side."""
    hit = np.argwhere(data)
    sides = np.concatenate([hit.min(axis=0), np.array(grid.shape) - 1 - hit.max(axis=0)])
    return sides * grid.spacing[0]


@pytest.mark.parametrize('resolution', [2.0, 3.0])
def test_registration_grid_is_isotropic_in_ras_with_a_margin(bundled, tmp_path, resolution):
    outputs = prepare(tmp_path, in_file=str(bundled.t1w), resolution=resolution)
    brain, grid = load_image(outputs.t1w_brain)
    mask, mask_grid = load_image(outputs.brain_mask)
    assert grid.orientation == 'RAS'
    np.testing.assert_allclose(grid.affine[:3, :3], resolution * np.eye(3))
    assert mask_grid == grid
    assert margins(brain, grid).min() >= 10
    assert all(n % 2 == 0 for n in grid.shape)
    assert ((brain > 0) <= (mask > 0)).all()


def test_brain_keeps_its_position_and_volume(bundled, tmp_path):
    outputs = prepare(tmp_path, in_file=str(bundled.t1w))
    (data, own_grid), (mask, grid) = load_image(bundled.t1w), load_image(outputs.brain_mask)
    assert volume_ml(mask > 0, grid) == pytest.approx(volume_ml(data > 0, own_grid), rel=0.005)
    centres = [
        g.to_mm(np.argwhere(m > 0).mean(axis=0)) for m, g in ((data, own_grid), (mask, grid))
    ]
    np.testing.assert_allclose(*centres, atol=0.1)
    assert load_image(outputs.reference)[1] == own_grid


@pytest.mark.parametrize('orientation', ['LPS', 'PIR', 'ASL'])
def test_result_does_not_depend_on_the_storage_order(make_brain, tmp_path, orientation):
    image = make_brain(spacing=(4.0, 3.5, 4.0))
    turn = ornt_transform(io_orientation(image.affine), axcodes2ornt(orientation))
    results = []
    for number, stored in enumerate((image, image.as_reoriented(turn))):
        path = tmp_path / f'template{number}.nii.gz'
        nb.save(stored, path)
        results.append(load_image(prepare(tmp_path, in_file=str(path)).t1w_brain))
    (first, grid), (second, other) = results
    assert grid == other
    np.testing.assert_allclose(first, second, atol=1e-3 * first.max())


def test_mask_removes_the_skull(make_brain, tmp_path):
    image = make_brain()
    inside = image.get_fdata() > 0
    nb.save(nb.Nifti1Image(image.get_fdata() + 100, image.affine), tmp_path / 't1w.nii.gz')
    nb.save(nb.Nifti1Image(inside.astype(np.uint8), image.affine), tmp_path / 'mask.nii.gz')
    inputs = {name: str(tmp_path / f'{name}.nii.gz') for name in ('t1w', 'mask')}
    outputs = prepare(tmp_path, in_file=inputs['t1w'], in_mask=inputs['mask'], resolution=4.0)
    brain, grid = load_image(outputs.t1w_brain)
    assert volume_ml(brain > 0, grid) == pytest.approx(
        volume_ml(inside, VoxelGrid.from_image(image)), rel=0.05
    )


def test_mask_of_another_image_is_refused(make_brain, tmp_path):
    image, other = make_brain(), make_brain(shape=(44, 48, 40))
    nb.save(image, tmp_path / 't1w.nii.gz')
    nb.save(other, tmp_path / 'mask.nii.gz')
    with pytest.raises(InputError, match='not on the grid of its image'):
        prepare(
            tmp_path,
            in_file=str(tmp_path / 't1w.nii.gz'),
            in_mask=str(tmp_path / 'mask.nii.gz'),
        )


def test_high_frequencies_are_removed_before_downsampling():
    grid = VoxelGrid((64, 64, 64), np.eye(4))
    stripes = np.indices(grid.shape).sum(axis=0) % 2 * 2.0
    mask = np.zeros(grid.shape, dtype=bool)
    mask[8:-8, 8:-8, 8:-8] = True
    target = isotropic_ras_grid(mask, grid, 3.0, 6.0)
    brain, inside = resample_brain(stripes, mask, grid, target)
    deep = target.points()[inside]
    deep = ((deep > 16) & (deep < 48)).all(axis=-1)
    np.testing.assert_allclose(brain[inside][deep], 1, atol=0.01)


def test_finer_grid_needs_no_smoothing():
    grid = VoxelGrid((8, 8, 8), np.diag([2, 2, 2, 1]))
    data = np.random.default_rng(0).random(grid.shape)
    np.testing.assert_allclose(low_pass(data, grid, 1.0), data)
    assert low_pass(data, grid, 6.0).std() < 0.5 * data.std()


def test_isotropic_grid_leaves_a_margin_around_an_oblique_brain(make_brain):
    image = make_brain()
    turn = np.eye(4)
    turn[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    mask = image.get_fdata() > 0
    grid = VoxelGrid(mask.shape, turn @ image.affine)
    upright = isotropic_ras_grid(mask, grid, 2.0, 7.0)
    voxels = upright.to_indices(grid.to_mm(np.argwhere(mask)))
    assert voxels.min() * 2 >= 7
    assert ((np.array(upright.shape) - 1 - voxels).min(axis=0) * 2 >= 7).all()
    assert (voxels.min(axis=0) * 2 < 7 + 2).all()

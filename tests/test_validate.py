"""Tests of the validation of T1-weighted images and of its error messages."""

from __future__ import annotations

import itertools
import logging

import nibabel as nb
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from deepreg_wf.anatomical.validate import read_t1w
from deepreg_wf.errors import InputError
from deepreg_wf.interfaces.anatomical import ValidateT1w

ORIENTATIONS = [
    ''.join(letters)
    for axes in itertools.permutations(('LR', 'PA', 'IS'))
    for letters in itertools.product(*axes)
]


@pytest.fixture
def brain(make_brain):
    return make_brain(spacing=(3.0, 3.0, 4.0))


@pytest.fixture
def write(tmp_path):
    def writer(data, affine, *, sform=1, qform=1, name='sub-01_T1w.nii.gz', dtype=None):
        image = nb.Nifti1Image(data, affine, dtype=dtype)
        image.set_sform(affine, sform)
        image.set_qform(affine, qform)
        path = tmp_path / name
        nb.save(image, path)
        return path

    return writer


@pytest.mark.parametrize('orientation', ORIENTATIONS)
def test_orientation_does_not_change_the_data(brain, write, orientation):
    transform = ornt_transform(io_orientation(brain.affine), axcodes2ornt(orientation))
    stored = brain.as_reoriented(transform)
    t1w = read_t1w(write(stored.get_fdata(dtype=np.float32), stored.affine))
    assert t1w.grid.orientation == orientation
    np.testing.assert_array_equal(t1w.data, stored.get_fdata(dtype=np.float32))
    assert t1w.remarks == ()


def test_oblique_grid_is_kept(brain, write):
    angle = np.deg2rad(20)
    rotation = np.eye(4)
    rotation[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    t1w = read_t1w(write(brain.get_fdata(dtype=np.float32), rotation @ brain.affine))
    np.testing.assert_allclose(t1w.grid.affine, rotation @ brain.affine, atol=1e-5)


def test_sheared_sform_is_kept(brain, write):
    shear = np.eye(4)
    shear[0, 1] = 0.2
    t1w = read_t1w(write(brain.get_fdata(dtype=np.float32), shear @ brain.affine))
    np.testing.assert_allclose(t1w.grid.affine, shear @ brain.affine, atol=1e-5)


def test_slope_and_intercept_are_applied(brain, tmp_path):
    image = nb.Nifti1Image(brain.get_fdata().astype(np.int16), brain.affine)
    stored = image.get_fdata()
    image.header.set_slope_inter(2.5, -100)
    nb.save(image, tmp_path / 'T1w.nii')
    # nibabel rescales the stored numbers, so the header is changed afterwards.
    with open(tmp_path / 'T1w.nii', 'r+b') as file:
        header = nb.Nifti1Header.from_fileobj(file)
        header['scl_slope'], header['scl_inter'] = 2.5, -100
        file.seek(0)
        header.write_to(file)
    np.testing.assert_allclose(read_t1w(tmp_path / 'T1w.nii').data, stored * 2.5 - 100)


def test_non_finite_voxels_become_zero_with_a_remark(brain, write):
    data = brain.get_fdata(dtype=np.float32)
    data[0, 0, :3] = np.nan, np.inf, -np.inf
    t1w = read_t1w(write(data, brain.affine))
    assert np.isfinite(t1w.data).all()
    assert (t1w.data[0, 0, :3] == 0).all()
    assert '3 voxels are not finite' in t1w.remarks[0]


def test_fourth_axis_of_one_volume_is_dropped(brain, write):
    data = brain.get_fdata(dtype=np.float32)
    t1w = read_t1w(write(data[..., np.newaxis], brain.affine))
    np.testing.assert_array_equal(t1w.data, data)


def test_sform_is_used_if_the_qform_disagrees_with_a_remark(brain, tmp_path):
    image = nb.Nifti1Image(brain.get_fdata(dtype=np.float32), brain.affine)
    moved = brain.affine.copy()
    moved[:3, 3] += 10
    image.set_sform(brain.affine, 1)
    image.set_qform(moved, 1)
    nb.save(image, tmp_path / 'T1w.nii.gz')
    t1w = read_t1w(tmp_path / 'T1w.nii.gz')
    np.testing.assert_allclose(t1w.grid.affine, brain.affine)
    assert 'disagree by up to 17.3 mm; the sform is used' in t1w.remarks[0]


def test_qform_is_used_without_a_sform(brain, write):
    path = write(brain.get_fdata(dtype=np.float32), brain.affine, sform=0)
    np.testing.assert_allclose(read_t1w(path).grid.affine, brain.affine, atol=1e-5)


def invalid_contents(data):
    """Return arrays that are no T1-weighted image, each with words of its error."""
    colours = np.zeros(data.shape, dtype=[(channel, 'u1') for channel in 'RGB'])
    return {
        'zeros': (np.zeros_like(data), 'every voxel is 0'),
        'constant': (np.full_like(data, 7), 'every voxel is 7'),
        'NaN': (np.full_like(data, np.nan), 'every voxel is 0'),
        'mask': ((data > 0).astype(np.uint8), 'as a mask does'),
        '2D': (data[:, :, 20], 'not an image with three axes'),
        'two volumes': (np.stack([data, data], axis=-1), 'more than one volume'),
        'complex': (data.astype(np.complex64), 'complex numbers'),
        'colours': (colours, 'colours'),
    }


@pytest.mark.parametrize('kind', invalid_contents(np.zeros((2, 2, 21), np.float32)))
def test_invalid_content_is_refused(brain, write, kind):
    data, words = invalid_contents(brain.get_fdata(dtype=np.float32))[kind]
    path = write(data, brain.affine)
    assert words in refusal(path)


@pytest.mark.parametrize(
    ('scale', 'words'),
    [
        ((1e-3, 1e-3, 1e-3), 'correct the voxel size'),
        ((1000, 1000, 1000), 'correct the voxel size'),
        ((1, 1, 4), 'correct the voxel size'),
        ((0.5, 0.5, 0.4), 'does not hold a head'),
    ],
)
def test_impossible_size_is_refused(brain, write, scale, words):
    affine = brain.affine @ np.diag([*scale, 1])
    assert words in refusal(write(brain.get_fdata(dtype=np.float32), affine))


def test_singular_sform_is_refused(brain, tmp_path):
    image = nb.Nifti1Image(brain.get_fdata(dtype=np.float32), brain.affine)
    flat = brain.affine.copy()
    flat[:, 2] = 0
    path = tmp_path / 'sub-01_T1w.nii'
    image.to_filename(path)
    with open(path, 'r+b') as file:
        header = nb.Nifti1Header.from_fileobj(file)
        header['srow_x'], header['srow_y'], header['srow_z'] = flat[:3]
        file.seek(0)
        header.write_to(file)
    assert 'repair its sform or qform' in refusal(path)


def test_unknown_orientation_is_refused(brain, write):
    path = write(brain.get_fdata(dtype=np.float32), brain.affine, sform=0, qform=0)
    assert 'left and right are unknown' in refusal(path)


@pytest.mark.parametrize('kind', ['missing', 'folder', 'empty', 'text', 'half', 'half .nii'])
def test_unreadable_file_is_refused(brain, write, tmp_path, kind):
    suffix = '.nii' if kind.endswith('.nii') else '.nii.gz'
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(brain.shape).astype(np.float32)
    path = write(noise, brain.affine, name=f'sub-01_T1w{suffix}')
    if kind.startswith('half'):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        path.unlink()
    if kind == 'folder':
        path.mkdir()
    if kind in ('empty', 'text'):
        path.write_text('' if kind == 'empty' else 'version https://git-lfs.github.com/spec/v1')
    refusal(path)


def refusal(path):
    """Return the error message of an image: one sentence that begins with its path."""
    with pytest.raises(InputError) as caught:
        read_t1w(path)
    message = str(caught.value)
    assert message.startswith(f'{path}: ')
    assert message.endswith('.')
    assert '\n' not in message
    assert '. ' not in message
    return message


def test_interface_writes_the_image_and_logs_the_remarks(
    brain, write, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(logging.getLogger('nipype'), 'propagate', True)
    data = brain.get_fdata(dtype=np.float32)
    data[0, 0, 0] = np.nan
    path = write(data[..., np.newaxis], brain.affine)
    done = ValidateT1w(in_file=str(path)).run(cwd=tmp_path)
    written = nb.load(done.outputs.out_file)
    assert written.get_data_dtype() == np.float32
    assert written.shape == brain.shape
    np.testing.assert_allclose(written.affine, brain.affine)
    assert 'not finite' in caplog.text


def test_interface_raises_the_error(tmp_path):
    with pytest.raises(InputError, match='no such file'):
        ValidateT1w(in_file=str(tmp_path / 'none.nii.gz')).run(cwd=tmp_path)

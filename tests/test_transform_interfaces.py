"""Interfaces that compose, resample and apply transforms."""

from __future__ import annotations

from pathlib import Path

import h5py
import nibabel as nb
import numpy as np
import pytest
from spatial_cases import AFFINE, OBLIQUE, blob_on, make_grid, random_points, wave_on

from deepreg_wf.errors import InputError
from deepreg_wf.interfaces import ApplyTransforms, ComposeTransforms, ResampleTransform
from deepreg_wf.spatial import (
    Transform,
    load_image,
    load_transform,
    resample,
    save_affine,
    save_composite,
    save_displacement,
    save_image,
)

FIELD = make_grid(shape=(30, 32, 28), spacing=(3.0, 3.0, 3.0))
NATIVE = make_grid('LIA', shape=(40, 36, 44), spacing=(1.6, 2.0, 1.3), oblique=OBLIQUE)


@pytest.fixture
def composed(tmp_path: Path) -> dict[str, Transform]:
    """Composites of an affine and two unrelated fields."""
    save_affine(tmp_path / 'affine.txt', AFFINE)
    save_displacement(tmp_path / 'warp.nii.gz', wave_on(FIELD), FIELD)
    save_displacement(tmp_path / 'inverse.nii.gz', -0.5 * wave_on(FIELD), FIELD)
    work = tmp_path / 'work'
    work.mkdir()
    outputs = (
        ComposeTransforms(
            affine=str(tmp_path / 'affine.txt'),
            warp=str(tmp_path / 'warp.nii.gz'),
            inverse_warp=str(tmp_path / 'inverse.nii.gz'),
        )
        .run(cwd=str(work))
        .outputs.get()
    )
    assert {Path(path).parent for path in outputs.values()} == {work}
    return {name: load_transform(path) for name, path in outputs.items()}


def test_template_points_are_mapped_by_the_warp_first(composed: dict[str, Transform]) -> None:
    points = random_points(FIELD, margin=3)
    warped = Transform(warp=wave_on(FIELD), grid=FIELD).map_points(points)
    expected = Transform(affine=AFFINE).map_points(warped)
    assert np.abs(composed['anat2std_xfm'].map_points(points) - expected).max() < 1e-3


def test_t1w_points_are_mapped_by_the_inverse_affine_first(composed: dict[str, Transform]) -> None:
    points = random_points(FIELD, margin=3)
    aligned = Transform(affine=np.linalg.inv(AFFINE)).map_points(points)
    expected = Transform(warp=-0.5 * wave_on(FIELD), grid=FIELD).map_points(aligned)
    assert np.abs(composed['std2anat_xfm'].map_points(points) - expected).max() < 1e-3


@pytest.mark.parametrize('codes', ['RAS', 'LIP'])
def test_a_resampled_field_has_the_layout_that_fmriprep_reads(codes: str, tmp_path: Path) -> None:
    """fMRIPrep 24 requires voxels of 1 mm along R, A and S."""
    save_composite(tmp_path / 'x.h5', affine=AFFINE, warp=wave_on(FIELD), grid=FIELD)
    view = make_grid(codes, shape=(30, 32, 28), spacing=(2.0, 2.0, 2.0))
    save_image(tmp_path / 'template.nii.gz', np.ones(view.shape), view, 'uint8')
    outputs = ResampleTransform(
        in_file=str(tmp_path / 'x.h5'), reference_image=str(tmp_path / 'template.nii.gz')
    )
    out_file = outputs.run(cwd=str(tmp_path)).outputs.out_file
    with h5py.File(out_file) as file:
        stored = file['TransformGroup/2']
        fixed = stored['TransformFixedParameters'][:]
        assert stored['TransformType'][0] == b'DisplacementFieldTransform_double_3_3'
    extent = np.sort(np.array(view.shape) * 2)
    assert np.array_equal(np.sort(fixed[:3]), extent)
    assert np.array_equal(fixed[6:], [1, 1, 1, -1, 0, 0, 0, -1, 0, 0, 0, 1])
    before, after = load_transform(tmp_path / 'x.h5'), load_transform(out_file)
    points = random_points(FIELD, margin=3)
    points = points[view.contains(points)]
    assert len(points) > 100
    # Linear interpolation of a linear interpolant: an eighth of the squared step times curvature.
    assert np.abs(after.map_points(points) - before.map_points(points)).max() < 0.15
    again = before.resampled(FIELD)
    assert np.abs(again.map_points(points) - before.map_points(points)).max() < 1e-3


def test_a_composite_without_a_field_is_not_resampled(tmp_path: Path) -> None:
    save_composite(tmp_path / 'affine.h5', affine=AFFINE, warp=wave_on(FIELD), grid=FIELD)
    with h5py.File(tmp_path / 'affine.h5', 'r+') as file:
        del file['TransformGroup/2']
    save_image(tmp_path / 'template.nii.gz', np.ones(FIELD.shape), FIELD, 'uint8')
    resample_transform = ResampleTransform(
        in_file=str(tmp_path / 'affine.h5'), reference_image=str(tmp_path / 'template.nii.gz')
    )
    with pytest.raises(InputError, match=r'affine\.h5: the composite has no displacement field'):
        resample_transform.run(cwd=str(tmp_path))


def apply(tmp_path: Path, transform: Path, **options: object) -> Path:
    """Path of the native image of `tmp_path`, resampled onto the grid of the field."""
    save_image(tmp_path / 'reference.nii.gz', np.zeros(FIELD.shape), FIELD, 'uint8')
    work = tmp_path / 'apply'
    work.mkdir()
    result = ApplyTransforms(
        in_file=str(tmp_path / 'native.nii.gz'),
        reference_image=str(tmp_path / 'reference.nii.gz'),
        transform=str(transform),
        **options,
    ).run(cwd=str(work))
    out_file = Path(result.outputs.out_file)
    assert out_file.parent == work
    return out_file


@pytest.mark.parametrize('interpolation', ['linear', 'cubic'])
def test_an_image_is_resampled_through_a_composite(interpolation: str, tmp_path: Path) -> None:
    save_image(tmp_path / 'native.nii.gz', blob_on(NATIVE), NATIVE)
    content = {'affine': AFFINE, 'warp': wave_on(FIELD), 'grid': FIELD}
    save_composite(tmp_path / 'x.h5', **content)
    data, grid = load_image(apply(tmp_path, tmp_path / 'x.h5', interpolation=interpolation))
    expected = resample(
        blob_on(NATIVE), NATIVE, FIELD, Transform(**content), interpolation=interpolation
    )
    assert np.allclose(data, expected, atol=0.1)
    assert np.allclose(grid.affine, FIELD.affine, atol=1e-5)


def test_a_mask_keeps_its_values_and_data_type(tmp_path: Path) -> None:
    mask = blob_on(NATIVE) > 300
    save_image(tmp_path / 'native.nii.gz', mask, NATIVE, 'uint8')
    save_affine(tmp_path / 'affine.txt', AFFINE)
    out_file = apply(tmp_path, tmp_path / 'affine.txt', interpolation='nearest')
    data, _ = load_image(out_file)
    expected = resample(mask, NATIVE, FIELD, Transform(affine=AFFINE), interpolation='nearest')
    assert nb.load(out_file).get_data_dtype() == np.uint8
    assert np.mean(data != expected) < 1e-3
    assert data.max() == 1


def test_voxels_outside_the_image_have_the_default_value(tmp_path: Path) -> None:
    save_image(tmp_path / 'native.nii.gz', np.ones(NATIVE.shape), NATIVE, 'int16')
    save_affine(tmp_path / 'affine.txt', np.eye(4))
    data, grid = load_image(apply(tmp_path, tmp_path / 'affine.txt', default_value=-3.0))
    inside = NATIVE.contains(grid.points())
    assert np.mean(data == np.where(inside, 1, -3)) > 0.999

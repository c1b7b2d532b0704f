"""Image files: round trips, refusals that name the file, and atomic writes."""

from __future__ import annotations

from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
from spatial_cases import OBLIQUE, make_grid, random_points, stored, wave_on
from test_grid import sheared

from deepreg_wf.errors import InputError
from deepreg_wf.spatial import (
    Transform,
    load_displacement,
    load_image,
    load_vector,
    save_displacement,
    save_image,
    save_vector,
)
from deepreg_wf.spatial.nifti import lossless_dtype
from deepreg_wf.utils.atomic import atomic_write

GRID = make_grid('LIA', shape=(5, 6, 7), spacing=(1.0, 1.5, 2.0), oblique=OBLIQUE)


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).normal(scale=300, size=GRID.shape).astype(np.float32)


@pytest.mark.parametrize('name', ['x.nii', 'x.nii.gz'])
def test_an_image_survives_a_round_trip(name: str, values: np.ndarray, tmp_path: Path) -> None:
    save_image(tmp_path / name, values, GRID)
    loaded, grid = load_image(tmp_path / name)
    assert np.array_equal(loaded, values)
    assert loaded.dtype == np.float32
    assert np.allclose(grid.affine, GRID.affine, atol=1e-5)


@pytest.mark.parametrize('codes', ['RAS', 'LPS', 'RPS', 'LIA'])
def test_itk_agrees_on_the_position_of_an_image(codes: str, tmp_path: Path) -> None:
    sitk = pytest.importorskip('SimpleITK')
    grid = make_grid(codes, shape=(90, 100, 110), oblique=(0.0, -5.0, 3.0))
    save_image(tmp_path / 'x.nii', np.zeros(grid.shape), grid, 'uint8')
    image = sitk.ReadImage(str(tmp_path / 'x.nii'))
    for corner in ([0, 0, 0], [89, 0, 109], [89, 99, 109]):
        there = image.TransformIndexToPhysicalPoint(corner)
        assert np.allclose(np.multiply(there, [-1, -1, 1]), grid.to_mm(corner), atol=1e-4)
    assert nb.load(tmp_path / 'x.nii').header.get_xyzt_units()[0] == 'mm'


def test_a_sheared_grid_survives_a_round_trip(tmp_path: Path) -> None:
    grid = sheared()
    save_image(tmp_path / 'x.nii', np.zeros(grid.shape), grid)
    assert np.allclose(load_image(tmp_path / 'x.nii')[1].affine, grid.affine, atol=1e-5)


@pytest.mark.parametrize('dtype', ['uint8', 'int16', 'int32'])
def test_integer_types_are_rounded_to_and_clipped(
    dtype: str, values: np.ndarray, tmp_path: Path
) -> None:
    save_image(tmp_path / 'x.nii.gz', values * 200, GRID, dtype)
    loaded, _ = load_image(tmp_path / 'x.nii.gz')
    limits = np.iinfo(dtype)
    assert np.array_equal(loaded, np.rint(values * 200).clip(limits.min, limits.max))
    assert lossless_dtype(tmp_path / 'x.nii.gz') == dtype


def test_a_mask_may_be_boolean(values: np.ndarray, tmp_path: Path) -> None:
    save_image(tmp_path / 'x.nii.gz', values > 0, GRID, 'uint8')
    assert np.array_equal(load_image(tmp_path / 'x.nii.gz')[0] == 1, values > 0)


def test_the_scaling_of_the_header_is_applied(tmp_path: Path) -> None:
    image = nb.Nifti1Image(np.arange(24, dtype=np.uint8).reshape(2, 3, 4), np.eye(4))
    image.header.set_slope_inter(0.5, -3)
    nb.save(image, tmp_path / 'x.nii')
    expected = np.asarray(nb.load(tmp_path / 'x.nii').dataobj)
    assert np.allclose(load_image(tmp_path / 'x.nii')[0], expected)
    assert lossless_dtype(tmp_path / 'x.nii') == np.float32


def test_axes_of_length_one_are_dropped(values: np.ndarray, tmp_path: Path) -> None:
    nb.save(nb.Nifti1Image(values[..., np.newaxis], GRID.affine), tmp_path / 'x.nii')
    assert np.array_equal(load_image(tmp_path / 'x.nii')[0], values)


def test_several_volumes_are_refused(tmp_path: Path) -> None:
    nb.save(nb.Nifti1Image(np.zeros((2, 3, 4, 2), np.uint8), np.eye(4)), tmp_path / 'x.nii')
    with pytest.raises(InputError, match='x.nii.*more than one volume'):
        load_image(tmp_path / 'x.nii')


@pytest.mark.parametrize('name', ['x.nii', 'x.nii.gz'])
def test_the_error_names_a_truncated_image(name: str, values: np.ndarray, tmp_path: Path) -> None:
    save_image(tmp_path / name, values, GRID)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-200])
    with pytest.raises(InputError, match=f'{name}.*(damaged|truncated|complete)'):
        load_image(tmp_path / name)


def test_the_error_names_a_header_without_a_position(tmp_path: Path) -> None:
    image = nb.Nifti1Image(np.zeros((2, 3, 4), np.uint8), np.eye(4))
    image.set_sform(np.diag([1, 1, 0, 1]), code=1)
    nb.save(image, tmp_path / 'x.nii')
    with pytest.raises(InputError, match='x.nii.*sform'):
        load_image(tmp_path / 'x.nii')


def test_data_of_another_shape_than_their_grid_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='do not fit'):
        save_image(tmp_path / 'x.nii', np.zeros((2, 3, 4)), GRID)
    with pytest.raises(ValueError, match='do not fit'):
        save_vector(tmp_path / 'x.nii', np.zeros((*GRID.shape, 3)), GRID)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / 'x.txt'
    path.write_text('old')

    def fail() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text('half of the n')
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [entry.name for entry in tmp_path.iterdir()] == ['x.txt']
    assert path.read_text() == 'old'


def test_the_same_data_give_the_same_bytes(values: np.ndarray, tmp_path: Path) -> None:
    for name in ('a.nii.gz', 'b.nii.gz'):
        save_image(tmp_path / name, values, GRID)
    assert (tmp_path / 'a.nii.gz').read_bytes() == (tmp_path / 'b.nii.gz').read_bytes()


def test_a_vector_field_survives_a_round_trip(tmp_path: Path) -> None:
    vector = np.random.default_rng(0).normal(size=(3, *GRID.shape)).astype(np.float32)
    save_vector(tmp_path / 'm.nii.gz', vector, GRID)
    loaded, grid = load_vector(tmp_path / 'm.nii.gz')
    assert np.array_equal(loaded, vector)
    assert np.allclose(grid.affine, GRID.affine, atol=1e-5)
    image = nb.load(tmp_path / 'm.nii.gz')
    assert image.shape == (*GRID.shape, 1, 3)
    assert image.header.get_intent()[0] == 'vector'


def test_a_scalar_image_is_refused_as_a_vector_field(values: np.ndarray, tmp_path: Path) -> None:
    save_image(tmp_path / 'x.nii', values, GRID)
    with pytest.raises(InputError, match='x.nii.*three components'):
        load_vector(tmp_path / 'x.nii')


def test_a_displacement_is_read_in_voxels(tmp_path: Path) -> None:
    save_displacement(tmp_path / 'w.nii.gz', wave_on(GRID), GRID)
    loaded, _ = load_displacement(tmp_path / 'w.nii.gz')
    assert np.allclose(loaded, wave_on(GRID), atol=1e-5)


def test_a_displacement_is_the_same_map_in_every_storage_order(tmp_path: Path) -> None:
    orientation = np.array([[2, -1], [0, 1], [1, -1]])
    maps = []
    for number, grid in enumerate((GRID, stored(GRID, orientation))):
        path = tmp_path / f'{number}.nii'
        save_displacement(path, wave_on(grid), grid)
        warp, read = load_displacement(path)
        maps.append(Transform(warp=warp, grid=read).map_points(random_points(GRID)))
    assert np.allclose(*maps, atol=1e-4)


def test_itk_reads_a_displacement_in_lps_millimetres(tmp_path: Path) -> None:
    sitk = pytest.importorskip('SimpleITK')
    save_displacement(tmp_path / 'w.nii.gz', wave_on(GRID), GRID)
    field = sitk.ReadImage(str(tmp_path / 'w.nii.gz'), sitk.sitkVectorFloat64)
    transform = sitk.DisplacementFieldTransform(field)
    flip = np.array([-1.0, -1.0, 1.0])
    points = random_points(GRID)
    there = [flip * transform.TransformPoint((flip * point).tolist()) for point in points]
    expected = Transform(warp=wave_on(GRID), grid=GRID).map_points(points)
    assert np.allclose(there, expected, atol=1e-3)


def test_a_displacement_on_a_sheared_grid_is_refused(tmp_path: Path) -> None:
    grid = sheared()
    with pytest.raises(InputError, match='w.nii.*sheared'):
        save_displacement(tmp_path / 'w.nii', np.zeros((3, *grid.shape)), grid)

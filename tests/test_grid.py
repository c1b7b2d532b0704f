"""Voxel grids: coordinates, storage orders and resampled grids."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
from spatial_cases import OBLIQUE, ORIENTATIONS, make_grid, random_points, stored

from deepreg_wf.errors import InputError
from deepreg_wf.spatial import VoxelGrid, load_grid

MNI = VoxelGrid((197, 233, 189), [[1, 0, 0, -98], [0, 1, 0, -134], [0, 0, 1, -72], [0, 0, 0, 1]])
GRIDS = {
    'upright': make_grid('LAS', shape=(6, 7, 8)),
    'oblique': make_grid('PSR', shape=(6, 7, 8), spacing=(1.0, 2.0, 3.5), oblique=OBLIQUE),
}


def sheared() -> VoxelGrid:
    shear = np.eye(4)
    shear[0, 1] = 0.2
    return VoxelGrid((6, 7, 8), shear @ make_grid(shape=(6, 7, 8)).affine)


@pytest.mark.parametrize('grid', [*GRIDS.values(), sheared()], ids=[*GRIDS, 'sheared'])
def test_indices_and_millimetres_are_inverse_conversions(grid: VoxelGrid) -> None:
    points = random_points(grid)
    assert np.allclose(grid.to_mm(grid.to_indices(points)), points)
    assert np.allclose(grid.points()[2, 3, 4], grid.to_mm([2, 3, 4]))
    assert np.allclose(grid.points()[2, 3, 4], nb.affines.apply_affine(grid.affine, [2, 3, 4]))


@pytest.mark.parametrize('orientation', ORIENTATIONS, ids=lambda o: str(o.ravel().tolist()))
def test_canonical_order_keeps_the_position_of_every_voxel(orientation: np.ndarray) -> None:
    grid = stored(make_grid(shape=(3, 4, 5), spacing=(1, 2, 3), oblique=OBLIQUE), orientation)
    canonical = grid.canonical()
    assert canonical.orientation == 'RAS'
    assert np.allclose(grid.to_canonical(grid.points()), canonical.points())


def test_canonical_agrees_with_nibabel() -> None:
    grid = GRIDS['oblique']
    image = nb.as_closest_canonical(nb.Nifti1Image(np.zeros(grid.shape, np.uint8), grid.affine))
    assert grid.canonical().shape == image.shape
    assert np.allclose(grid.canonical().affine, image.affine)


def corners(grid: VoxelGrid) -> np.ndarray:
    """Return the eight outer corners of the field of view."""
    signs = np.argwhere(np.ones((2, 2, 2)))
    return grid.to_mm(signs * grid.shape - 0.5)


def test_a_spacing_that_divides_the_field_of_view_keeps_it() -> None:
    grid = make_grid('LIA', shape=(8, 10, 6), spacing=(1, 2, 3), oblique=OBLIQUE)
    resampled = grid.resampled(2.0)
    assert resampled.shape == (4, 10, 9)
    assert np.allclose(resampled.spacing, 2.0)
    assert np.allclose(resampled.axes, grid.axes)
    assert np.allclose(corners(resampled), corners(grid))


@pytest.mark.parametrize('spacing', [1.3, 2.0, 3.0, 500.0])
def test_any_other_spacing_covers_the_field_of_view(spacing: float) -> None:
    resampled = MNI.resampled(spacing)
    assert np.allclose(corners(resampled).mean(axis=0), corners(MNI).mean(axis=0))
    assert resampled.contains(corners(MNI)).all()
    excess = np.multiply(resampled.shape, spacing) - np.multiply(MNI.shape, MNI.spacing)
    assert (excess < spacing).all()


def test_resampling_mni_at_2_mm_is_the_usual_grid() -> None:
    assert MNI.resampled(2.0).shape == (99, 117, 95)


def test_resampling_to_the_same_spacing_changes_nothing() -> None:
    single = VoxelGrid(MNI.shape, MNI.affine.astype(np.float32) * (1 + 1e-7))
    assert single.resampled(1.0).shape == MNI.shape
    assert np.allclose(single.resampled(1.0).affine, MNI.affine, atol=1e-4)


def test_a_grid_contains_points_up_to_the_outer_faces_of_its_voxels() -> None:
    grid = GRIDS['oblique']
    last = np.asarray(grid.shape) - 1
    assert grid.contains(grid.to_mm([np.full(3, -0.49), last + 0.49])).all()
    for axis in range(3):
        beyond = np.where(np.arange(3) == axis, 0.51, 0)
        assert not grid.contains(grid.to_mm([-beyond, last + beyond])).any()


def test_a_sheared_grid_is_not_orthogonal() -> None:
    assert not sheared().is_orthogonal
    assert all(grid.is_orthogonal for grid in GRIDS.values())
    single = VoxelGrid((2, 2, 2), GRIDS['oblique'].affine.astype(np.float32))
    assert single.is_orthogonal


def test_equal_grids_are_equal_and_hash_alike() -> None:
    grid = VoxelGrid(np.array([197, 233, 189]), MNI.affine.tolist())
    assert grid == MNI
    assert hash(grid) == hash(MNI)
    assert grid != MNI.resampled(2.0)
    with pytest.raises(ValueError, match='read-only'):
        grid.affine[0, 3] = 0


@pytest.mark.parametrize(
    ('shape', 'affine'),
    [
        ((3, 4), np.eye(4)),
        ((3, 4, 0), np.eye(4)),
        ((3, 4, 5), np.eye(3)),
        ((3, 4, 5), np.diag([1, 1, 0, 1])),
        ((3, 4, 5), np.full((4, 4), np.nan)),
    ],
)
def test_invalid_shapes_and_affines_are_refused(
    shape: tuple[int, ...], affine: np.ndarray
) -> None:
    with pytest.raises(ValueError, match=r'grid|affine'):
        VoxelGrid(shape, affine)


def test_the_grid_of_an_image_is_read_without_its_data(tmp_path: Path) -> None:
    grid = GRIDS['oblique']
    image = nb.Nifti1Image(np.zeros(grid.shape, np.uint8), grid.affine)
    image.header['vox_offset'], image.header['magic'] = 352, b'n+1'
    assert VoxelGrid.from_image(image) == grid
    header = image.header.copy()
    header.set_data_shape((2000, 2000, 2000))
    path = tmp_path / 'sparse.nii'
    path.write_bytes(header.binaryblock + bytes(4))
    os.truncate(path, 352 + 2000**3)  # 8 GB of zeros, which take no room on the disk
    assert np.allclose(load_grid(path).affine, grid.affine, atol=1e-5)
    assert load_grid(str(path)).shape == (2000, 2000, 2000)


def test_the_error_names_a_file_without_a_grid(tmp_path: Path) -> None:
    text = tmp_path / 'notes.nii'
    text.write_text('no image')
    for path in (text, tmp_path / 'absent.nii.gz'):
        with pytest.raises(InputError, match=path.name):
            load_grid(path)

"""Images resampled through a transform equal those of ITK."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from nibabel.affines import apply_affine
from spatial_cases import (
    AFFINE,
    OBLIQUE,
    ORIENTATIONS,
    blob,
    blob_on,
    make_grid,
    random_points,
    stored,
    wave_on,
)
from test_grid import sheared

from deepreg_wf.spatial import (
    Transform,
    TransformChain,
    VoxelGrid,
    resample,
    save_composite,
    save_image,
)

FIELD = make_grid(shape=(45, 52, 42))
SOURCE = make_grid('LIA', shape=(50, 44, 60), spacing=(1.6, 2.0, 1.3), oblique=OBLIQUE)
TARGET = make_grid('RPS', shape=(48, 52, 44), spacing=(1.5, 1.5, 1.7), oblique=(0, -5, 3))

OBLIQUE_SHIFT = np.array([[1, 0, 0.1, 3], [0, 1, 0, -2], [-0.1, 0, 1, 1], [0, 0, 0, 1.0]])

INTERPOLATIONS = {
    'linear': ('linear', 1e-5),
    'nearest': ('nearestNeighbor', 0.0),
    'cubic': ('bSpline', 1e-5),
}
"""With the name in ANTs and the tolerance as a fraction of 1000, about the brightest value."""


def transform(*, affine_first: bool = False) -> Transform:
    return Transform(affine=AFFINE, warp=wave_on(FIELD), grid=FIELD, affine_first=affine_first)


@pytest.mark.parametrize('affine_first', [False, True], ids=['field-first', 'affine-first'])
@pytest.mark.parametrize('interpolation', INTERPOLATIONS)
def test_ants_gives_the_same_image(interpolation: str, affine_first: bool, tmp_path: Path) -> None:
    import ants

    blob = blob_on(SOURCE)
    save_image(tmp_path / 'source.nii', blob, SOURCE)
    save_image(tmp_path / 'target.nii', np.zeros(TARGET.shape), TARGET)
    save_composite(
        tmp_path / 'x.h5',
        affine=AFFINE,
        warp=wave_on(FIELD),
        grid=FIELD,
        affine_first=affine_first,
    )
    name, tolerance = INTERPOLATIONS[interpolation]
    theirs = ants.apply_transforms(
        ants.image_read(str(tmp_path / 'target.nii')),
        ants.image_read(str(tmp_path / 'source.nii')),
        [str(tmp_path / 'x.h5')],
        interpolator=name,
    ).numpy()
    ours = resample(
        blob, SOURCE, TARGET, transform(affine_first=affine_first), interpolation=interpolation
    )
    assert ours.max() > 500
    differs = np.abs(ours - theirs) > tolerance * 1000
    # A point midway between two voxels may fall to either.
    assert differs.mean() <= (1e-4 if interpolation == 'nearest' else 0)


@pytest.mark.filterwarnings('ignore:Reference space not set')
def test_nitransforms_gives_the_same_image(tmp_path: Path) -> None:
    import nitransforms
    from nitransforms.resampling import apply

    save_image(tmp_path / 'source.nii', blob_on(SOURCE), SOURCE)
    save_image(tmp_path / 'target.nii', np.zeros(TARGET.shape), TARGET)
    save_composite(tmp_path / 'x.h5', affine=AFFINE, warp=wave_on(FIELD), grid=FIELD)
    chain = nitransforms.manip.load(tmp_path / 'x.h5', fmt='itk')
    source, target = (str(tmp_path / name) for name in ('source.nii', 'target.nii'))
    theirs = np.asarray(apply(chain, source, reference=target, order=1).dataobj)
    ours = resample(blob_on(SOURCE), SOURCE, TARGET, transform())
    # Its images end at the centres of the outermost voxels, and its splines need some voxels to
    # forget the border of the field.
    inner = depth(FIELD, TARGET.points()) > 4
    inner &= depth(SOURCE, transform().map_points(TARGET.points())) > 0.1
    assert np.abs(ours - theirs)[inner].max() < 1.0


def depth(grid: VoxelGrid, points: np.ndarray) -> np.ndarray:
    """Distance of points to the outermost voxel centres of a grid, in voxels."""
    voxels = grid.to_indices(points)
    return np.minimum(voxels, np.asarray(grid.shape) - 1 - voxels).min(axis=-1)


@pytest.mark.parametrize('interpolation', ['linear', 'cubic'])
def test_values_are_read_at_the_mapped_points(interpolation: str) -> None:
    fine = make_grid(shape=(90, 100, 96), spacing=(1.0, 1.0, 1.0))
    resampled = resample(blob_on(fine), fine, TARGET, transform(), interpolation=interpolation)
    voxels = np.random.default_rng(0).integers(0, TARGET.shape, size=(200, 3))
    there = transform().map_points(TARGET.to_mm(voxels))
    assert np.allclose(resampled[tuple(voxels.T)], blob(there), atol=6)


@pytest.mark.parametrize('interpolation', INTERPOLATIONS)
def test_resampling_onto_the_same_grid_changes_nothing(interpolation: str) -> None:
    noise = np.random.default_rng(0).standard_normal(SOURCE.shape).astype(np.float32)
    same = resample(noise, SOURCE, SOURCE, interpolation=interpolation)
    assert np.allclose(same, noise, atol=1e-4)
    assert same.dtype == np.float32


@pytest.mark.parametrize('orientation', ORIENTATIONS, ids=lambda o: str(o.ravel().tolist()))
def test_the_result_does_not_depend_on_the_storage_order(orientation: np.ndarray) -> None:
    """The order is that of the image, of the field or of the target grid."""
    source = make_grid('PSR', shape=(12, 11, 10), spacing=(7, 8, 9), oblique=OBLIQUE)
    field = make_grid(shape=(11, 10, 12), spacing=(9, 8, 8))
    expected = resample(
        blob_on(source), source, field, Transform(affine=AFFINE, warp=wave_on(field), grid=field)
    )
    source, other = stored(source, orientation), stored(field, orientation)
    moved = resample(
        blob_on(source), source, other, Transform(affine=AFFINE, warp=wave_on(other), grid=other)
    )
    assert np.allclose(other.to_canonical(moved), expected, atol=1e-2)


def test_a_sheared_image_is_resampled_correctly() -> None:
    grid = sheared()
    source = VoxelGrid((40, 44, 42), grid.affine)
    target = make_grid(shape=(10, 10, 10), centre=source.to_mm([20, 22, 21]))
    ramp = source.points() @ [1.0, 2.0, 3.0]
    assert np.allclose(
        resample(ramp, source, target), target.points() @ [1.0, 2.0, 3.0], atol=1e-3
    )


def test_nearest_neighbours_keep_labels() -> None:
    labels = np.random.default_rng(0).choice([0, 7, 1035, 12175], size=SOURCE.shape)
    resampled = resample(labels, SOURCE, TARGET, transform(), interpolation='nearest')
    assert set(np.unique(resampled)) <= {0, 7, 1035, 12175}


def test_outside_the_image_is_the_default_value() -> None:
    ones = np.ones(SOURCE.shape)
    resampled = resample(ones, SOURCE, TARGET, Transform(affine=AFFINE), default_value=-5)
    inside = SOURCE.contains(Transform(affine=AFFINE).map_points(TARGET.points()))
    assert 0 < inside.mean() < 1
    assert np.array_equal(resampled, np.where(inside, 1, -5))


def test_a_field_ends_at_the_faces_of_its_voxels() -> None:
    grid = make_grid(shape=(4, 5, 6))
    shift = Transform(warp=np.ones((3, *grid.shape)), grid=grid)
    points = random_points(grid, 2000, margin=-2)
    moved = np.linalg.norm(shift.map_points(points) - points, axis=1)
    assert np.allclose(moved, np.where(grid.contains(points), np.linalg.norm(grid.spacing), 0))


def test_points_of_any_number_of_axes_are_mapped() -> None:
    points = FIELD.points()[:3, :4, :5]
    mapped = transform().map_points(points)
    assert mapped.shape == points.shape
    assert np.allclose(mapped[1, 2, 3], transform().map_points(points[1, 2, 3]))


@pytest.mark.parametrize('chained', [False, True])
@pytest.mark.parametrize('affine_first', [False, True])
@pytest.mark.parametrize(
    'lattice',
    [
        make_grid(shape=(40, 60, 50), spacing=(2.3, 1.7, 1.9)),
        make_grid('LPS', shape=(90, 20, 50), spacing=(1.0, 5.0, 2.0)),
        make_grid('PSR', shape=(60, 30, 50), spacing=(2.1, 1.9, 2.3)),
        TARGET,
    ],
    ids=['parallel', 'flipped', 'axes-exchanged', 'oblique'],
)
def test_points_of_a_rectilinear_grid_are_mapped_as_any_points(
    lattice: VoxelGrid, affine_first: bool, chained: bool
) -> None:
    """Both the separable and the general interpolation, inside the field and outside."""
    way = transform(affine_first=affine_first)
    way = TransformChain([Transform(affine=OBLIQUE_SHIFT), way]) if chained else way
    axes = [np.arange(n, dtype=np.float64) for n in lattice.shape]
    mapped = way.map_grid(axes, to_ras=lattice.affine, from_ras=SOURCE.inverse_affine)
    points = way.map_points(lattice.points())
    expected = np.moveaxis(apply_affine(SOURCE.inverse_affine, points), -1, 0)
    np.testing.assert_allclose(mapped, expected, atol=1e-5)


def test_memory_is_limited_by_the_slabs() -> None:
    """Besides its result, resampling keeps the coordinates of one slab, not of the whole grid."""
    target = make_grid(shape=(160, 160, 120), spacing=(0.6, 0.6, 0.7))
    source, through = blob_on(SOURCE).astype(np.float32), transform()
    tracemalloc.start()
    resample(source, SOURCE, target, through)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    coordinates = 3 * 8 * np.prod(target.shape)
    assert peak - 4 * np.prod(target.shape) < 0.6 * coordinates

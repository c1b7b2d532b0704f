"""Transform files are exchanged with ANTs, SimpleITK and nitransforms and map points alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from spatial_cases import AFFINE, OBLIQUE, ORIENTATIONS, make_grid, random_points, stored, wave_on
from test_grid import sheared

from deepreg_wf.errors import InputError
from deepreg_wf.spatial import (
    Transform,
    VoxelGrid,
    load_affine,
    load_composite,
    load_transform,
    save_affine,
    save_composite,
)

FLIP = np.array([-1.0, -1.0, 1.0])
"""RAS to the LPS of ITK."""

GRIDS = {
    'upright': make_grid(),
    'flipped': make_grid('LPS'),
    'permuted': make_grid('PSR', spacing=(1.0, 2.0, 3.0)),
    'oblique': make_grid('LIA', spacing=(2.0, 1.5, 2.5), oblique=OBLIQUE),
}

Mapper = Callable[[Path, np.ndarray], np.ndarray]


def by_ants(path: Path, points: np.ndarray) -> np.ndarray:
    import ants
    import pandas as pd

    table = pd.DataFrame(points * FLIP, columns=list('xyz'))
    return ants.apply_transforms_to_points(3, table, [str(path)])[list('xyz')].to_numpy() * FLIP


def by_simpleitk(path: Path, points: np.ndarray) -> np.ndarray:
    sitk = pytest.importorskip('SimpleITK')
    transform = sitk.ReadTransform(str(path))
    return FLIP * [transform.TransformPoint(point.tolist()) for point in points * FLIP]


@pytest.mark.filterwarnings('ignore:Reference space not set')
def by_nitransforms(path: Path, points: np.ndarray) -> np.ndarray:
    import nitransforms

    return nitransforms.manip.load(path, fmt='itk').map(points)


READERS: dict[str, tuple[Mapper, float]] = {
    'ants': (by_ants, 1e-3),
    'simpleitk': (by_simpleitk, 1e-3),
    'nitransforms': (by_nitransforms, 1e-2),
}
"""With the tolerance in mm; nitransforms interpolates a field by cubic splines, ITK linearly."""


@pytest.mark.filterwarnings('ignore:Reference space not set')
@pytest.mark.parametrize('affine_first', [False, True], ids=['field-first', 'affine-first'])
@pytest.mark.parametrize('grid', GRIDS.values(), ids=GRIDS.keys())
@pytest.mark.parametrize('reader', READERS)
def test_other_readers_map_points_alike(
    reader: str, grid: VoxelGrid, affine_first: bool, tmp_path: Path
) -> None:
    path = tmp_path / 'x.h5'
    ours = write(path, grid, affine_first=affine_first)
    # The splines of nitransforms need some voxels to forget the border of the field.
    points = random_points(grid, margin=5)
    if affine_first:
        points = Transform(affine=np.linalg.inv(AFFINE)).map_points(points)
    read, tolerance = READERS[reader]
    assert np.abs(read(path, points) - ours.map_points(points)).max() < tolerance


@pytest.mark.parametrize('affine_first', [False, True], ids=['field-first', 'affine-first'])
@pytest.mark.parametrize('reader', ['ants', 'simpleitk'])
def test_itk_agrees_at_the_border_of_the_field_and_beyond(
    reader: str, affine_first: bool, tmp_path: Path
) -> None:
    grid = GRIDS['oblique']
    ours = write(tmp_path / 'x.h5', grid, affine_first=affine_first)
    points = random_points(grid, margin=-12)
    assert not grid.contains(points).all()
    read, tolerance = READERS[reader]
    assert np.abs(read(tmp_path / 'x.h5', points) - ours.map_points(points)).max() < tolerance


def write(path: Path, grid: VoxelGrid, *, affine_first: bool) -> Transform:
    content = {'affine': AFFINE, 'warp': wave_on(grid), 'grid': grid, 'affine_first': affine_first}
    save_composite(path, **content)
    return Transform(**content)


def test_the_order_of_affine_and_field_is_as_documented() -> None:
    """With the field first, the displacement is read at the point, not at its affine image."""
    grid = GRIDS['oblique']
    points = random_points(grid, margin=8)
    field = Transform(warp=wave_on(grid), grid=grid)
    affine = Transform(affine=AFFINE)
    content = {'affine': AFFINE, 'warp': wave_on(grid), 'grid': grid}
    field_first = Transform(**content).map_points(points)
    affine_first = Transform(**content, affine_first=True).map_points(points)
    assert np.allclose(field_first, affine.map_points(field.map_points(points)))
    assert np.allclose(affine_first, field.map_points(affine.map_points(points)))
    assert np.abs(field_first - affine_first).max() > 0.1


@pytest.mark.parametrize('orientation', ORIENTATIONS, ids=lambda o: str(o.ravel().tolist()))
def test_a_transform_is_the_same_in_every_storage_order(
    orientation: np.ndarray, tmp_path: Path
) -> None:
    """All 48 orders of an oblique, anisotropic field agree to 1e-3 mm."""
    original = make_grid(shape=(9, 8, 7), spacing=(6, 8, 9), oblique=OBLIQUE)
    points = random_points(original, 200, margin=-2)
    for affine_first in (False, True):
        expected = write(tmp_path / 'x.h5', original, affine_first=affine_first)
        write(tmp_path / 'y.h5', stored(original, orientation), affine_first=affine_first)
        reordered = load_composite(tmp_path / 'y.h5').map_points(points)
        assert np.abs(reordered - expected.map_points(points)).max() < 1e-3


@pytest.mark.parametrize('affine_first', [False, True], ids=['field-first', 'affine-first'])
def test_a_composite_survives_a_round_trip(affine_first: bool, tmp_path: Path) -> None:
    grid = GRIDS['oblique']
    write(tmp_path / 'x.h5', grid, affine_first=affine_first)
    composite = load_transform(tmp_path / 'x.h5')
    assert composite.affine_first == affine_first
    assert np.allclose(composite.affine, AFFINE)
    assert np.allclose(composite.warp, wave_on(grid), atol=1e-5)
    assert composite.grid.shape == grid.shape
    assert np.allclose(composite.grid.affine, grid.affine)


def test_a_composite_has_the_names_of_itk_4_and_of_itk_5(tmp_path: Path) -> None:
    write(tmp_path / 'x.h5', GRIDS['upright'], affine_first=False)
    with h5py.File(tmp_path / 'x.h5') as file:
        kinds = [file['TransformGroup'][n]['TransformType'][0].decode() for n in '012']
        field = file['TransformGroup/2']
        assert field['TranformParameters'] == field['TransformParameters']
        assert field['TranformFixedParameters'] == field['TransformFixedParameters']
        assert field['TranformParameters'].dtype == np.float64
    assert [kind.removesuffix('_double_3_3') for kind in kinds] == [
        'CompositeTransform',
        'AffineTransform',
        'DisplacementFieldTransform',
    ]


def test_the_same_transform_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in 'ab':
        write(tmp_path / name, GRIDS['upright'], affine_first=False)
    assert (tmp_path / 'a').read_bytes() == (tmp_path / 'b').read_bytes()


def centred_affine() -> object:
    sitk = pytest.importorskip('SimpleITK')
    affine = sitk.AffineTransform(3)
    affine.SetMatrix((np.diag([1.1, 0.9, 1.0]) + 0.05).ravel().tolist())
    affine.SetCenter([10.0, -20.0, 30.0])
    affine.SetTranslation([1.0, 2.0, 3.0])
    return affine


@pytest.mark.parametrize('suffix', ['.txt', '.tfm', '.mat'])
def test_affines_of_itk_are_read(suffix: str, tmp_path: Path) -> None:
    sitk = pytest.importorskip('SimpleITK')
    path = tmp_path / f'x{suffix}'
    sitk.WriteTransform(centred_affine(), str(path))
    points = random_points(GRIDS['oblique'])
    ours = load_transform(path).map_points(points)
    assert np.abs(by_simpleitk(path, points) - ours).max() < 1e-6


@pytest.mark.parametrize('affine_first', [False, True], ids=['field-first', 'affine-first'])
def test_composites_of_itk_are_read(affine_first: bool, tmp_path: Path) -> None:
    sitk = pytest.importorskip('SimpleITK')
    write(tmp_path / 'ours.h5', GRIDS['oblique'], affine_first=affine_first)
    ours = sitk.CompositeTransform(sitk.ReadTransform(str(tmp_path / 'ours.h5')))
    parts = [ours.GetNthTransform(n) for n in range(2)]
    parts[1 if affine_first else 0] = centred_affine()
    path = tmp_path / 'theirs.h5'
    sitk.WriteTransform(sitk.CompositeTransform(parts), str(path))
    points = random_points(GRIDS['oblique'], margin=-5)
    assert (
        np.abs(by_simpleitk(path, points) - load_composite(path).map_points(points)).max() < 1e-6
    )


def test_other_readers_read_our_affine(tmp_path: Path) -> None:
    import nitransforms

    path = tmp_path / 'x.txt'
    save_affine(path, AFFINE)
    assert np.allclose(load_affine(path), AFFINE, atol=1e-12)
    points = random_points(GRIDS['oblique'])
    ours = Transform(affine=AFFINE).map_points(points)
    assert np.abs(by_ants(path, points) - ours).max() < 1e-3
    assert np.abs(by_simpleitk(path, points) - ours).max() < 1e-6
    theirs = nitransforms.linear.load(path, fmt='itk').map(points)
    assert np.abs(theirs - ours).max() < 1e-3


def test_a_field_on_a_sheared_grid_is_refused(tmp_path: Path) -> None:
    grid = sheared()
    with pytest.raises(InputError, match=r'x\.h5.*sheared'):
        save_composite(
            tmp_path / 'x.h5', affine=AFFINE, warp=np.zeros((3, *grid.shape)), grid=grid
        )
    assert list(tmp_path.iterdir()) == []


def test_a_field_of_another_shape_than_its_grid_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='shape'):
        save_composite(
            tmp_path / 'x.h5', affine=AFFINE, warp=np.zeros((3, 2, 2, 2)), grid=GRIDS['upright']
        )
    with pytest.raises(ValueError, match='shape'):
        Transform(warp=np.zeros((3, 2, 2, 2)), grid=GRIDS['upright'])
    with pytest.raises(ValueError, match='shape'):
        Transform(warp=np.zeros((3, 2, 2, 2)))


def two_affines(path: Path) -> None:
    sitk = pytest.importorskip('SimpleITK')
    pair = sitk.CompositeTransform([sitk.AffineTransform(3), sitk.AffineTransform(3)])
    sitk.WriteTransform(pair, str(path))


def not_linear(path: Path) -> None:
    path.write_text(
        '#Insight Transform File V1.0\n#Transform 0\nTransform: TranslationTransform_double_3_3\n'
        'Parameters: 1 2 3\nFixedParameters:\n'
    )


def of_two_dimensions(path: Path) -> None:
    path.write_text(
        '#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_2_2\n'
        'Parameters: 1 0 0 1 0 0\nFixedParameters: 0 0\n'
    )


def empty_hdf5(path: Path) -> None:
    h5py.File(path, 'w').close()


@pytest.mark.parametrize(
    ('name', 'make'),
    [
        ('absent.h5', lambda path: None),
        ('absent.txt', lambda path: None),
        ('text.h5', lambda path: path.write_text('no transform')),
        ('empty.h5', empty_hdf5),
        ('pair.h5', two_affines),
        ('pair.txt', two_affines),
        ('empty.txt', Path.touch),
        ('noise.txt', lambda path: path.write_bytes(bytes(range(256)))),
        ('noise.mat', lambda path: path.write_bytes(bytes(range(256)))),
        ('shift.txt', not_linear),
        ('flat.txt', of_two_dimensions),
    ],
)
def test_the_error_names_an_unusable_transform_file(
    name: str, make: Callable[[Path], None], tmp_path: Path
) -> None:
    make(tmp_path / name)
    with pytest.raises(InputError, match=name):
        load_transform(tmp_path / name)

"""The affine between a brain and the template."""

from __future__ import annotations

import numpy as np
import pytest
from nibabel.affines import apply_affine
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from scipy.spatial.transform import Rotation

from deepreg_wf.affine import align, check_alignment, similarity
from deepreg_wf.affine.brain import Brain
from deepreg_wf.affine.refine import SLOPPY, refine
from deepreg_wf.affine.start import centred_start, even_rotations, search_starts
from deepreg_wf.errors import InputError
from deepreg_wf.interfaces.affine import AffineAlign
from deepreg_wf.spatial import VoxelGrid, load_affine, load_image, resample, save_image
from deepreg_wf.templates import BUNDLED, get_template


def affine_of(*, rotation=(0, 0, 0), scale=(1, 1, 1), shear=0.0, translation=(0, 0, 0)):
    """Affine from the template to a subject: degrees, factors, mm."""
    matrix = np.eye(4)
    sheared = np.diag(scale).astype(float)
    sheared[0, 1] = shear
    matrix[:3, :3] = Rotation.from_euler('xyz', rotation, degrees=True).as_matrix() @ sheared
    matrix[:3, 3] = translation
    return matrix


MODERATE = affine_of(
    rotation=(12, -7, 9), scale=(0.93, 1.08, 0.97), shear=0.06, translation=(18, -25, 12)
)


@pytest.fixture(scope='module')
def template(tmp_path_factory):
    path = get_template(BUNDLED, cache_dir=tmp_path_factory.mktemp('cache')).t1w
    data, grid = load_image(path)
    return data, data > 0, grid


def error(found, truth, template):
    """Distances in mm between where two affines send the voxels of the template's brain."""
    _, mask, grid = template
    points = grid.to_mm(np.argwhere(mask)[::500])
    return np.linalg.norm(apply_affine(found, points) - apply_affine(truth, points), axis=1)


def scan(template, truth, spacing=(0.9, 0.9, 1.3)):
    """Scan the template, moved by an affine, on a grid of its own, with noise and bias."""
    data, mask, grid = template
    moved = VoxelGrid(grid.shape, truth @ grid.affine)
    points = moved.to_mm(np.argwhere(mask)[::50])
    low, high = points.min(axis=0) - 8, points.max(axis=0) + 8
    affine = np.diag([-spacing[0], spacing[1], spacing[2], 1.0])
    affine[:3, 3] = high[0], low[1], low[2]
    target = VoxelGrid(np.ceil((high - low) / spacing).astype(int).tolist(), affine)
    brain, inside = (
        resample(part.astype(np.float32), moved, target) for part in (data / data.max(), mask)
    )
    rng = np.random.default_rng(0)
    bias = np.exp(0.2 * np.linspace(-1, 1, target.shape[1]))[:, np.newaxis]
    noisy = brain * bias + 0.04 * rng.standard_normal(target.shape)
    return noisy.astype(np.float32), inside > 0.5, target


def test_a_known_affine_is_found_to_half_a_millimetre(template):
    found = align(scan(template, MODERATE), template)
    assert found.start == 'header'
    assert found.similarity > found.similarity_before
    distances = error(found.affine, MODERATE, template)
    assert distances.mean() < 0.5
    assert distances.max() < 1


def test_a_sheared_header_is_believed(template):
    data, mask, grid = template
    moved = VoxelGrid(grid.shape, MODERATE @ grid.affine)
    found = align((data, mask, moved), template, sloppy=True)
    assert error(found.affine, MODERATE, template).mean() < 0.5


def test_the_storage_order_does_not_matter(make_brain):
    image = make_brain()
    brains = []
    for orientation in ('RAS', 'LIP', 'SPL'):
        turn = ornt_transform(io_orientation(image.affine), axcodes2ornt(orientation))
        stored = image.as_reoriented(turn)
        data = stored.get_fdata(dtype=np.float32)
        brains.append(Brain.from_image(data, data > 0, VoxelGrid.from_image(stored), 4.0))
    first, *others = brains
    for other in others:
        assert other.grid == first.grid
        np.testing.assert_allclose(other.data, first.data, atol=1e-5)


@pytest.fixture(scope='module')
def small(template):
    """The template and a moved copy of it, on grids that are registered in a second."""
    data, mask, grid = template
    moved = VoxelGrid(grid.shape, MODERATE @ grid.affine)
    return Brain.from_image(data, mask, moved, 4.0), Brain.from_image(data, mask, grid, 4.0)


def test_the_same_seed_gives_the_same_bits(small):
    start = centred_start(*small)
    first, again = (refine(*small, start, seed=0, levels=SLOPPY) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    other = refine(*small, start, seed=1, levels=SLOPPY)
    assert not np.array_equal(first, other)


@pytest.mark.slow
def test_a_wrong_header_is_noticed_whatever_the_number_of_threads(template):
    data, mask, grid = template
    turned = affine_of(rotation=(180, 20, 70), translation=(80, -60, 40))
    moved = data, mask, VoxelGrid(grid.shape, turned @ grid.affine)
    first, again = (align(moved, template, num_threads=threads) for threads in (1, 2))
    assert first.start == 'search'
    assert error(first.affine, turned, template).mean() < 0.5
    np.testing.assert_array_equal(first.affine, again.affine)


def test_the_search_finds_how_a_brain_is_turned(template):
    data, mask, grid = template
    turned = affine_of(rotation=(180, 20, 70), translation=(80, -60, 40))
    moving = Brain.from_image(data, mask, VoxelGrid(grid.shape, turned @ grid.affine), 8.0)
    best, *others = search_starts(moving, Brain.from_image(data, mask, grid, 8.0), 3)
    assert len(others) == 2
    off = Rotation.from_matrix(best[:3, :3] @ turned[:3, :3].T).magnitude()
    assert np.rad2deg(off) < 30


def test_no_rotation_is_far_from_those_tried():
    tried = even_rotations(480).as_quat()
    wanted = Rotation.random(2000, random_state=0).as_quat()
    nearest = np.abs(wanted @ tried.T).max(axis=1)
    assert np.rad2deg(2 * np.arccos(nearest.min())) < 30


def test_the_start_brings_centres_and_volumes_together(small):
    moving, fixed = small
    start = centred_start(moving, fixed)
    np.testing.assert_allclose(apply_affine(start, fixed.centre), moving.centre)
    assert np.linalg.det(start) == pytest.approx(np.linalg.det(MODERATE), rel=0.01)


def test_similarity_is_one_for_the_same_brain_and_less_for_a_moved_one(small):
    moving, fixed = small
    assert similarity(fixed, fixed, np.eye(4)) == pytest.approx(1)
    assert similarity(moving, fixed, MODERATE) > 0.98
    assert similarity(fixed, fixed, affine_of(translation=(12, 0, 0))) < 0.9


@pytest.mark.parametrize(
    ('affine', 'correlation', 'words'),
    [
        (np.eye(4), 0.6, 'correlation 0.60'),
        (affine_of(scale=(0.6, 0.6, 0.6)), 0.9, 'volumes differ'),
        (affine_of(scale=(-1, 1, 1)), 0.9, 'volumes differ'),
        (affine_of(scale=(1.9, 1, 1)), 0.9, 'sizes differ'),
        (affine_of(scale=(1.4, 1, 0.8)), 0.9, 'stretches by 1.7'),
        (affine_of(shear=0.8), 0.9, 'stretches'),
    ],
)
def test_what_no_two_brains_have_between_them_is_refused(affine, correlation, words):
    with pytest.raises(InputError, match=words):
        check_alignment(affine, correlation)


def test_what_two_brains_can_have_between_them_is_not_refused():
    check_alignment(MODERATE, 0.85)
    check_alignment(affine_of(rotation=(180, 0, 90), scale=(0.75, 0.75, 0.75)), 0.85)


@pytest.fixture
def files(template, tmp_path):
    """Files of a coarse template and of a moved scan of it."""
    _, fixed = (Brain.from_image(*template, spacing) for spacing in (4.0, 4.0))
    moved = VoxelGrid(fixed.grid.shape, MODERATE @ fixed.grid.affine)
    for name, grid in (('moving', moved), ('fixed', fixed.grid)):
        save_image(tmp_path / f'{name}_image.nii.gz', fixed.data, grid)
        save_image(tmp_path / f'{name}_mask.nii.gz', fixed.mask, grid, np.uint8)
    (tmp_path / 'node').mkdir()
    names = ('moving_image', 'moving_mask', 'fixed_image', 'fixed_mask')
    return {name: str(tmp_path / f'{name}.nii.gz') for name in names}


def test_the_interface_writes_the_affine_and_the_aligned_brain(files, template, tmp_path):
    outputs = AffineAlign(**files, sloppy=True).run(cwd=tmp_path / 'node').outputs
    assert error(load_affine(outputs.affine), MODERATE, template).mean() < 1
    aligned, grid = load_image(outputs.out_file)
    fixed, fixed_grid = load_image(files['fixed_image'])
    assert grid == fixed_grid
    inside = load_image(outputs.out_mask)[0] > 0
    assert (aligned[~inside] == 0).all()
    assert np.corrcoef(aligned[inside], fixed[inside])[0, 1] > 0.9


@pytest.mark.slow
def test_the_interface_refuses_what_is_no_brain_by_the_name_of_the_raw_image(files, tmp_path):
    data, grid = load_image(files['moving_image'])
    centre = np.asarray(grid.shape)[:, np.newaxis, np.newaxis, np.newaxis] / 2
    ball = (((np.indices(grid.shape) - centre) * 4) ** 2).sum(axis=0) < 70**2
    save_image(files['moving_image'], ball * (1 + 0.1 * data), grid)
    save_image(files['moving_mask'], ball, grid, np.uint8)
    node = AffineAlign(**files, sloppy=True, source_file='sub-01_T1w.nii.gz')
    with pytest.raises(InputError, match='sub-01_T1w.nii.gz: the affine registration'):
        node.run(cwd=tmp_path / 'node')

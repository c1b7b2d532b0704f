"""The affine between a brain and the template."""

from __future__ import annotations

import numpy as np
import pytest
from nibabel.affines import apply_affine
from nibabel.orientations import (
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)
from scipy.spatial.transform import Rotation

from deepreg_wf.affine.align import LADDERS, Alignment, align
from deepreg_wf.affine.brain import Brain
from deepreg_wf.affine.gauss_newton import COARSE, SLOPPY, refine
from deepreg_wf.affine.initialise import centred_start, even_rotations, search
from deepreg_wf.affine.network_start import learned_start
from deepreg_wf.affine.plausibility import check_alignment
from deepreg_wf.affine.similarity import overlap, similarity
from deepreg_wf.errors import InputError
from deepreg_wf.interfaces.affine import AffineAlign
from deepreg_wf.interfaces.checks import StopOnDoubt
from deepreg_wf.settings import AFFINE_METHODS
from deepreg_wf.spatial import VoxelGrid, load_affine, load_image, resample, save_image
from deepreg_wf.templates.spaces import BUNDLED
from deepreg_wf.templates.template import get_template
from deepreg_wf.workflows.affine import init_affine_wf


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


def test_a_known_affine_is_found_to_a_quarter_of_a_millimetre(template):
    found = align(scan(template, MODERATE), template)
    assert found.similarity > found.similarity_before
    assert found.overlap > 0.95
    distances = error(found.affine, MODERATE, template)
    # A tenth of the voxels of 3 mm on which the brains are compared.
    assert distances.mean() < 0.3
    assert distances.max() < 0.6


def test_a_sheared_header_is_believed(template):
    data, mask, grid = template
    moved = VoxelGrid(grid.shape, MODERATE @ grid.affine)
    found = align((data, mask, moved), template, sloppy=True)
    assert error(found.affine, MODERATE, template).mean() < 0.4


@pytest.mark.parametrize('orientation', ['LPS', 'PSR', 'IRA', 'SLP'])
def test_the_storage_order_does_not_matter(template, orientation):
    data, mask, grid = scan(template, MODERATE, spacing=(2.0, 2.0, 2.0))
    own = io_orientation(grid.affine)
    turn = ornt_transform(own, axcodes2ornt(orientation))
    turned = VoxelGrid(
        apply_orientation(data, turn).shape, grid.affine @ inv_ornt_aff(turn, grid.shape)
    )
    assert turned.orientation == orientation
    stored = apply_orientation(data, turn), apply_orientation(mask, turn), turned
    first, again = (align(image, template, sloppy=True) for image in ((data, mask, grid), stored))
    assert error(first.affine, again.affine, template).max() < 1e-3


@pytest.fixture(scope='module')
def small(template):
    """The template and a moved copy of it, on grids that are registered in a second."""
    data, mask, grid = template
    moved = VoxelGrid(grid.shape, MODERATE @ grid.affine)
    return Brain.from_image(data, mask, moved, 4.0), Brain.from_image(data, mask, grid, 4.0)


def test_the_same_input_gives_the_same_bits(small):
    start = centred_start(*small)
    first, again = (refine(*small, start, COARSE) for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_refining_reaches_the_same_place_from_all_around(small):
    moving, fixed = small
    found = []
    for angles in ((0, 0, 0), (25, 0, 0), (0, -25, 0), (10, 15, -20)):
        turn = Rotation.from_euler('xyz', angles, degrees=True).as_matrix()
        found.append(refine(moving, fixed, centred_start(moving, fixed, turn), COARSE + SLOPPY))
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=1e-2)


def test_refining_never_mirrors(small):
    moving, fixed = small
    flip = np.diag([-1.0, 1.0, 1.0, 1.0])
    for start in (centred_start(*small), centred_start(*small) @ flip):
        found = refine(moving, fixed, start, COARSE)
        assert np.sign(np.linalg.det(found)) == np.sign(np.linalg.det(start))


def test_where_nothing_is_alike_the_start_is_kept_within_reason(small):
    moving, fixed = small
    noise = np.random.default_rng(0).random(moving.data.shape, dtype=np.float32)
    nothing = Brain(data=noise * moving.mask, mask=moving.mask, grid=moving.grid)
    start = centred_start(nothing, fixed, Rotation.from_euler('x', 90, degrees=True).as_matrix())
    volume = np.linalg.det(refine(nothing, fixed, start, COARSE)) / np.linalg.det(start)
    assert 1 / 3 < volume < 3


@pytest.mark.parametrize(
    'turned',
    [
        affine_of(rotation=(180, 20, 70), translation=(80, -60, 40)),
        affine_of(rotation=(-90, 0, 90), scale=(1.3, 1.3, 1.3)),
        affine_of(rotation=(30, 160, -45), scale=(0.75, 0.7, 0.72), translation=(0, 0, 100)),
    ],
)
def test_the_network_sees_how_a_brain_is_turned(template, turned):
    data, mask, grid = template
    brains = [
        Brain.from_image(data, mask, own, 3.0)
        for own in (VoxelGrid(grid.shape, turned @ grid.affine), grid)
    ]
    # Near enough for what follows, which reaches further than 25 degrees.
    distances = error(learned_start(*brains), turned, template)
    assert distances.mean() < 10 * np.cbrt(np.linalg.det(turned))
    found = align(
        (data, mask, VoxelGrid(grid.shape, turned @ grid.affine)), template, method='icstn'
    )
    assert found.start == 'network'
    # Of the size of the brain itself, a tenth of a voxel and what resampling adds.
    assert error(found.affine, turned, template).mean() < 0.5


@pytest.mark.slow
def test_a_wrong_header_is_noticed_without_the_network_too(template):
    data, mask, grid = template
    turned = affine_of(rotation=(180, 20, 70), translation=(80, -60, 40))
    moved = data, mask, VoxelGrid(grid.shape, turned @ grid.affine)
    found = align(moved, template, method='classical')
    assert found.start == 'search'
    assert error(found.affine, turned, template).mean() < 0.3


def test_the_search_finds_how_a_brain_is_turned(template):
    data, mask, grid = template
    turned = affine_of(rotation=(180, 20, 70), translation=(80, -60, 40))
    moving = Brain.from_image(data, mask, VoxelGrid(grid.shape, turned @ grid.affine), 6.0)
    best = search(moving, Brain.from_image(data, mask, grid, 6.0))
    assert error(best, turned, template).mean() < 2


def test_an_unknown_method_is_refused(template):
    with pytest.raises(ValueError, match='method must be one of'):
        align(template, template, method='magic')


def test_the_settings_offer_what_there_is():
    assert set(AFFINE_METHODS) == set(LADDERS)
    for method in AFFINE_METHODS:
        assert 'affine' in init_affine_wf(method=method).visit_desc()


def test_the_turn_of_a_brain_is_that_of_its_header():
    turned = affine_of(rotation=(0, 0, 150), scale=(0.9, 1.1, 0.8), shear=0.1)
    assert alignment(turned).turn == pytest.approx(150, abs=4)
    assert alignment(np.eye(4)).turn == pytest.approx(0, abs=1e-6)


def test_a_mirrored_brain_is_told_of_and_not_mirrored_back(template):
    data, mask, grid = template
    # The template is symmetric: a dark half makes it tell left from right.
    left = grid.to_mm(np.moveaxis(np.indices(grid.shape), 0, -1))[..., 0] < 0
    marked = np.where(left, 0.6 * data, data)
    mirrored = VoxelGrid(grid.shape, np.diag([-1.0, 1, 1, 1]) @ grid.affine)
    fixed = marked, mask, grid
    right = align(fixed, fixed, mirror=True, sloppy=True)
    wrong = align((marked, mask, mirrored), fixed, mirror=True, sloppy=True)
    assert right.similarity > right.mirrored
    assert wrong.mirrored > wrong.similarity
    assert np.linalg.det(wrong.affine) > 0


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
    assert similarity(fixed, fixed, affine_of(translation=(12, 0, 0))) < 0.5


def test_the_overlap_of_the_masks_counts_what_lies_outside(small):
    moving, fixed = small
    assert overlap(fixed, fixed, np.eye(4)) == pytest.approx(1)
    assert overlap(moving, fixed, MODERATE) > 0.97
    assert overlap(fixed, fixed, affine_of(translation=(1000, 0, 0))) == 0
    # A brain of half the size within the other: 2 / (1 + 8).
    assert overlap(fixed, fixed, affine_of(scale=(0.5, 0.5, 0.5))) < 0.5


def test_bias_and_contrast_hardly_change_the_similarity(small):
    _, fixed = small
    ramp = np.exp(0.5 * np.linspace(-1, 1, fixed.data.shape[1], dtype=np.float32))[:, np.newaxis]
    changed = Brain(data=0.4 * (fixed.data * ramp) ** 1.3, mask=fixed.mask, grid=fixed.grid)
    assert similarity(changed, fixed, np.eye(4)) > 0.95


def alignment(affine=MODERATE, correlation=0.9, dice=0.95):
    return Alignment(
        affine=affine,
        start='header',
        offset=5.0,
        similarity_before=0.5,
        similarity=correlation,
        overlap=dice,
        mirrored=correlation,
    )


@pytest.mark.parametrize(
    ('doubtful', 'words'),
    [
        (alignment(correlation=0.4), 'correlation 0.40'),
        (alignment(correlation=np.nan), 'correlation nan'),
        (alignment(dice=0.7), 'masks overlap by 0.70'),
        (alignment(affine_of(scale=(0.6, 0.6, 0.6))), 'volumes differ'),
        (alignment(affine_of(scale=(-1, 1, 1))), 'volumes differ'),
        (alignment(affine_of(scale=(1.9, 1, 1))), 'sizes differ'),
        (alignment(affine_of(scale=(1.4, 1, 0.8))), 'stretches by 1.7'),
        (alignment(affine_of(shear=0.8)), 'stretches'),
    ],
)
def test_what_no_two_brains_have_between_them_is_refused(doubtful, words):
    with pytest.raises(InputError, match=words):
        check_alignment(doubtful)


def test_what_two_brains_can_have_between_them_is_not_refused():
    check_alignment(alignment())
    check_alignment(alignment(affine_of(rotation=(180, 0, 90), scale=(0.75, 0.75, 0.75))))


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
def test_the_interface_doubts_what_is_no_brain_and_shows_it(files, tmp_path):
    data, grid = load_image(files['moving_image'])
    centre = np.asarray(grid.shape)[:, np.newaxis, np.newaxis, np.newaxis] / 2
    ball = (((np.indices(grid.shape) - centre) * 4) ** 2).sum(axis=0) < 70**2
    noise = np.random.default_rng(0).random(data.shape, dtype=np.float32)
    save_image(files['moving_image'], ball * (1 + 0.1 * noise), grid)
    save_image(files['moving_mask'], ball, grid, np.uint8)
    outputs = AffineAlign(**files, sloppy=True).run(cwd=tmp_path / 'node').outputs
    assert 'the affine registration with the template failed' in outputs.doubt
    assert load_image(outputs.out_file)[0].any()


def test_doubt_ends_the_way_of_an_image_by_its_name(files):
    passed = StopOnDoubt(in_file=files['moving_mask'], doubt='').run().outputs.out_file
    assert passed == files['moving_mask']
    stop = StopOnDoubt(in_file=passed, doubt='it is no brain.', source_file='sub-01_T1w.nii.gz')
    with pytest.raises(InputError, match=r'^sub-01_T1w\.nii\.gz: it is no brain\.$'):
        stop.run()

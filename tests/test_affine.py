"""Tests of the affine registration of a brain with the template."""

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
from nipype.interfaces.base import isdefined
from scipy.spatial.transform import Rotation
from traits.api import TraitError

from deepreg_wf.affine.align import START_SEQUENCES, Alignment, align
from deepreg_wf.affine.brain import Brain
from deepreg_wf.affine.gauss_newton import COARSE, SLOPPY, cauchy_weights, refine
from deepreg_wf.affine.initialise import (
    centred_start,
    network_start,
    search_start,
    super_fibonacci_rotations,
)
from deepreg_wf.affine.localisation_net import LocalisationNet, save_localisation_net
from deepreg_wf.affine.plausibility import check_alignment
from deepreg_wf.affine.similarity import overlap, similarity
from deepreg_wf.errors import InputError
from deepreg_wf.interfaces.affine import AffineAlign
from deepreg_wf.interfaces.checks import RaiseIfImplausible
from deepreg_wf.settings import AFFINE_METHODS, Registration
from deepreg_wf.spatial import VoxelGrid, load_affine, load_image, resample, save_image
from deepreg_wf.templates.locate import get_template
from deepreg_wf.templates.spaces import BUNDLED
from deepreg_wf.workflows.affine import init_affine_wf


def make_affine(*, rotation=(0, 0, 0), scale=(1, 1, 1), shear=0.0, translation=(0, 0, 0)):
    """Make an affine from the template to a participant, from degrees, factors and mm."""
    matrix = np.eye(4)
    sheared = np.diag(scale).astype(float)
    sheared[0, 1] = shear
    matrix[:3, :3] = Rotation.from_euler('xyz', rotation, degrees=True).as_matrix() @ sheared
    matrix[:3, 3] = translation
    return matrix


MODERATE = make_affine(
    rotation=(12, -7, 9), scale=(0.93, 1.08, 0.97), shear=0.06, translation=(18, -25, 12)
)


@pytest.fixture(scope='module')
def template(tmp_path_factory):
    path = get_template(BUNDLED, cache_dir=tmp_path_factory.mktemp('cache')).t1w
    data, grid = load_image(path)
    return data, data > 0, grid


def errors_mm(found, truth, template):
    """Return the distances between the images of the template's brain under two affines."""
    _, mask, grid = template
    points = grid.to_mm(np.argwhere(mask)[::500])
    return np.linalg.norm(apply_affine(found, points) - apply_affine(truth, points), axis=1)


def resampled_copy(template, truth, spacing=(0.9, 0.9, 1.3)):
    """Resample the moved template to another grid and add noise and bias."""
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


def test_known_affine_is_recovered(template):
    found = align(resampled_copy(template, MODERATE), template)
    assert found.similarity > found.similarity_before
    assert found.overlap > 0.95
    distances = errors_mm(found.affine, MODERATE, template)
    # A tenth of the voxels of 3 mm on which the brains are compared.
    assert distances.mean() < 0.3
    assert distances.max() < 0.6


def test_shear_in_the_header_is_kept(template):
    data, mask, grid = template
    moved = VoxelGrid(grid.shape, MODERATE @ grid.affine)
    found = align((data, mask, moved), template, sloppy=True)
    assert errors_mm(found.affine, MODERATE, template).mean() < 0.4


@pytest.mark.parametrize('orientation', ['LPS', 'PSR', 'IRA', 'SLP'])
def test_affine_is_independent_of_the_storage_order(template, orientation):
    data, mask, grid = resampled_copy(template, MODERATE, spacing=(2.0, 2.0, 2.0))
    own = io_orientation(grid.affine)
    reorientation = ornt_transform(own, axcodes2ornt(orientation))
    stored_grid = VoxelGrid(
        apply_orientation(data, reorientation).shape,
        grid.affine @ inv_ornt_aff(reorientation, grid.shape),
    )
    assert stored_grid.orientation == orientation
    arrays = (apply_orientation(array, reorientation) for array in (data, mask))
    stored = (*arrays, stored_grid)
    first, again = (align(image, template, sloppy=True) for image in ((data, mask, grid), stored))
    assert errors_mm(first.affine, again.affine, template).max() < 1e-3


@pytest.fixture(scope='module')
def small(template):
    """Return a moved copy of the template and the template, on grids that register quickly."""
    data, mask, grid = template
    moved = VoxelGrid(grid.shape, MODERATE @ grid.affine)
    return Brain.from_image(data, mask, moved, 4.0), Brain.from_image(data, mask, grid, 4.0)


def test_refinement_is_deterministic(small):
    start = centred_start(*small)
    first, again = (refine(*small, start, COARSE) for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_refinement_converges_to_the_same_affine_from_several_starts(small):
    moving, fixed = small
    found = []
    for angles in ((0, 0, 0), (25, 0, 0), (0, -25, 0), (10, 15, -20)):
        rotation = Rotation.from_euler('xyz', angles, degrees=True).as_matrix()
        start = centred_start(moving, fixed, rotation)
        found.append(refine(moving, fixed, start, COARSE + SLOPPY))
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=1e-2)


def test_cauchy_weight_is_one_half_at_two_robust_deviations():
    residuals = np.random.default_rng(0).standard_normal(100_000)
    weights = cauchy_weights(np.append(residuals, [0.0, 2.0, 100.0]))
    np.testing.assert_allclose(weights[-3:], [1.0, 0.5, 4e-4], atol=0.01)


def test_refinement_keeps_the_sign_of_the_determinant(small):
    moving, fixed = small
    flip = np.diag([-1.0, 1.0, 1.0, 1.0])
    for start in (centred_start(*small), centred_start(*small) @ flip):
        found = refine(moving, fixed, start, COARSE)
        assert np.sign(np.linalg.det(found)) == np.sign(np.linalg.det(start))


def test_refinement_of_unlike_images_keeps_the_volume_within_limits(small):
    moving, fixed = small
    noise = np.random.default_rng(0).random(moving.data.shape, dtype=np.float32)
    unlike = Brain(data=noise * moving.mask, mask=moving.mask, grid=moving.grid)
    start = centred_start(unlike, fixed, Rotation.from_euler('x', 90, degrees=True).as_matrix())
    volume = np.linalg.det(refine(unlike, fixed, start, COARSE)) / np.linalg.det(start)
    assert 1 / 3 < volume < 3


@pytest.mark.parametrize(
    'turned',
    [
        make_affine(rotation=(180, 20, 70), translation=(80, -60, 40)),
        make_affine(rotation=(-90, 0, 90), scale=(1.3, 1.3, 1.3)),
        make_affine(rotation=(30, 160, -45), scale=(0.75, 0.7, 0.72), translation=(0, 0, 100)),
    ],
)
def test_network_estimates_the_orientation(template, turned):
    data, mask, grid = template
    brains = [
        Brain.from_image(data, mask, own, 3.0)
        for own in (VoxelGrid(grid.shape, turned @ grid.affine), grid)
    ]
    # Within the capture range of the refinement, which is more than 25 degrees.
    distances = errors_mm(network_start(*brains), turned, template)
    assert distances.mean() < 10 * np.cbrt(np.linalg.det(turned))
    found = align(
        (data, mask, VoxelGrid(grid.shape, turned @ grid.affine)), template, method='icstn'
    )
    assert found.start == 'network'
    # A tenth of a voxel, and the error of the resampling.
    assert errors_mm(found.affine, turned, template).mean() < 0.5


def test_network_of_a_file_is_used(small, tmp_path):
    """A network that answers with the identity leaves the centres and volumes matched."""
    network = LocalisationNet(volume=2e6).eval()
    save_localisation_net(network, tmp_path / 'affine.safetensors', {})
    found = network_start(*small, weights=tmp_path / 'affine.safetensors')
    np.testing.assert_allclose(found, centred_start(*small), atol=0.5)
    assert np.abs(network_start(*small) - found).max() > 0.5


@pytest.mark.slow
def test_wrong_header_is_corrected_without_the_network(template):
    data, mask, grid = template
    turned = make_affine(rotation=(180, 20, 70), translation=(80, -60, 40))
    moved = data, mask, VoxelGrid(grid.shape, turned @ grid.affine)
    found = align(moved, template, method='classical')
    assert found.start == 'search'
    assert errors_mm(found.affine, turned, template).mean() < 0.3


def test_search_finds_the_orientation(template):
    data, mask, grid = template
    turned = make_affine(rotation=(180, 20, 70), translation=(80, -60, 40))
    moving = Brain.from_image(data, mask, VoxelGrid(grid.shape, turned @ grid.affine), 6.0)
    best = search_start(moving, Brain.from_image(data, mask, grid, 6.0))
    assert errors_mm(best, turned, template).mean() < 2


def test_unknown_method_raises_an_error(template):
    with pytest.raises(ValueError, match='method must be one of'):
        align(template, template, method='magic')


def test_interface_refuses_an_unknown_method():
    with pytest.raises(TraitError, match='method'):
        AffineAlign(method='magic')
    assert AffineAlign().inputs.method == 'auto'


def test_settings_list_the_affine_methods():
    assert set(AFFINE_METHODS) == set(START_SEQUENCES)
    for method in AFFINE_METHODS:
        assert (
            'affine'
            in init_affine_wf(registration=Registration(affine_method=method)).visit_desc()
        )


def test_rotation_of_a_brain_by_its_header():
    turned = make_affine(rotation=(0, 0, 150), scale=(0.9, 1.1, 0.8), shear=0.1)
    assert alignment(turned).rotation_deg == pytest.approx(150, abs=4)
    assert alignment(np.eye(4)).rotation_deg == pytest.approx(0, abs=1e-6)


def test_mirrored_brain_is_reported_and_not_mirrored_back(template):
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


def test_super_fibonacci_rotations_cover_all_rotations():
    tried = super_fibonacci_rotations(480).as_quat()
    wanted = Rotation.random(2000, random_state=0).as_quat()
    nearest = np.abs(wanted @ tried.T).max(axis=1)
    assert np.rad2deg(2 * np.arccos(nearest.min())) < 30


def test_centred_start_matches_centres_and_volumes(small):
    moving, fixed = small
    start = centred_start(moving, fixed)
    np.testing.assert_allclose(apply_affine(start, fixed.centre), moving.centre)
    assert np.linalg.det(start) == pytest.approx(np.linalg.det(MODERATE), rel=0.01)


def test_similarity_is_one_for_the_same_brain_and_less_for_a_moved_one(small):
    moving, fixed = small
    assert similarity(fixed, fixed, np.eye(4)) == pytest.approx(1)
    assert similarity(moving, fixed, MODERATE) > 0.98
    assert similarity(fixed, fixed, make_affine(translation=(12, 0, 0))) < 0.5


def test_overlap_includes_voxels_outside_of_the_fixed_grid(small):
    moving, fixed = small
    assert overlap(fixed, fixed, np.eye(4)) == pytest.approx(1)
    assert overlap(moving, fixed, MODERATE) > 0.97
    assert overlap(fixed, fixed, make_affine(translation=(1000, 0, 0))) == 0
    # A brain of half the size within the other: 2 / (1 + 8).
    assert overlap(fixed, fixed, make_affine(scale=(0.5, 0.5, 0.5))) < 0.5


def test_similarity_is_robust_to_bias_and_contrast(small):
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
    ('implausible', 'words'),
    [
        (alignment(correlation=0.4), 'correlation 0.40'),
        (alignment(correlation=np.nan), 'correlation nan'),
        (alignment(dice=0.7), 'masks overlap by 0.70'),
        (alignment(make_affine(scale=(0.6, 0.6, 0.6))), 'volumes differ'),
        (alignment(make_affine(scale=(-1, 1, 1))), 'volumes differ'),
        (alignment(make_affine(scale=(1.9, 1, 1))), 'sizes differ'),
        (alignment(make_affine(scale=(1.4, 1, 0.8))), 'stretched by 1.7'),
        (alignment(make_affine(shear=0.8)), 'stretched'),
    ],
)
def test_implausible_affine_is_refused(implausible, words):
    with pytest.raises(InputError, match=words):
        check_alignment(implausible)


def test_plausible_affine_is_accepted():
    check_alignment(alignment())
    check_alignment(alignment(make_affine(rotation=(180, 0, 90), scale=(0.75, 0.75, 0.75))))


@pytest.fixture
def files(template, tmp_path):
    """Write a coarse template and a moved copy of it."""
    _, fixed = (Brain.from_image(*template, spacing) for spacing in (4.0, 4.0))
    moved = VoxelGrid(fixed.grid.shape, MODERATE @ fixed.grid.affine)
    for name, grid in (('moving', moved), ('fixed', fixed.grid)):
        save_image(tmp_path / f'{name}_image.nii.gz', fixed.data, grid)
        save_image(tmp_path / f'{name}_mask.nii.gz', fixed.mask, grid, np.uint8)
    (tmp_path / 'node').mkdir()
    names = ('moving_image', 'moving_mask', 'fixed_image', 'fixed_mask')
    return {name: str(tmp_path / f'{name}.nii.gz') for name in names}


def test_interface_writes_the_affine_and_the_aligned_brain(files, template, tmp_path):
    outputs = AffineAlign(**files, sloppy=True).run(cwd=tmp_path / 'node').outputs
    assert not isdefined(outputs.problem)
    assert errors_mm(load_affine(outputs.affine), MODERATE, template).mean() < 1
    aligned, grid = load_image(outputs.out_file)
    fixed, fixed_grid = load_image(files['fixed_image'])
    assert grid == fixed_grid
    inside = load_image(outputs.out_mask)[0] > 0
    assert (aligned[~inside] == 0).all()
    assert np.corrcoef(aligned[inside], fixed[inside])[0, 1] > 0.9


@pytest.mark.slow
def test_interface_reports_an_implausible_affine_and_writes_its_results(files, tmp_path):
    data, grid = load_image(files['moving_image'])
    centre = np.asarray(grid.shape)[:, np.newaxis, np.newaxis, np.newaxis] / 2
    ball = (((np.indices(grid.shape) - centre) * 4) ** 2).sum(axis=0) < 70**2
    noise = np.random.default_rng(0).random(data.shape, dtype=np.float32)
    save_image(files['moving_image'], ball * (1 + 0.1 * noise), grid)
    save_image(files['moving_mask'], ball, grid, np.uint8)
    outputs = AffineAlign(**files, sloppy=True).run(cwd=tmp_path / 'node').outputs
    assert 'the affine registration with the template failed' in outputs.problem
    assert load_image(outputs.out_file)[0].any()


def test_check_passes_a_plausible_file_on(files):
    passed = RaiseIfImplausible(in_file=files['moving_mask']).run().outputs.out_file
    assert passed == files['moving_mask']


def test_check_raises_an_error_that_names_the_raw_image(files):
    check = RaiseIfImplausible(in_file=files['moving_mask'], source_file='sub-01_T1w.nii.gz')
    check.inputs.problem, check.inputs.advice = 'it is no brain', 'check the image'
    with pytest.raises(
        InputError, match=r'^sub-01_T1w\.nii\.gz: it is no brain; check the image\.$'
    ):
        check.run()

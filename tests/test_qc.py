"""Quality control: measures, criteria and grades."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deepreg_wf.qc.criteria import CRITERIA, Grade, format_number, overall_grade, worst_grade
from deepreg_wf.qc.metrics import (
    affine_measures,
    map_measures,
    mirror_gain,
    similarity_measures,
    template_coverage,
)

SHAPE = (12, 10, 8)
MEASURES = {
    'jacobian_min': 0.3,
    'jacobian_max': 3.2,
    'nonpositive_jacobian_fraction': 0.0,
    'inverse_error_median_mm': 0.01,
    'inverse_error_p99_mm': 0.1,
    'energy_drift': 0.005,
    'correlation_affine': 0.62,
    'correlation_final': 0.88,
    'mask_dice_affine': 0.94,
    'mask_dice_final': 0.96,
    'affine_determinant': 0.8,
    'affine_rotation_deg': 12.0,
    'brain_height_ratio': 0.78,
    'brain_breadth_ratio': 0.82,
    'template_coverage': 0.7,
    'mirror_gain': 0.001,
    'displacement_median_mm': 2.5,
    'displacement_max_mm': 11.0,
    'mask_edge': 0.3,
    'slice_order': 1.02,
    'ghost_strength': 0.02,
    'doubling_strength': 0.06,
    'nonfinite_voxels': 0,
    'form_distance_mm': 0.0,
}


def test_good_limits_lie_within_acceptable_limits():
    for criterion in CRITERIA:
        assert criterion.reason.endswith('.')
        assert criterion.good.low >= criterion.acceptable.low
        assert criterion.good.high <= criterion.acceptable.high
        assert criterion.key in MEASURES
    assert overall_grade(MEASURES) is Grade.GOOD


@pytest.mark.parametrize(
    ('key', 'value', 'grade'),
    [
        ('nonpositive_jacobian_fraction', 0.0, Grade.GOOD),
        ('nonpositive_jacobian_fraction', 1e-5, Grade.REVIEW),
        ('nonpositive_jacobian_fraction', 1e-3, Grade.BAD),
        ('jacobian_min', 0.05, Grade.REVIEW),
        ('jacobian_min', -0.01, Grade.BAD),
        ('inverse_error_median_mm', 0.3, Grade.REVIEW),
        ('inverse_error_p99_mm', 2.5, Grade.BAD),
        ('energy_drift', 0.03, Grade.REVIEW),
        ('correlation_final', 0.55, Grade.BAD),
        ('correlation_affine', 0.87, Grade.REVIEW),
        ('correlation_affine', 0.9, Grade.BAD),
        ('affine_determinant', -0.8, Grade.BAD),
        ('affine_rotation_deg', 50.0, Grade.REVIEW),
        ('affine_rotation_deg', 178.0, Grade.BAD),
        ('brain_height_ratio', 0.955, Grade.REVIEW),
        ('brain_height_ratio', 0.5, Grade.BAD),
        ('brain_breadth_ratio', 0.65, Grade.REVIEW),
        ('template_coverage', 0.0, Grade.BAD),
        ('mirror_gain', None, Grade.GOOD),
        ('mask_edge', 0.8, Grade.REVIEW),
        ('slice_order', 2.1, Grade.BAD),
        ('ghost_strength', 0.3, Grade.BAD),
        ('doubling_strength', 0.2, Grade.REVIEW),
        ('ghost_strength', None, Grade.GOOD),
        ('nonfinite_voxels', 6240, Grade.REVIEW),
        ('form_distance_mm', 59.0, Grade.REVIEW),
        ('displacement_max_mm', 25.0, Grade.REVIEW),
        ('mask_dice_final', float('nan'), Grade.BAD),
        ('mask_dice_final', None, Grade.GOOD),
    ],
)
def test_overall_grade_is_the_worst_grade(key, value, grade):
    assert overall_grade({**MEASURES, key: value}) is grade


def test_missing_measures_have_no_grade():
    assert overall_grade({}) is Grade.NONE
    assert overall_grade({'energy_drift': None}) is Grade.NONE
    assert worst_grade([]) is Grade.NONE


@pytest.mark.parametrize(
    ('value', 'text'),
    [
        (0, '0'),
        (0.12345, '0.123'),
        (-2.5, '−2.5'),
        (1e-5, '< 0.0001'),
        (0.00264, '0.0026'),
        (12345.6, '12\u202f346'),
    ],
)
def test_numbers_are_formatted_with_three_digits(value, text):
    assert format_number(value) == text


def test_identity_map_has_no_folds_and_no_error():
    identity, brain = torch.zeros(3, *SHAPE), np.ones(SHAPE, dtype=bool)
    measures = map_measures(identity, identity, brain, (2.0, 2.0, 2.0))
    assert measures.pop('jacobian_min') == measures.pop('jacobian_max') == 1
    assert set(measures.values()) == {0.0}


def test_map_measures_are_in_millimetres_and_over_the_brain():
    """The warp is a shift by one voxel of 3 mm; the inverse folds outside of the brain."""
    warp, inverse = torch.zeros(3, *SHAPE), torch.zeros(3, *SHAPE)
    warp[0, :6], inverse[0, :6] = 1.0, -1.0
    inverse[1, 8:] = -3 * torch.arange(SHAPE[1])[:, None]
    brain = np.zeros(SHAPE, dtype=bool)
    brain[:4] = True
    measures = map_measures(warp, inverse, brain, (3.0, 1.0, 1.0))
    assert measures['displacement_median_mm'] == measures['displacement_max_mm'] == 3
    assert measures['inverse_error_median_mm'] == measures['nonpositive_jacobian_fraction'] == 0
    everywhere = map_measures(warp, inverse, np.ones(SHAPE, dtype=bool), (3.0, 1.0, 1.0))
    assert everywhere['nonpositive_jacobian_fraction'] > 0


def test_similarity_is_measured_within_the_mask_of_the_template():
    template = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(SHAPE)
    mask[2:6] = 1
    image, wider = torch.where(mask > 0, 2 * template + 1, 100.0), torch.zeros(SHAPE)
    wider[2:10] = 1
    measures = similarity_measures(image, wider, template, mask, 'final')
    assert measures['correlation_final'] == pytest.approx(1)
    assert measures['mask_dice_final'] == pytest.approx(2 * 4 / (4 + 8))


def test_few_extreme_voxels_do_not_change_the_correlation():
    generator = torch.Generator().manual_seed(0)
    template, noise = torch.rand(2, 40, 40, 40, generator=generator)
    image, mask = template + 0.5 * noise, torch.ones_like(template)
    hot = image.clone()
    hot.view(-1)[::1000] = 1e7
    hot.view(-1)[500::1000] = -1e7
    usual, robust = (
        similarity_measures(each, mask, template, mask, 'final')['correlation_final']
        for each in (image, hot)
    )
    assert robust == pytest.approx(usual, abs=0.01)


def ellipsoid(shape, semi_axes):
    """Mask of an ellipsoid in the middle of a grid."""
    centred = np.moveaxis(np.indices(shape), 0, -1) - (np.asarray(shape) - 1) / 2
    return ((centred / semi_axes) ** 2).sum(axis=-1) < 1


BRAIN = ellipsoid((40, 48, 40), (13.6, 17, 12))
GRID = np.diag([-4.0, 4.0, 4.0, 1.0])
SIZE = np.diag([0.9, 0.95, 0.85])


def measures_of(linear):
    affine = np.eye(4)
    affine[:3, :3] = linear
    return affine_measures(affine, BRAIN, GRID)


def rotation_x(degrees):
    angle = np.deg2rad(degrees)
    return np.array(
        [[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]
    )


def test_affine_determinant_is_negative_for_a_mirror_image():
    assert measures_of(np.diag([-1.0, 2.0, 0.5]))['affine_determinant'] == pytest.approx(-1)


@pytest.mark.parametrize('degrees', [0, 25, 90, 180])
def test_rotation_does_not_depend_on_the_size_and_the_shape_not_on_the_rotation(degrees):
    upright, turned = measures_of(SIZE), measures_of(rotation_x(degrees) @ SIZE)
    assert turned['affine_rotation_deg'] == pytest.approx(degrees, abs=1e-5)
    for name in ('brain_height_ratio', 'brain_breadth_ratio'):
        assert turned[name] == pytest.approx(upright[name])


def test_shape_of_the_brain_does_not_depend_on_that_of_the_template():
    """The same brain, with a template that is a third taller."""
    taller = np.diag([1, 1, 4 / 3])
    affine, grid = np.eye(4), GRID.copy()
    affine[:3, :3], grid[:3, :3] = SIZE @ np.linalg.inv(taller), taller @ GRID[:3, :3]
    measures, usual = affine_measures(affine, BRAIN, grid), measures_of(SIZE)
    for name in ('brain_height_ratio', 'brain_breadth_ratio'):
        assert measures[name] == pytest.approx(usual[name])


@pytest.mark.parametrize('axis', range(3))
@pytest.mark.parametrize('factor', [1.3, 1 / 1.3])
def test_a_voxel_size_wrong_along_one_axis_is_not_good(axis, factor):
    wrong = np.ones(3)
    wrong[axis] = factor
    assert overall_grade(MEASURES | measures_of(rotation_x(20) @ SIZE)) is Grade.GOOD
    measures = measures_of(rotation_x(20) @ np.diag(wrong) @ SIZE)
    assert overall_grade(MEASURES | measures) in (Grade.REVIEW, Grade.BAD)


def test_mirror_gain_is_not_measured_with_a_symmetric_template():
    assert mirror_gain(0.8, 0.83, 0.95) == pytest.approx(0.03)
    assert mirror_gain(0.8, 0.8, 0.9999) is None


def test_coverage_is_that_of_the_least_covered_part_of_the_template():
    spacing = (4.0, 4.0, 4.0)
    assert template_coverage(BRAIN, BRAIN, spacing) == pytest.approx(1)
    thinner = ellipsoid(BRAIN.shape, (13, 16, 11))
    assert template_coverage(thinner, BRAIN, spacing) > 0.5
    without_corner = BRAIN & ~(
        (np.indices(BRAIN.shape)[1] < 16) & (np.indices(BRAIN.shape)[2] < 20)
    )
    assert without_corner.sum() > 0.85 * BRAIN.sum()
    assert template_coverage(without_corner, BRAIN, spacing) < 0.1

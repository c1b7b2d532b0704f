"""Quality control: measures, criteria and grades."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deepreg_wf.qc.criteria import CRITERIA, Grade, format_number, overall_grade, worst_grade
from deepreg_wf.qc.metrics import affine_determinant, map_measures, similarity_measures

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
    'mirror_gain': 0.001,
    'displacement_median_mm': 2.5,
    'displacement_max_mm': 11.0,
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
        ('inverse_error_p99_mm', 2.0, Grade.BAD),
        ('energy_drift', 0.03, Grade.REVIEW),
        ('correlation_final', 0.55, Grade.BAD),
        ('correlation_affine', 0.87, Grade.REVIEW),
        ('correlation_affine', 0.9, Grade.BAD),
        ('affine_determinant', -0.8, Grade.BAD),
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


def test_affine_determinant_is_negative_for_a_mirror_image():
    assert affine_determinant(np.diag([-1.0, 2.0, 0.5, 1.0])) == pytest.approx(-1)

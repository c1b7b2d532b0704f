"""Matching: known geodesics are recovered, energies fall, masked voxels do not count."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deepreg_wf.lddmm import (
    DEFAULT_METRIC,
    LNCC,
    SSD,
    MatchingSchedule,
    Metric,
    diagnostics,
    fields,
    match,
    normalise,
    shoot,
    shoot_invertible,
)
from deepreg_wf.lddmm.energy import Energy, EnergyTerms, ImagePair
from deepreg_wf.lddmm.lattice import Lattice

SPACING = (4.0, 4.0, 4.0)
QUICK = MatchingSchedule(iterations=(10, 5))


@pytest.fixture(scope='module')
def brain(make_brain) -> torch.Tensor:
    return normalise(torch.from_numpy(np.asarray(make_brain().dataobj, dtype=np.float32)))


@pytest.fixture(scope='module')
def metric(brain) -> Metric:
    return Metric(brain.shape, SPACING, **DEFAULT_METRIC)


@pytest.fixture(scope='module')
def known(brain, metric):
    """Return a random geodesic of some millimetres, and the brain warped by it."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(1, 3, 5, 6, 5, generator=generator)
    velocity = torch.nn.functional.interpolate(coarse, size=brain.shape, mode='trilinear')[0]
    inside = torch.nn.functional.avg_pool3d((brain > 0).float()[None], 7, 1, 3)[0]
    geodesic = shoot(metric.momentum(4.0 * inside * velocity), metric)
    return geodesic, fields.interpolate(brain[None], geodesic.phi_inverse)[0]


@pytest.mark.parametrize('similarity', [SSD(), LNCC(width=8.0)])
def test_a_known_geodesic_is_recovered(brain, metric, known, similarity) -> None:
    truth, target = known
    found = shoot(
        match(
            brain,
            target,
            metric,
            terms=EnergyTerms(similarity=similarity),
            schedule=MatchingSchedule((20, 6)),
        ).momentum,
        metric,
    )
    inside = brain > 0
    moved = diagnostics.magnitude_mm(truth.phi, SPACING)[inside]
    error = diagnostics.magnitude_mm(found.phi - truth.phi, SPACING)[inside]
    assert moved.mean() > 2
    assert error.mean() < 0.75 * moved.mean()
    assert fields.jacobian_determinant(found.phi_inverse).min() > 0


def test_energy_falls_and_similarity_rises(brain, metric, known) -> None:
    target = known[1]
    result = match(brain, target, metric, terms=EnergyTerms(similarity=SSD()), schedule=QUICK)
    for level in result.energies:
        assert all(after < before for before, after in zip(level, level[1:], strict=False))
    warped = fields.interpolate(brain[None], shoot(result.momentum, metric).phi_inverse)[0]
    assert diagnostics.correlation(warped, target) > diagnostics.correlation(brain, target)


def test_identical_images_need_no_momentum(brain, metric) -> None:
    result = match(brain, brain, metric, terms=EnergyTerms(similarity=SSD()), schedule=QUICK)
    assert float(metric.velocity(result.momentum).abs().max()) < 1e-3  # mm


def test_lncc_ignores_brightness_and_contrast(brain, known) -> None:
    """The floor is near zero here, for it depends on the contrast."""
    moving, target = brain.double(), known[1].double()
    inside = (moving > 0).double()
    mismatch = LNCC(floor=1e-9).bind(target, SPACING, inside)
    expected = mismatch(moving)
    torch.testing.assert_close(mismatch(0.3 * moving + 0.2), expected, rtol=1e-4, atol=0)


def test_lncc_is_zero_on_empty_background(brain) -> None:
    empty = torch.zeros_like(brain)
    everything = LNCC().bind(brain, SPACING, None)(empty)
    assert LNCC().bind(empty, SPACING, None)(empty) < 1e-5 * everything


def test_lncc_of_an_image_with_itself_is_near_zero(brain) -> None:
    mismatch = LNCC(floor=1e-6).bind(brain, SPACING, (brain > 0).float())
    unrelated = torch.rand(brain.shape, generator=torch.Generator().manual_seed(0))
    assert mismatch(brain) < 0.01 * mismatch(unrelated)


@pytest.mark.parametrize('similarity', [SSD(), LNCC()])
def test_masked_voxels_of_the_fixed_image_do_not_count(brain, metric, known, similarity) -> None:
    target = known[1]
    mask = torch.ones_like(target)
    mask[14:22, 14:22, 14:22] = 0
    lesion = torch.where(mask > 0, target, torch.ones_like(target))
    schedule = MatchingSchedule(iterations=(4,))
    results = [
        match(
            brain,
            image,
            metric,
            terms=EnergyTerms(similarity=similarity),
            schedule=schedule,
            fixed_mask=mask,
        )
        for image in (target, lesion)
    ]
    torch.testing.assert_close(results[0].momentum, results[1].momentum)


@pytest.mark.parametrize('similarity', [SSD(), LNCC()])
def test_masked_voxels_of_the_moving_image_do_not_count(brain, metric, known, similarity) -> None:
    """The lesion is a voxel smaller than the mask, because interpolation mixes neighbours."""
    target = known[1]
    mask = torch.ones_like(target)
    mask[14:22, 14:22, 14:22] = 0
    lesion = brain.clone()
    lesion[15:21, 15:21, 15:21] = 1
    results = [
        match(
            image,
            target,
            metric,
            terms=EnergyTerms(similarity=similarity),
            schedule=MatchingSchedule((2,)),
            moving_mask=mask,
        )
        for image in (brain, lesion)
    ]
    unmasked = match(
        lesion,
        target,
        metric,
        terms=EnergyTerms(similarity=similarity),
        schedule=MatchingSchedule((2,)),
    )
    change, expected = (
        float(metric.velocity(result.momentum - results[0].momentum).norm())
        for result in (results[1], unmasked)
    )
    assert change < 0.05 * expected


@pytest.mark.parametrize('similarity', [SSD(), LNCC()])
def test_gradient_of_the_energy_agrees_with_central_differences(similarity) -> None:
    """The energy includes shooting, warping, similarity with both masks and regularity."""
    generator = torch.Generator().manual_seed(0)
    smooth = torch.rand(7, 1, 24, 24, 24, dtype=torch.float64, generator=generator)
    for _ in range(2):
        smooth = torch.nn.functional.avg_pool3d(smooth, 5, 1)
    moving, fixed, *weights = smooth[:4, 0]
    lattice = Lattice.around(Metric(moving.shape, SPACING, dtype=torch.float64))
    pair = ImagePair(moving, fixed, weights[1], weights[0], 0.5 * smooth[4:7, 0])
    problem = Energy.from_pair(
        pair, lattice, EnergyTerms(similarity=similarity, soft_volume_change=1.1)
    )
    shape = (2, 3, *lattice.metric.shape)
    fields_of_noise = torch.randn(shape, dtype=torch.float64, generator=generator)
    momentum, direction = (1e-2 * lattice.metric.momentum(part) for part in fields_of_noise)
    # A step so small that hardly a point crosses from voxel to voxel, where images have kinks.
    epsilon = 1e-5
    ahead, behind = (problem(momentum + sign * epsilon * direction)[0] for sign in (1, -1))
    gradient = problem(momentum)[1]
    expected = (ahead - behind) / (2 * epsilon)
    assert float((gradient * direction).sum()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ('spacing', 'levels'),
    [(4.0, (25, 15)), (2.0, (25, 15)), (1.0, (25, 15, 4)), (0.5, (25, 15, 4, 4))],
)
def test_default_levels_follow_from_the_spacing(spacing, levels) -> None:
    sizes = (spacing, 1.1 * spacing, spacing)
    assert MatchingSchedule().levels(sizes) == levels
    assert MatchingSchedule(7).levels(sizes) == (7,) * len(levels)


def test_matching_continues_from_an_initial_momentum(brain, metric, known) -> None:
    target = known[1]
    first = match(
        brain, target, metric, terms=EnergyTerms(similarity=SSD()), schedule=MatchingSchedule((4,))
    )
    second = match(
        brain,
        target,
        metric,
        terms=EnergyTerms(similarity=SSD()),
        schedule=MatchingSchedule((2,)),
        initial_momentum=first.momentum,
    )
    # Not equal: the momentum beyond the border of the image is cut off.
    assert second.energies[0][0] == pytest.approx(first.energies[0][-1], rel=1e-2)


def test_frequencies_above_those_of_a_level_are_kept(brain, metric) -> None:
    """Without iterations, an initial momentum keeps the detail that no lattice represents."""
    generator = torch.Generator().manual_seed(3)
    start = 1e-3 * torch.randn(3, *brain.shape, generator=generator) * (brain > 0)
    result = match(
        brain,
        brain,
        metric,
        terms=EnergyTerms(similarity=SSD()),
        schedule=MatchingSchedule((0, 0)),
        initial_momentum=start,
    )
    torch.testing.assert_close(result.momentum, start, atol=1e-6, rtol=0)


def test_odd_shapes_are_matched(brain, metric, known) -> None:
    crop = (slice(0, 39), slice(0, 47), slice(0, 37))
    grid = metric.with_grid((39, 47, 37), SPACING)
    result = match(
        brain[crop], known[1][crop], grid, terms=EnergyTerms(similarity=SSD()), schedule=QUICK
    )
    assert result.momentum.shape == (3, 39, 47, 37)
    assert result.spacings == (8.0, 4.0)


def test_equal_inputs_give_equal_bits(brain, metric, known) -> None:
    runs = [
        match(
            brain,
            known[1],
            metric,
            terms=EnergyTerms(similarity=LNCC()),
            schedule=MatchingSchedule((3, 2)),
        )
        for _ in range(2)
    ]
    assert torch.equal(runs[0].momentum, runs[1].momentum)


def test_no_iteration_folds_however_strong_the_forces(brain, metric, known) -> None:
    """The metric is nearly the identity, so that only the check of the Jacobian prevents folds."""
    weak = Metric(brain.shape, SPACING, alpha=0.01, beta=0.01, gamma=0.001, power=1)
    result = match(
        brain,
        known[1],
        weak,
        terms=EnergyTerms(similarity=SSD(sigma=0.02)),
        schedule=MatchingSchedule((8, 4)),
    )
    geodesic = shoot_invertible(result.momentum, weak)[1]
    for displacement in (geodesic.phi, geodesic.phi_inverse):
        assert fields.jacobian_determinant(displacement).min() > 0
    assert result.energies[-1][-1] < result.energies[-1][0]


def test_normalise_scales_and_removes_invalid_values() -> None:
    image = torch.linspace(-5, 1000, 1000).reshape(10, 10, 10)
    image[0, 0, 0], image[-1, -1, -1] = torch.nan, 1e6
    scaled = normalise(image)
    assert scaled.min() == 0
    assert scaled.max() == 1
    torch.testing.assert_close(normalise(37 * image), scaled)


def test_an_empty_image_is_refused() -> None:
    with pytest.raises(ValueError, match='no positive voxel'):
        normalise(torch.zeros(4, 4, 4))

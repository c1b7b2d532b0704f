"""Chains of geodesics, and the energy that each of their links minimises."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from deepreg_wf.lddmm import (
    DEFAULT_METRIC,
    DEFAULT_TERMS,
    LNCC,
    SSD,
    EnergyTerms,
    Link,
    MatchingSchedule,
    Metric,
    default_links,
    fields,
    match,
    match_chain,
    normalise,
    shoot,
    shoot_chain,
)
from deepreg_wf.lddmm.energy import BARRIER_WEIGHT, NETWORK_TERMS, Energy, ImagePair
from deepreg_wf.lddmm.lattice import Lattice, every_nth
from deepreg_wf.lddmm.shooting import adjoint
from deepreg_wf.settings.groups import MATCHED_GEODESICS

SPACING = (4.0, 4.0, 4.0)


@pytest.fixture(scope='module')
def brains(make_brain) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two brains of different folds."""
    first, second = (
        normalise(torch.from_numpy(np.asarray(make_brain(seed=seed).dataobj, dtype=np.float32)))
        for seed in (0, 1)
    )
    return first, second


@pytest.fixture(scope='module')
def grid(brains) -> Metric:
    return Metric(brains[0].shape, SPACING, **DEFAULT_METRIC)


def make_links(*iterations: tuple[int, ...], **changes: float) -> list[Link]:
    """Return links that end after a given number of iterations at each level."""
    terms = replace(DEFAULT_TERMS, **changes)
    schedules = [MatchingSchedule(levels, tolerance=0.0) for levels in iterations]
    return [Link(terms=terms, schedule=each, metric=DEFAULT_METRIC) for each in schedules]


def dissimilarity(image: torch.Tensor, other: torch.Tensor) -> float:
    return float(DEFAULT_TERMS.similarity.bind(other, SPACING, None)(image, None))


# The chain


def test_a_chain_of_one_link_is_that_geodesic(brains, grid) -> None:
    (link,) = make_links((3, 2))
    (found,) = match_chain(*brains, grid, [link])
    alone = match(*brains, grid, terms=link.terms, schedule=link.schedule)
    torch.testing.assert_close(found.momentum, alone.momentum)
    chain = shoot_chain([found.momentum], [grid])
    assert chain.momenta[0] is found.momentum
    assert torch.equal(chain.phi, shoot(found.momentum, grid).phi)


def test_a_second_link_goes_on_where_the_first_has_converged(brains, grid) -> None:
    """It pays for what it adds, not for the deformation that is there."""
    moving, fixed = brains
    links = make_links((12, 8), (8,))
    momenta = [result.momentum for result in match_chain(moving, fixed, grid, links)]
    left = []
    for count in (0, 1, 2):
        inverse = shoot_chain(momenta[:count], [grid] * count).phi_inverse if count else None
        warped = moving if inverse is None else fields.interpolate(moving[None], inverse)[0]
        left.append(dissimilarity(warped, fixed))
    assert left[1] < 0.8 * left[0]
    assert left[2] < left[1]


def test_both_maps_of_a_chain_are_inverse_to_each_other(brains, grid) -> None:
    """To the error of interpolating displacements: far less than a voxel of 4 mm."""
    links = make_links((6, 4), (4,))
    momenta = [result.momentum for result in match_chain(*brains, grid, links)]
    chain = shoot_chain(momenta, [grid, grid])
    inside = brains[0] > 0
    moved = chain.phi.square().sum(dim=0).sqrt()[inside]
    error = fields.compose(chain.phi_inverse, chain.phi).square().sum(dim=0).sqrt()[inside]
    assert moved.max() > 1
    assert error.mean() < 0.05
    assert error.mean() < 0.2 * moved.mean()


def test_however_strong_the_momenta_a_chain_does_not_fold(brains, grid) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 3, *grid.shape, generator=generator) * (brains[0] > 0)
    momenta = [part * 12 / grid.velocity(part).abs().max() for part in noise]  # mm per unit time
    chain = shoot_chain(momenta, [grid, grid])
    assert any(shot is not given for shot, given in zip(chain.momenta, momenta, strict=True))
    for displacement in (chain.phi, chain.phi_inverse):
        assert fields.jacobian_determinant(displacement).min() > 0


def test_masked_voxels_count_in_no_link(brains, grid) -> None:
    moving, fixed = brains
    mask = torch.ones_like(fixed)
    mask[14:22, 14:22, 14:22] = 0
    lesion = torch.where(mask > 0, fixed, torch.ones_like(fixed))
    links = make_links((2,), (2,))
    results = [
        match_chain(moving, image, grid, links, fixed_mask=mask) for image in (fixed, lesion)
    ]
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one.momentum, other.momentum)


def test_the_links_follow_the_settings() -> None:
    for spacing in (1.0, 2.0, 4.0):
        links = default_links((spacing,) * 3)
        assert len(links) == MATCHED_GEODESICS
        capped = default_links((spacing,) * 3, 3)
        assert {count for link in capped for count in link.schedule.iterations} <= {0, 3}


# The energy


def test_terms_survive_a_weights_file() -> None:
    for terms in (DEFAULT_TERMS, NETWORK_TERMS, EnergyTerms(similarity=SSD(0.3))):
        assert EnergyTerms.from_dict(json.loads(json.dumps(terms.to_dict()))) == terms


def test_an_unknown_similarity_is_refused() -> None:
    described = DEFAULT_TERMS.to_dict() | {'similarity': {'kind': 'MI'}}
    with pytest.raises(ValueError, match="unknown similarity 'MI'"):
        EnergyTerms.from_dict(described)


def test_the_barrier_counts_the_links_before() -> None:
    """Without a momentum, only the volume change of the earlier links is left."""
    image = torch.zeros(16, 16, 16)
    terms = EnergyTerms(similarity=SSD(), soft_volume_change=2.0)
    lattice = Lattice.around(Metric(image.shape, SPACING))
    momentum = torch.zeros(3, *lattice.metric.shape)
    voxels = fields.identity(image.shape, dtype=image.dtype, device='cpu')
    for change in (1.5, 4.0, 1 / 4.0):
        earlier = 4.0 * (change ** (1 / 3) - 1) * voxels
        energy = Energy.from_pair(ImagePair(image, image, earlier=earlier), lattice, terms)
        excess = max(0.0, abs(math.log(change)) - math.log(2.0))
        volume = image.numel() * math.prod(SPACING)
        found = energy(momentum)
        assert found is not None
        expected = BARRIER_WEIGHT * volume * (1 + change) * excess**2
        assert found[0] == pytest.approx(expected, rel=1e-4, abs=1e-3)
    beyond = replace(terms, max_volume_change=3.0)
    assert Energy.from_pair(energy.pair, lattice, beyond)(momentum) is None


def smooth_displacement(lattice: Lattice) -> torch.Tensor:
    """Return a displacement on a lattice, in mm, whose maps change volumes by a third."""
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(3, *lattice.metric.shape, generator=generator)
    velocity = lattice.metric.velocity(lattice.metric.velocity(noise))
    return velocity * 6 / velocity.abs().max()


@pytest.mark.parametrize('step', [1, 2, 3])
def test_jacobian_of_a_lattice_is_that_of_its_voxels(step) -> None:
    """Differences between voxels have an error of second order: a fortieth at 1 mm."""
    lattice = Lattice.around(Metric((40, 44, 36), (1.0, 1.0, 1.0)), spacing=4.0)
    field = smooth_displacement(lattice)
    x, y, z = (every_nth(n, step) for n in lattice.image_metric.shape)
    expected = fields.jacobian_determinant(lattice.displacement(field))
    found = lattice.jacobian_determinant(field, step)
    inner = (slice(2, -2),) * 3
    difference = (found - expected[x, y, z])[inner].abs().max()
    assert (expected - 1).abs().max() > 0.2
    assert difference < (expected - 1).abs().max() / 40


@pytest.mark.parametrize('spacing', [1.0, 2.0, 4.0])
def test_windows_apart_give_the_correlation_of_windows_everywhere(brains, spacing) -> None:
    """The width is four voxels or less here, so that windows are up to four voxels apart."""
    moving, fixed = (image.double().numpy() for image in brains)
    similarity = LNCC(width=4.0)
    sigma = similarity.width / spacing

    def average(image: np.ndarray) -> np.ndarray:
        smooth = ndimage.gaussian_filter(image, sigma, mode='constant', truncate=6)
        return smooth / ndimage.gaussian_filter(np.ones_like(image), sigma, mode='constant')

    def covariance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return average(a * b) - average(a) * average(b)

    floor = similarity.floor
    correlation = (covariance(moving, fixed) ** 2 + floor**2) / (
        (covariance(moving, moving) + floor) * (covariance(fixed, fixed) + floor)
    )
    expected = (1 - correlation).sum() * spacing**3
    bound = similarity.bind(torch.from_numpy(fixed), (spacing,) * 3, None)
    found = bound(torch.from_numpy(moving), None)
    assert float(found) == pytest.approx(expected, rel=0.01)


def test_a_window_is_no_narrower_than_its_level_allows(brains) -> None:
    moving, fixed = brains
    narrow = LNCC(width=1.0, min_voxels=1.0).bind(fixed, SPACING, None)(moving, None)
    voxel = LNCC(width=4.0).bind(fixed, SPACING, None)(moving, None)
    assert float(narrow) == float(voxel)


# The method of Zhang and Fletcher


def truncated_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Multiply two band-limited fields without aliasing: on a finer grid, then truncated."""
    shape = a.shape[-3:]
    finer = [3 * n // 2 for n in shape]
    product = resample(a, finer) * resample(b, finer)
    return resample(product, shape)


def resample(field: torch.Tensor, shape) -> torch.Tensor:
    """Resample a periodic field by padding or truncating its spectrum."""
    for axis, n in zip((-3, -2, -1), shape, strict=True):
        before = field.shape[axis]
        spectrum = torch.fft.fft(field, dim=axis)
        kept = (min(before, n) - 1) // 2
        result = spectrum.new_zeros([*field.shape[:axis], n, *field.shape[axis:][1:]])
        result.narrow(axis, 0, kept + 1).copy_(spectrum.narrow(axis, 0, kept + 1))
        result.narrow(axis, n - kept, kept).copy_(spectrum.narrow(axis, before - kept, kept))
        field = torch.fft.ifft(result, dim=axis).real * (n / before)
    return field


def test_products_on_the_lattice_agree_with_truncated_convolutions() -> None:
    """Zhang et al. (IPMI 2017) truncate the convolution of two spectra; we multiply on points.

    Points alias the frequencies above those of the lattice. The kernel damps these, so that the
    velocities of both differ by little more than the fraction of the kernel that is left out.
    """
    lattice = Lattice.around(Metric((20, 24, 20), SPACING, dtype=torch.float64))
    metric = lattice.metric
    generator = torch.Generator().manual_seed(4)
    noise = torch.randn(2, 3, *metric.shape, dtype=torch.float64, generator=generator)
    v, w = metric.velocity(noise)

    def derivative(field: torch.Tensor, axis: int) -> torch.Tensor:
        matrix = lattice.derivatives[axis]
        return torch.movedim(torch.movedim(field, axis + 1, -1) @ matrix.T, -1, axis + 1)

    expected = sum(
        truncated_product(derivative(v, axis), w[axis : axis + 1])
        - truncated_product(derivative(w, axis), v[axis : axis + 1])
        for axis in range(3)
    )
    found = adjoint(v, w, lattice)
    difference = metric.velocity(found - expected).norm() / metric.velocity(expected).norm()
    assert difference < 0.01

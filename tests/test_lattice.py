"""Lattice: as coarse as the kernel allows, and the exact adjoint of the interpolation."""

from __future__ import annotations

import pytest
import torch

from deepreg_wf.lddmm import DEFAULT_METRIC, ORIGINAL_METRIC, Metric
from deepreg_wf.lddmm.lattice import (
    MARGIN_DECAY_LENGTHS,
    SHOOTING_GAIN_CUTOFF,
    Lattice,
    coarsest_spacing,
)

SHAPE = (19, 23, 17)


def metric(spacing=(1.0, 1.2, 0.8), shape=SHAPE, **parameters) -> Metric:
    return Metric(shape, spacing, dtype=torch.float64, **{**DEFAULT_METRIC, **parameters})


def noise(shape, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, *shape, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize('spacing', [None, 6.0])
def test_restriction_is_the_adjoint_of_lifting(spacing) -> None:
    image = metric()
    lattice = Lattice.around(image, spacing=spacing)
    fine, coarse = noise(SHAPE), noise(lattice.metric.shape, 1)
    torch.testing.assert_close(
        (lattice.restrict(fine) * coarse).sum() * lattice.metric.voxel_volume,
        (fine * lattice.lift(coarse)).sum() * image.voxel_volume,
    )


def test_restriction_from_another_lattice_equals_that_by_way_of_the_voxels() -> None:
    fine, coarse = (Lattice.around(metric(), spacing=spacing) for spacing in (2.5, 4.0))
    momentum = noise(fine.metric.shape)
    torch.testing.assert_close(
        coarse.restrict_from(fine, momentum), coarse.restrict(fine.lift(momentum))
    )


def test_the_gain_of_the_kernel_sets_the_spacing() -> None:
    image = metric()
    limit = coarsest_spacing(image)
    k = torch.pi / limit
    gain = (image.gamma / (image.gamma + image.alpha * k**2)) ** image.power
    assert gain == pytest.approx(SHOOTING_GAIN_CUTOFF)
    assert Lattice.around(image).metric.spacing == pytest.approx((limit,) * 3)


def test_voxels_larger_than_the_limit_set_the_spacing() -> None:
    lattices = [Lattice.around(metric((8.0,) * 3), **of) for of in ({}, {'spacing': 5.0})]
    assert [lattice.metric.spacing for lattice in lattices] == [(8.0, 8.0, 8.0)] * 2


def test_a_rough_kernel_needs_every_voxel() -> None:
    image = metric((1.0, 1.0, 1.0), **ORIGINAL_METRIC)
    lattice = Lattice.around(image)
    assert lattice.metric.spacing == image.spacing
    field = noise(SHAPE)
    torch.testing.assert_close(
        lattice.restrict(lattice.lift(lattice.restrict(field))), lattice.restrict(field)
    )
    torch.testing.assert_close(lattice.lift(lattice.restrict(field)), field)


def test_the_margin_separates_an_image_from_its_periodic_copies() -> None:
    image = metric()
    lattice = Lattice.around(image)
    for axis in range(3):
        room = lattice.metric.shape[axis] * lattice.metric.spacing[axis]
        extent = image.shape[axis] * image.spacing[axis]
        assert room - extent >= MARGIN_DECAY_LENGTHS * image.decay_length - 1e-9


def test_displacements_are_in_voxels_of_the_image() -> None:
    """A constant displacement is constant, in units of the averaged voxels."""
    image = metric((2.0, 1.0, 4.0), (8, 6, 4))
    lattice = Lattice.around(image).coarsened(2)
    field = torch.ones(3, *lattice.metric.shape, dtype=torch.float64)
    found = lattice.displacement(field)
    assert found.shape == (3, 4, 3, 2)
    expected = torch.tensor([1 / 4, 1 / 2, 1 / 8], dtype=torch.float64).view(3, 1, 1, 1)
    torch.testing.assert_close(found, expected.expand_as(found))


def test_blocks_are_centred_on_their_voxels() -> None:
    """Where a field is linear, its value at a block is the mean over the voxels of the block."""
    image = metric((1.0, 1.0, 1.0), (24, 24, 24))
    lattice = Lattice.around(image)
    n, h = lattice.metric.shape[0], lattice.metric.spacing[0]
    wave = torch.sin(2 * torch.pi * torch.arange(n, dtype=torch.float64) / n)
    field = wave.view(n, 1, 1).expand(3, *lattice.metric.shape).contiguous()
    voxels = lattice.displacement(field)
    blocks = lattice.coarsened(2).displacement(field) * 2
    pooled = torch.nn.functional.avg_pool3d(voxels[None], 2)[0]
    curvature = (2 * torch.pi / (n * h)) ** 2
    assert (blocks - pooled).abs().max() < curvature / 8 + 1e-9


def test_coarsening_the_image_does_not_move_the_lattice() -> None:
    """Every third voxel is the centre of a block, where a field has the same value."""
    image = metric((1.0, 1.0, 1.0), (24, 21, 18))
    lattice = Lattice.around(image)
    field = noise(lattice.metric.shape)
    centres = lattice.displacement(field)[:, 1::3, 1::3, 1::3] / 3
    torch.testing.assert_close(lattice.coarsened(3).displacement(field), centres)

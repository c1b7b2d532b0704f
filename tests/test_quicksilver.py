"""Tests of the Quicksilver networks: architecture, patches, prediction, weights files."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from deepreg_wf.checkpoints.locate import describe_weights
from deepreg_wf.checkpoints.safetensors_file import write_network
from deepreg_wf.lddmm import ORIGINAL_METRIC, Metric, fields, shoot
from deepreg_wf.quicksilver import (
    Checkpoint,
    NetworkSpec,
    QuicksilverNet,
    WeightsError,
    convert_legacy,
    correct,
    draw_momenta,
    load_checkpoint,
    load_network,
    predict,
    prepare_image,
    sample_uncertainty,
    save_checkpoint,
)
from deepreg_wf.quicksilver.architecture import N_GRADIENT_CHANNELS, correlation_forces
from deepreg_wf.quicksilver.checkpoint import FORMAT
from deepreg_wf.quicksilver.coarse_grid import CoarseGrid
from deepreg_wf.quicksilver.inputs import RegistrationState, mirror
from deepreg_wf.quicksilver.patches import (
    aggregate_patches,
    bounding_patch_size,
    extract_patches,
    patch_origins,
)
from deepreg_wf.quicksilver.prediction import apply_network, predict_update, registration_state

FLOAT32 = 1e-5
"""Rounding error of a chain of convolutions in float32, for values of about one."""


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def blob(shape: tuple[int, int, int], centre: tuple[float, ...], radius: float = 6.0) -> Tensor:
    """Smooth ball with a bright core on a background of zeros."""
    axes = [torch.arange(n, dtype=torch.float32) - c for n, c in zip(shape, centre, strict=True)]
    x, y, z = torch.meshgrid(*axes, indexing='ij')
    distance = (x**2 + y**2 + z**2).sqrt()
    inside = (radius - distance).clamp(0, 2) / 2
    return inside * (0.6 + 0.4 * (distance < radius / 2))


def _is_touched(module: torch.nn.Module) -> bool:
    return any(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())


def checkpoint(**options: object) -> Checkpoint:
    torch.manual_seed(0)
    spec = NetworkSpec(
        **(
            {'features': 2, 'spacing': 4.0, 'gradient_channels': True, 'output_scale': 0.02}
            | options
        )
    )
    network = spec.new_network().eval()
    # The shortcut is initialised to zero; here the gradient channels should have an effect.
    if spec.gradient_channels:
        torch.nn.init.normal_(network.shortcut.weight, std=0.05)
    return Checkpoint(network, spec)


# Architecture


@pytest.mark.parametrize('patch_size', [9, 10, 13, 15, 16, 23])
def test_output_patch_has_the_size_of_the_input_patch(patch_size: int) -> None:
    network = QuicksilverNet(2, patch_size=patch_size)
    shape = (patch_size,) * 3
    assert network(random(2, 2, *shape)).shape == (2, 3, *shape)


def test_network_accepts_other_patch_sizes() -> None:
    network = checkpoint().network
    patch = random(1, 2 + N_GRADIENT_CHANNELS, 11, 19, 15)
    assert network(patch).shape == (1, 3, 11, 19, 15)


def test_missing_gradient_channels_are_zero() -> None:
    network, pair = checkpoint().network, random(1, 2, 15, 15, 15)
    zeros = torch.zeros(1, N_GRADIENT_CHANNELS, 15, 15, 15)
    assert torch.equal(network(pair), network(torch.cat([pair, zeros], dim=1)))


def test_number_of_parameters_matches_the_paper() -> None:
    count = sum(p.numel() for p in QuicksilverNet(64).parameters())
    assert count == pytest.approx(21.8e6, rel=5e-3)


def test_images_may_have_several_channels() -> None:
    network = QuicksilverNet(2, channels=3)
    assert network(random(1, 6, 15, 15, 15)).shape == (1, 3, 15, 15, 15)


def test_no_weights_are_shared_between_images_and_between_axes() -> None:
    network = QuicksilverNet(2).eval()
    pair = random(1, 2, 15, 15, 15)
    network(pair)[:, 0].square().sum().backward()
    touched = {axis: _is_touched(network.decoders[axis]) for axis in 'xyz'}
    assert touched == {'x': True, 'y': False, 'z': False}
    swapped = network(pair.flip(1))
    assert not torch.allclose(swapped, network(pair))


def test_dropout_is_active_only_in_training_mode() -> None:
    network, pair = QuicksilverNet(2, dropout=0.2), random(1, 2, 15, 15, 15)
    assert not torch.equal(network.train()(pair), network(pair))
    assert torch.equal(network.eval()(pair), network(pair))


def test_forces_vanish_between_images_that_differ_in_contrast_only() -> None:
    image = random(1, 1, 15, 15, 15).abs()
    alike = correlation_forces(image, 0.5 * image + 0.2)
    other = correlation_forces(image, random(1, 1, 15, 15, 15, seed=1).abs())
    # They do not vanish exactly, because of `VARIANCE_FLOOR`.
    assert alike.abs().mean() < 0.05 * other.abs().mean()


def test_forces_pull_an_edge_towards_the_edge_of_the_other_image() -> None:
    """The edge of the moving image lies at a lower x and has to be moved forwards."""
    x = torch.arange(15.0).view(1, 1, 15, 1, 1).expand(1, 1, 15, 15, 15)
    early, late = torch.sigmoid(x - 6.5), torch.sigmoid(x - 8)
    forces = correlation_forces(early, late)[0, :, 6:9, 4:11, 4:11]
    assert (
        forces[0].mean() < 0
    )  # against the image gradient, since the moving image has to become darker here
    assert forces[1:].abs().max() < FLOAT32


# Patches

CUBE = (15, 15, 15)


def test_single_patch_holds_all_occupied_voxels() -> None:
    occupied = torch.zeros(40, 33, 29, dtype=torch.bool)
    occupied[3:20, 5:20, 7:25] = True
    sides = bounding_patch_size(occupied)
    assert sides == (19, 15, 19)
    (origin,) = patch_origins(occupied, sides, max(sides))
    for axis, (first, last) in enumerate(((3, 20), (5, 20), (7, 25))):
        assert origin[axis] <= first
        assert origin[axis] + sides[axis] >= last


@pytest.mark.parametrize('side', range(15, 23))
def test_single_patch_suffices_for_any_size(side: int) -> None:
    occupied = torch.zeros(40, 33, 29, dtype=torch.bool)
    occupied[3 : 3 + side, 5 : 5 + side, 2 : 2 + side] = True
    sides = bounding_patch_size(occupied)
    assert min(sides) >= side
    assert len(patch_origins(occupied, sides, max(sides))) == 1


@pytest.mark.parametrize('stride', [14, 10, 5])
def test_patches_cover_the_occupied_voxels(stride: int) -> None:
    occupied = torch.zeros(40, 33, 29, dtype=torch.bool)
    occupied[3:38, 0:33, 7:20] = True
    origins = patch_origins(occupied, CUBE, stride)
    ones = torch.ones(len(origins), 1, 15, 15, 15)
    assert aggregate_patches(ones, origins, occupied.shape)[0][occupied].eq(1).all()
    assert (origins >= 0).all()
    assert (origins + 15 <= torch.tensor(occupied.shape)).all()


def test_empty_patches_are_left_out() -> None:
    occupied = torch.zeros(60, 20, 20, dtype=torch.bool)
    occupied[2:5, 8, 8] = occupied[55:58, 8, 8] = True
    assert len(patch_origins(occupied, CUBE, 14)) == 2
    assert len(patch_origins(torch.zeros(20, 20, 20, dtype=torch.bool), CUBE, 14)) == 0


def test_patches_move_with_the_brain() -> None:
    occupied = torch.zeros(50, 50, 50, dtype=torch.bool)
    occupied[10:35, 12:40, 8:30] = True
    shift = (3, -2, 5)
    shifted = patch_origins(occupied.roll(shift, dims=(0, 1, 2)), CUBE, 14)
    assert torch.equal(shifted, patch_origins(occupied, CUBE, 14) + torch.tensor(shift))


def test_aggregation_inverts_extraction() -> None:
    volume = random(3, 31, 40, 29)
    origins = patch_origins(torch.ones(31, 40, 29, dtype=torch.bool), CUBE, 8)
    patches = extract_patches(volume, origins, CUBE)
    assert torch.allclose(aggregate_patches(patches, origins, volume.shape[1:]), volume, atol=1e-6)


def test_overlaps_are_averaged() -> None:
    origins = torch.tensor([[0, 0, 0], [1, 0, 0]])
    values = torch.stack([torch.zeros(1, 15, 15, 15), torch.ones(1, 15, 15, 15)])
    field = aggregate_patches(values, origins, (16, 15, 15))[0]
    assert torch.equal(field[0], torch.zeros(15, 15))
    assert torch.equal(field[15], torch.ones(15, 15))
    assert ((field[1:15] > 0) & (field[1:15] < 1)).all()


@pytest.mark.parametrize('batch_size', [1, 3, 1000])
def test_batch_size_does_not_change_the_output(batch_size: int) -> None:
    network, pair = checkpoint().network, random(2, 40, 35, 30).abs()
    reference = apply_network(network, pair, 14)
    assert torch.allclose(
        apply_network(network, pair, 14, batch_size=batch_size), reference, atol=FLOAT32
    )


def test_volume_smaller_than_a_patch_is_padded() -> None:
    field = apply_network(checkpoint().network, random(2, 9, 20, 12).abs(), 14)
    assert field.shape == (3, 9, 20, 12)
    assert apply_network(checkpoint().network, torch.zeros(2, 20, 20, 20), 14).eq(0).all()


class _OutOfMemory(QuicksilverNet):
    """A network on a device that holds two patches at once."""

    def forward(self, patches: Tensor) -> Tensor:
        if len(patches) > 2:
            raise torch.OutOfMemoryError('out of memory')
        return super().forward(patches)


def test_batch_size_is_halved_when_memory_runs_out() -> None:
    torch.manual_seed(0)
    network, pair = _OutOfMemory(2).eval(), random(2, 40, 35, 30).abs()
    with pytest.warns(UserWarning, match='continuing with 2 patches at once'):
        field = apply_network(network, pair, 14, batch_size=16)
    assert torch.equal(field, apply_network(network, pair, 14, batch_size=2))


class _Broken(QuicksilverNet):
    def forward(self, patches: Tensor) -> Tensor:
        raise RuntimeError('sizes do not match')


def test_other_errors_are_raised() -> None:
    with pytest.raises(RuntimeError, match='sizes do not match'):
        apply_network(_Broken(2), random(2, 20, 20, 20).abs(), 14)


# Coarse grid


@pytest.mark.parametrize(('shape', 'spacing'), [((44, 50, 41), 2.0), ((25, 22, 24), 4.0)])
def test_unwhitening_inverts_whitening_and_keeps_the_energy(
    shape: tuple[int, int, int], spacing: float
) -> None:
    metric = Metric(shape, (spacing,) * 3, dtype=torch.float64)
    coarse_grid = CoarseGrid(metric, 4.0)
    centre = [n / 2 for n in coarse_grid.shape]
    ball = blob(coarse_grid.shape, centre, radius=5.0).double()
    coarse_metric = Metric(coarse_grid.shape, (4.0,) * 3, dtype=torch.float64)
    smooth = coarse_metric.velocity(torch.stack([ball] * 3))
    whitened = smooth / smooth.abs().max() * torch.tensor([1.0, -0.5, 0.2]).view(3, 1, 1, 1)
    momentum = coarse_grid.unwhiten(whitened)
    back = coarse_grid.whiten(momentum)
    # The tails of the kernel are cut off at the border of the grid.
    assert (back - whitened).abs().max() < 0.02
    energy = float(whitened.square().sum()) * 4.0**3
    assert float(metric.energy(momentum)) == pytest.approx(energy, rel=0.02)


def test_downsampling_averages_over_coarse_voxels() -> None:
    coarse_grid = CoarseGrid(Metric((8, 8, 8), (1.0,) * 3), 4.0)
    image = random(8, 8, 8)
    assert coarse_grid.shape == (2, 2, 2)
    mean = float(image[4:, :4, 4:].mean())
    assert coarse_grid.downsample(image)[1, 0, 1] == pytest.approx(mean, abs=1e-6)


@pytest.mark.parametrize('spacing', [3.0, 5.0])
def test_voxel_size_that_does_not_divide_the_coarse_grid_is_rejected(spacing: float) -> None:
    with pytest.raises(ValueError, match='a grid of 4 mm'):
        CoarseGrid(Metric((20, 20, 20), (spacing,) * 3), 4.0)


# Prediction


def pair_of(shape: tuple[int, int, int] = (44, 48, 40)) -> tuple[Tensor, Tensor, Metric]:
    middle = tuple(n / 2 for n in shape)
    moving = blob(shape, middle, 12.0)
    fixed = blob(shape, (middle[0] + 1.5, *middle[1:]), 12.0)
    return moving, fixed, Metric(shape, (2.0, 2.0, 2.0))


def test_prediction_is_equivariant_under_translation() -> None:
    """Under translations by whole coarse voxels, far from the border of the grid."""
    moving, fixed, metric = pair_of((64, 64, 64))
    net = checkpoint(gradient_channels=False)
    shift = (4, -4, 2)
    velocity = metric.velocity(predict(net, moving, fixed, metric))
    images = (image.roll(shift, dims=(0, 1, 2)) for image in (moving, fixed))
    shifted = metric.velocity(predict(net, *images, metric))
    difference = shifted - velocity.roll(shift, dims=(1, 2, 3))
    # The edges of patches cause ringing, which is cut off at the border of the grid.
    assert difference.abs().max() < 0.02 * velocity.abs().max()


def test_prediction_of_empty_images_is_zero() -> None:
    metric = Metric((40, 40, 40), (2.0,) * 3)
    empty = torch.zeros(40, 40, 40)
    assert predict(checkpoint(), empty, empty, metric).eq(0).all()


def test_network_of_another_metric_is_rejected() -> None:
    moving, fixed, metric = pair_of()
    other = Metric(metric.shape, metric.spacing, gamma=0.1)
    with pytest.raises(ValueError, match='another metric'):
        predict(checkpoint(), moving, fixed, other)


def smooth_momentum(coarse_grid: CoarseGrid, size: float) -> Tensor:
    """Whitened momentum that moves a brain at the centre of the grid by some millimetres."""
    centre = tuple(n / 2 for n in coarse_grid.shape)
    ball = blob(coarse_grid.shape, centre, 7.0)
    return size * torch.stack([ball, -0.5 * ball, 0.3 * ball])


def test_input_holds_the_fixed_image_warped_back() -> None:
    moving, fixed, metric = pair_of()
    coarse_grid = CoarseGrid(metric, 4.0)
    whitened = smooth_momentum(coarse_grid, 0.1)
    phi = shoot(coarse_grid.unwhiten(whitened), metric).phi
    assert 2.0 * phi.norm(dim=0).max() > 3.0  # mm
    expected = coarse_grid.downsample(fields.interpolate(fixed[None], phi)[0])
    shown = RegistrationState(moving, fixed, coarse_grid).network_input(whitened).channels
    assert torch.equal(shown[0], coarse_grid.downsample(moving))
    # Interpolation on the coarse grid blurs more than on the voxels; half the change bounds it.
    assert (shown[1] - expected).norm() < 0.5 * (coarse_grid.downsample(fixed) - expected).norm()


@pytest.mark.parametrize('energy_spacing', [2.0, 4.0])
def test_input_holds_the_gradient_of_the_energy(energy_spacing: float) -> None:
    """Along any direction, the energy changes as the gradient says."""
    moving, fixed, metric = pair_of()
    coarse_grid = CoarseGrid(metric, 4.0)
    state = RegistrationState(
        moving, fixed, coarse_grid, energy_spacing=energy_spacing, output_scale=0.02
    )
    whitened = smooth_momentum(coarse_grid, 0.05)
    change = smooth_momentum(coarse_grid, 0.01).flip(0)
    result = state.network_input(whitened)
    assert result.energy == pytest.approx(float(state.energy(whitened)), rel=1e-5)
    slope = 0.02 * float((result.channels[5:8] * change).sum()) * 4.0**3
    there, here = state.energy(whitened + 0.1 * change), state.energy(whitened - 0.1 * change)
    assert float(there - here) / 0.2 == pytest.approx(slope, rel=0.02)
    assert torch.allclose(0.02 * result.channels[8:11], whitened)


def test_momentum_that_folds_has_no_energy() -> None:
    moving, fixed, metric = pair_of()
    coarse_grid = CoarseGrid(metric, 4.0)
    state = RegistrationState(moving, fixed, coarse_grid)
    whitened = smooth_momentum(coarse_grid, 3.0)
    assert state.energy(whitened) is None
    for result in (state.network_input(whitened), state.energy_only(whitened)):
        assert result.folds
        assert result.energy is None


def test_correction_iterates_from_its_last_result() -> None:
    moving, fixed, metric = pair_of()
    net, coarse_grid = _downhill(n_iterations=2), CoarseGrid(metric, 4.0)
    state = registration_state(net.spec, moving, fixed, metric)
    momentum = coarse_grid.unwhiten(smooth_momentum(coarse_grid, 0.02))
    found = start = coarse_grid.whiten(momentum)
    for _ in range(2):
        found = found + predict_update(net, state.network_input(found).channels)
    expected = momentum + coarse_grid.unwhiten(found - start)
    corrected = correct(net, momentum, moving, fixed, metric)
    assert torch.allclose(corrected, expected, atol=FLOAT32 * float(expected.abs().max()))
    once = replace(net, spec=replace(net.spec, n_iterations=1))
    assert torch.equal(
        correct(net, momentum, moving, fixed, metric, n_iterations=1),
        correct(once, momentum, moving, fixed, metric),
    )


@pytest.mark.parametrize('size', [-1.0, 50.0])
def test_wrong_network_does_not_raise_the_energy(size: float) -> None:
    """For updates that go uphill or fold the map."""
    moving, fixed, metric = pair_of()
    net = _downhill(size)
    state = registration_state(net.spec, moving, fixed, metric)
    found = state.coarse_grid.whiten(predict(net, moving, fixed, metric))
    assert float(state.energy(found)) <= float(state.energy(state.zero_momentum))


def _downhill(size: float = 0.05, **options: object) -> Checkpoint:
    """Network whose update is a step of gradient descent, whatever the images."""
    net = checkpoint(role='correction', stride=0, **options)
    with torch.no_grad():
        for parameter in net.network.parameters():
            parameter.zero_()
        for axis in range(3):
            net.network.shortcut.weight[axis, 3 + axis, 2, 2, 2] = -size
    return net


def test_equalised_images_have_a_flat_histogram() -> None:
    image = 1000 * blob((30, 30, 30), (15, 15, 15), 10.0) * random(30, 30, 30).abs()
    equalised = prepare_image(image, 'equalised')
    values = equalised[image > 0].sort().values
    ranks = torch.linspace(0, 1, len(values))
    # A flat histogram, to the share of its fullest bin.
    fullest = torch.histc(image[image > 0].clamp_max(float(image.max())), 256).max() / len(values)
    assert (values - ranks).abs().max() <= fullest + 0.01
    assert equalised[image == 0].eq(0).all()
    with pytest.raises(ValueError, match='no positive voxel'):
        prepare_image(torch.zeros(3, 3, 3), 'robust-maximum')


def test_mirrored_images_give_the_mirrored_output() -> None:
    """Although the weights are not symmetric."""
    net = checkpoint(stride=0)
    volume = random(2 + N_GRADIENT_CHANNELS, 19, 23, 19).abs()
    straight = apply_network(net.network, volume, 0)
    mirrored = apply_network(net.network, mirror(volume, 2), 0)
    assert torch.allclose(mirrored, mirror(straight, 0), atol=FLOAT32)
    assert not torch.allclose(straight, mirror(straight, 0), atol=0.01)


# Uncertainty


def test_uncertainty_is_the_standard_deviation_of_the_drawn_maps() -> None:
    moving, fixed, metric = pair_of()
    net = checkpoint(dropout=0.2)
    draws = [*draw_momenta(net, moving, fixed, metric, samples=4, seed=3)]
    assert not torch.equal(draws[0], draws[1])
    places = torch.stack([2.0 * shoot(m, metric).phi for m in draws])
    spread = sample_uncertainty(net, moving, fixed, metric, samples=4, seed=3)
    assert torch.allclose(spread, places.var(dim=0).sum(dim=0).sqrt(), atol=1e-4)
    assert not net.network.training
    larger = replace(net, spec=replace(net.spec, uncertainty_scale=3.0))
    inflated = sample_uncertainty(larger, moving, fixed, metric, samples=4, seed=3)
    assert torch.allclose(inflated, 3 * spread)


def test_draws_are_reproducible_and_do_not_change_the_global_generator() -> None:
    moving, fixed, metric = pair_of()
    net = checkpoint(dropout=0.2)
    torch.manual_seed(1)
    first = [*draw_momenta(net, moving, fixed, metric, samples=2)]
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1))
    again = [*draw_momenta(net, moving, fixed, metric, samples=2)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_uncertainty_needs_dropout() -> None:
    moving, fixed, metric = pair_of()
    with pytest.raises(ValueError, match='no dropout'):
        sample_uncertainty(checkpoint(), moving, fixed, metric, samples=3)


# Weights files


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    made = checkpoint(dropout=0.1)
    save_checkpoint(Checkpoint(made.network, made.spec, {'licence': 'CC0-1.0'}), tmp_path / 'a')
    read = load_checkpoint(tmp_path / 'a')
    patches = random(2, 2, 15, 15, 15)
    assert read.spec == made.spec
    assert read.card == {'licence': 'CC0-1.0'}
    assert torch.equal(read.network(patches), made.network(patches))
    assert torch.equal(load_network(tmp_path / 'a')(patches), made.network(patches))


OLD_NAMES = {
    'patch': 15,
    'hints': True,
    'detail': 3.0,
    'repeats': 4,
    'scale': 0.02,
    'inflation': 1.5,
}
"""Metadata fields of earlier versions."""


def test_file_with_the_old_field_names_is_read(tmp_path: Path) -> None:
    made = checkpoint()
    old = {'features': 2, 'spacing': 4.0, **OLD_NAMES}
    write_network(tmp_path / 'a', made.network, FORMAT, old, {})
    read = load_checkpoint(tmp_path / 'a')
    assert read.spec == replace(
        made.spec,
        patch_size=15,
        gradient_channels=True,
        energy_spacing=3.0,
        n_iterations=4,
        output_scale=0.02,
        uncertainty_scale=1.5,
    )
    patches = random(2, 2, 15, 15, 15)
    assert torch.equal(read.network(patches), made.network(patches))
    described = describe_weights(tmp_path / 'a')
    assert described['patch_size'] == 15
    assert not set(described) & set(OLD_NAMES)


def test_damaged_file_is_rejected(tmp_path: Path) -> None:
    save_checkpoint(checkpoint(), tmp_path / 'a.safetensors')
    content = bytearray((tmp_path / 'a.safetensors').read_bytes())
    content[-100] ^= 1
    (tmp_path / 'a.safetensors').write_bytes(content)
    with pytest.raises(WeightsError, match='checksum'):
        load_checkpoint(tmp_path / 'a.safetensors')


def test_error_of_an_unusable_file_names_it(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    (tmp_path / 'text').write_text('text')
    save_file({'a': torch.ones(1)}, tmp_path / 'foreign')
    reasons = {'none': 'no such', 'text': 'not a readable', 'foreign': 'not a deepreg_wf weights'}
    for name, reason in reasons.items():
        with pytest.raises(WeightsError, match=reason) as caught:
            load_checkpoint(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


# Weights of the original


def legacy_state(features: int) -> dict[str, Tensor]:
    """Random tensors in the layout of the original, scaled to keep signals near one."""
    state = {}

    def convolution(name: str, outputs: int, inputs: int, size: int) -> None:
        shape = (outputs, inputs, size, size, size)
        state[f'{name}.weight'] = random(*shape, seed=len(state)) * (2 / inputs / size**3) ** 0.5
        state[f'{name}.bias'] = 0.1 * random(outputs, seed=len(state))

    def slope(name: str) -> None:
        state[f'{name}.weight'] = 0.25 + 0.05 * random(1, seed=len(state))

    for image in 'mt':
        for stage, (inputs, f) in enumerate([(1, features), (features, 2 * features)], start=1):
            block = f'encoder_{image}_{stage}'
            convolution(f'{block}.conv_input', f, inputs, 3)
            convolution(f'{block}.conv_inblock1', f, f, 3)
            convolution(f'{block}.conv_inblock2', f, f, 3)
            convolution(f'{block}.conv_pooling', f, f, 2)
            for number in range(1, 5):
                slope(f'{block}.prelu{number}')
    for axis in 'xyz':
        for stage, (f, outputs, size) in enumerate(
            [(4 * features, 2 * features, 2), (2 * features, 1, 3)], start=1
        ):
            block = f'decoder_{axis}_{stage}'
            convolution(f'{block}.conv_unpooling', f, f, size)
            state[f'{block}.conv_unpooling.bias'] = 0.1 * random(f, seed=len(state))
            convolution(f'{block}.conv_inblock1', f, f, 3)
            convolution(f'{block}.conv_inblock2', f, f, 3)
            convolution(f'{block}.conv_output', outputs, f, 3)
            for number in range(1, 5):
                slope(f'{block}.prelu{number}')
    return state


def original_forward(state: dict[str, Tensor], pair: Tensor) -> Tensor:
    """Output of the original for a batch of patches, written out operation by operation."""

    def convolve(x: Tensor, name: str) -> Tensor:
        return F.conv3d(x, state[f'{name}.weight'], state[f'{name}.bias'], padding=1)

    def activate(x: Tensor, name: str) -> Tensor:
        return F.prelu(x, state[f'{name}.weight'])

    def encode(x: Tensor, block: str) -> Tensor:
        for layer, number in (('conv_input', 1), ('conv_inblock1', 2), ('conv_inblock2', 3)):
            x = activate(convolve(x, f'{block}.{layer}'), f'{block}.prelu{number}')
        weight, bias = (state[f'{block}.conv_pooling.{part}'] for part in ('weight', 'bias'))
        return activate(F.conv3d(x, weight, bias, stride=2, padding=1), f'{block}.prelu4')

    def decode(x: Tensor, block: str, last: bool) -> Tensor:
        weight, bias = (state[f'{block}.conv_unpooling.{part}'] for part in ('weight', 'bias'))
        x = activate(F.conv_transpose3d(x, weight, bias, stride=2, padding=1), f'{block}.prelu1')
        x = activate(convolve(x, f'{block}.conv_inblock1'), f'{block}.prelu2')
        x = activate(convolve(x, f'{block}.conv_inblock2'), f'{block}.prelu3')
        x = convolve(x, f'{block}.conv_output')
        return x if last else activate(x, f'{block}.prelu4')

    codes = [
        encode(encode(pair[:, i : i + 1], f'encoder_{image}_1'), f'encoder_{image}_2')
        for i, image in enumerate('mt')
    ]
    code = torch.cat(codes, dim=1)
    components = [
        decode(decode(code, f'decoder_{axis}_1', False), f'decoder_{axis}_2', True)
        for axis in 'xyz'
    ]
    return torch.cat(components, dim=1)


@pytest.fixture
def legacy(tmp_path: Path) -> Callable[..., tuple[Path, dict[str, Tensor]]]:
    def write(**entries: object) -> tuple[Path, dict[str, Tensor]]:
        state = legacy_state(3)
        content = {'state_dict': state, 'patch_size': 15, 'network_feature': 3, **entries}
        torch.save(content, tmp_path / 'legacy.pth.tar')
        return tmp_path / 'legacy.pth.tar', state

    return write


def test_converted_network_computes_the_output_of_the_original(legacy: Callable) -> None:
    path, state = legacy(deformation_params={'alpha': 0.02, 'beta': 0.01, 'gamma': 0.001})
    converted = convert_legacy(path, role='correction')
    pair = random(2, 2, 15, 15, 15)
    assert torch.allclose(converted.network(pair), original_forward(state, pair), atol=FLOAT32)
    assert converted.spec.metric == {**ORIGINAL_METRIC, 'alpha': 0.02}
    assert converted.spec.role == 'correction'
    assert not converted.spec.whitened


def test_kernels_of_torch_7_are_reversed(legacy: Callable) -> None:
    path, state = legacy(matlab_t7=True)
    pair = random(1, 2, 15, 15, 15)
    reverse = original_forward(state, pair.permute(0, 1, 4, 3, 2)).permute(0, 1, 4, 3, 2)
    assert torch.allclose(convert_legacy(path).network(pair), reverse, atol=FLOAT32)


def test_weights_of_a_data_parallel_network_are_read(legacy: Callable) -> None:
    path, state = legacy()
    renamed = {f'module.{name}': tensor for name, tensor in state.items()}
    torch.save({'state_dict': renamed, 'patch_size': 15, 'network_feature': 3}, path)
    pair = random(1, 2, 15, 15, 15)
    assert torch.allclose(
        convert_legacy(path).network(pair), original_forward(state, pair), atol=FLOAT32
    )


def test_converted_network_predicts_from_its_file(legacy: Callable, tmp_path: Path) -> None:
    path, state = legacy()
    save_checkpoint(convert_legacy(path), tmp_path / 'prediction.safetensors')
    read = load_checkpoint(tmp_path / 'prediction.safetensors')
    moving, fixed = random(15, 15, 15).abs(), random(15, 15, 15, seed=1).abs()
    metric = Metric((15, 15, 15), (1.0,) * 3, **ORIGINAL_METRIC)
    momentum = predict(read, moving, fixed, metric)
    expected = original_forward(state, torch.stack([moving, fixed])[None])[0]
    assert torch.allclose(momentum, expected, atol=10 * FLOAT32)


class _Harm:
    def __reduce__(self) -> tuple:
        return (print, ('harm',))


@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        ({'state_dict': {}}, 'lacks network_feature, patch_size'),
        ({'state_dict': {}, 'network_feature': 2, 'patch_size': 15}, 'not the layers'),
        ([1, 2], 'lacks state_dict'),
        (
            {
                'state_dict': legacy_state(2),
                'network_feature': 2,
                'patch_size': 15,
                'deformation_params': {'alpha': 'large'},
            },
            'not numbers',
        ),
        ({'state_dict': _Harm(), 'network_feature': 2, 'patch_size': 15}, 'plain values'),
    ],
)
def test_other_layouts_are_rejected(
    tmp_path: Path, content: object, reason: str, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / 'file.pth.tar'
    torch.save(content, path)
    with pytest.raises(WeightsError, match=reason):
        convert_legacy(path)
    assert 'harm' not in capsys.readouterr().out


def test_plain_pickle_is_not_executed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / 'file.pth.tar').write_bytes(pickle.dumps(_Harm()))
    with pytest.raises(WeightsError):
        convert_legacy(tmp_path / 'file.pth.tar')
    assert 'harm' not in capsys.readouterr().out

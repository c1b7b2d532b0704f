"""The networks, their patches and their files."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from deepreg_wf.lddmm import ORIGINAL_METRIC, Metric, fields, shoot
from deepreg_wf.quicksilver import (
    Checkpoint,
    QuicksilverNet,
    Spec,
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
from deepreg_wf.quicksilver.architecture import HINTS, correlation_forces
from deepreg_wf.quicksilver.coarse_grid import Blocks
from deepreg_wf.quicksilver.inputs import Scene, mirror
from deepreg_wf.quicksilver.patches import average, corners, fitting, gather
from deepreg_wf.quicksilver.prediction import apply_network, propose, scene_of

FLOAT32 = 1e-5
"""Rounding that a chain of convolutions in float32 may leave, for values of about one."""


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def blob(shape: tuple[int, int, int], centre: tuple[float, ...], radius: float = 6.0) -> Tensor:
    """Smooth ball with a bright core on empty ground."""
    axes = [torch.arange(n, dtype=torch.float32) - c for n, c in zip(shape, centre, strict=True)]
    x, y, z = torch.meshgrid(*axes, indexing='ij')
    distance = (x**2 + y**2 + z**2).sqrt()
    inside = (radius - distance).clamp(0, 2) / 2
    return inside * (0.6 + 0.4 * (distance < radius / 2))


def _is_touched(module: torch.nn.Module) -> bool:
    return any(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())


def checkpoint(**options: object) -> Checkpoint:
    torch.manual_seed(0)
    spec = Spec(**({'features': 2, 'spacing': 4.0, 'hints': True, 'scale': 0.02} | options))
    network = spec.new_network().eval()
    # Untrained hints do nothing; here they should.
    if spec.hints:
        torch.nn.init.normal_(network.shortcut.weight, std=0.05)
    return Checkpoint(network, spec)


# Architecture


@pytest.mark.parametrize('patch', [9, 10, 13, 15, 16, 23])
def test_a_patch_comes_out_in_the_size_it_went_in(patch: int) -> None:
    network = QuicksilverNet(2, patch=patch)
    assert network(random(2, 2, patch, patch, patch)).shape == (2, 3, patch, patch, patch)


def test_a_network_takes_patches_of_other_sides_with_the_same_weights() -> None:
    network = checkpoint().network
    patch = random(1, 2 + HINTS, 11, 19, 15)
    assert network(patch).shape == (1, 3, 11, 19, 15)


def test_hints_that_are_not_given_are_zero() -> None:
    network, pair = checkpoint().network, random(1, 2, 15, 15, 15)
    hints = torch.zeros(1, HINTS, 15, 15, 15)
    assert torch.equal(network(pair), network(torch.cat([pair, hints], dim=1)))


def test_the_original_size_has_the_parameters_that_the_paper_gives() -> None:
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


def test_dropout_acts_in_training_mode_alone() -> None:
    network, pair = QuicksilverNet(2, dropout=0.2), random(1, 2, 15, 15, 15)
    assert not torch.equal(network.train()(pair), network(pair))
    assert torch.equal(network.eval()(pair), network(pair))


def test_forces_vanish_between_like_images_and_do_not_mind_contrast() -> None:
    image = random(1, 1, 15, 15, 15).abs()
    alike = correlation_forces(image, 0.5 * image + 0.2)
    other = correlation_forces(image, random(1, 1, 15, 15, 15, seed=1).abs())
    # But for the floor under the variance.
    assert alike.abs().mean() < 0.05 * other.abs().mean()


def test_forces_pull_an_edge_to_where_the_other_image_has_it() -> None:
    """An image whose bright half begins later has to be moved forwards to meet it."""
    x = torch.arange(15.0).view(1, 1, 15, 1, 1).expand(1, 1, 15, 15, 15)
    early, late = torch.sigmoid(x - 6.5), torch.sigmoid(x - 8)
    forces = correlation_forces(early, late)[0, :, 6:9, 4:11, 4:11]
    assert forces[0].mean() < 0  # against the gradient: it is the image that decreases here
    assert forces[1:].abs().max() < FLOAT32


# Patches

CUBE = (15, 15, 15)


def test_a_patch_may_hold_all_that_is_there() -> None:
    occupied = torch.zeros(40, 33, 29, dtype=torch.bool)
    occupied[3:20, 5:20, 7:25] = True
    sides = fitting(occupied)
    assert sides == (19, 15, 19)
    (start,) = corners(occupied, sides, max(sides))
    for axis, (first, last) in enumerate(((3, 20), (5, 20), (7, 25))):
        assert start[axis] <= first
        assert start[axis] + sides[axis] >= last


@pytest.mark.parametrize('side', range(15, 23))
def test_one_patch_is_enough_whatever_the_size(side: int) -> None:
    occupied = torch.zeros(40, 33, 29, dtype=torch.bool)
    occupied[3 : 3 + side, 5 : 5 + side, 2 : 2 + side] = True
    sides = fitting(occupied)
    assert min(sides) >= side
    assert len(corners(occupied, sides, max(sides))) == 1


@pytest.mark.parametrize('stride', [14, 10, 5])
def test_patches_cover_what_is_there(stride: int) -> None:
    occupied = torch.zeros(40, 33, 29, dtype=torch.bool)
    occupied[3:38, 0:33, 7:20] = True
    starts = corners(occupied, CUBE, stride)
    ones = torch.ones(len(starts), 1, 15, 15, 15)
    assert average(ones, starts, occupied.shape)[0][occupied].eq(1).all()
    assert (starts >= 0).all()
    assert (starts + 15 <= torch.tensor(occupied.shape)).all()


def test_patches_in_which_there_is_nothing_are_left_out() -> None:
    occupied = torch.zeros(60, 20, 20, dtype=torch.bool)
    occupied[2:5, 8, 8] = occupied[55:58, 8, 8] = True
    assert len(corners(occupied, CUBE, 14)) == 2
    assert len(corners(torch.zeros(20, 20, 20, dtype=torch.bool), CUBE, 14)) == 0


def test_patches_move_with_the_brain() -> None:
    occupied = torch.zeros(50, 50, 50, dtype=torch.bool)
    occupied[10:35, 12:40, 8:30] = True
    shift = (3, -2, 5)
    shifted = corners(occupied.roll(shift, dims=(0, 1, 2)), CUBE, 14)
    assert torch.equal(shifted, corners(occupied, CUBE, 14) + torch.tensor(shift))


def test_a_volume_that_was_cut_up_comes_together_again() -> None:
    volume = random(3, 31, 40, 29)
    starts = corners(torch.ones(31, 40, 29, dtype=torch.bool), CUBE, 8)
    together = average(gather(volume, starts, CUBE), starts, volume.shape[1:])
    assert torch.allclose(together, volume, atol=1e-6)


def test_overlaps_are_averaged() -> None:
    starts = torch.tensor([[0, 0, 0], [1, 0, 0]])
    values = torch.stack([torch.zeros(1, 15, 15, 15), torch.ones(1, 15, 15, 15)])
    field = average(values, starts, (16, 15, 15))[0]
    assert torch.equal(field[0], torch.zeros(15, 15))
    assert torch.equal(field[15], torch.ones(15, 15))
    assert ((field[1:15] > 0) & (field[1:15] < 1)).all()


@pytest.mark.parametrize('batch_size', [1, 3, 1000])
def test_the_batch_size_does_not_matter(batch_size: int) -> None:
    network, pair = checkpoint().network, random(2, 40, 35, 30).abs()
    reference = apply_network(network, pair, 14)
    assert torch.allclose(
        apply_network(network, pair, 14, batch_size=batch_size), reference, atol=FLOAT32
    )


def test_a_volume_smaller_than_a_patch_is_filled_up() -> None:
    field = apply_network(checkpoint().network, random(2, 9, 20, 12).abs(), 14)
    assert field.shape == (3, 9, 20, 12)
    assert apply_network(checkpoint().network, torch.zeros(2, 20, 20, 20), 14).eq(0).all()


class _Hungry(QuicksilverNet):
    """A network on a device that holds two patches at once."""

    def forward(self, patches: Tensor) -> Tensor:
        if len(patches) > 2:
            raise torch.OutOfMemoryError('out of memory')
        return super().forward(patches)


def test_less_is_done_at_once_where_memory_runs_out() -> None:
    torch.manual_seed(0)
    network, pair = _Hungry(2).eval(), random(2, 40, 35, 30).abs()
    with pytest.warns(UserWarning, match='going on with 2 patches at once'):
        field = apply_network(network, pair, 14, batch_size=16)
    assert torch.equal(field, apply_network(network, pair, 14, batch_size=2))


class _Broken(QuicksilverNet):
    def forward(self, patches: Tensor) -> Tensor:
        raise RuntimeError('sizes do not match')


def test_what_is_no_want_of_memory_is_raised() -> None:
    with pytest.raises(RuntimeError, match='sizes do not match'):
        apply_network(_Broken(2), random(2, 20, 20, 20).abs(), 14)


# Blocks


@pytest.mark.parametrize(('shape', 'spacing'), [((44, 50, 41), 2.0), ((25, 22, 24), 4.0)])
def test_whitened_momenta_and_momenta_are_the_same_thing(
    shape: tuple[int, int, int], spacing: float
) -> None:
    metric = Metric(shape, (spacing,) * 3, dtype=torch.float64)
    blocks = Blocks(metric, 4.0)
    centre = [n / 2 for n in blocks.shape]
    ball = blob(blocks.shape, centre, radius=5.0).double()
    on_blocks = Metric(blocks.shape, (4.0,) * 3, dtype=torch.float64)
    smooth = on_blocks.velocity(torch.stack([ball] * 3))
    whitened = smooth / smooth.abs().max() * torch.tensor([1.0, -0.5, 0.2]).view(3, 1, 1, 1)
    momentum = blocks.colour(whitened)
    back = blocks.whiten(momentum)
    # The kernel's tails beyond the grid are lost.
    assert (back - whitened).abs().max() < 0.02
    energy = float(whitened.square().sum()) * 4.0**3
    assert float(metric.energy(momentum)) == pytest.approx(energy, rel=0.02)


def test_blocks_average_the_voxels_in_them() -> None:
    blocks = Blocks(Metric((8, 8, 8), (1.0,) * 3), 4.0)
    image = random(8, 8, 8)
    assert blocks.shape == (2, 2, 2)
    mean = float(image[4:, :4, 4:].mean())
    assert blocks.reduce(image)[1, 0, 1] == pytest.approx(mean, abs=1e-6)


@pytest.mark.parametrize('spacing', [3.0, 5.0])
def test_voxels_have_to_make_up_the_blocks(spacing: float) -> None:
    with pytest.raises(ValueError, match='blocks of 4 mm'):
        Blocks(Metric((20, 20, 20), (spacing,) * 3), 4.0)


# Prediction


def pair_of(shape: tuple[int, int, int] = (44, 48, 40)) -> tuple[Tensor, Tensor, Metric]:
    middle = tuple(n / 2 for n in shape)
    moving = blob(shape, middle, 12.0)
    fixed = blob(shape, (middle[0] + 1.5, *middle[1:]), 12.0)
    return moving, fixed, Metric(shape, (2.0, 2.0, 2.0))


def test_a_prediction_moves_with_the_brains() -> None:
    """By whole blocks, in the middle of the grid: patches, network and metric all do."""
    moving, fixed, metric = pair_of((64, 64, 64))
    net = checkpoint(hints=False)
    shift = (4, -4, 2)
    velocity = metric.velocity(predict(net, moving, fixed, metric))
    images = (image.roll(shift, dims=(0, 1, 2)) for image in (moving, fixed))
    shifted = metric.velocity(predict(net, *images, metric))
    difference = shifted - velocity.roll(shift, dims=(1, 2, 3))
    # Momenta of patches that end abruptly ring, and what of it lies beyond the grid is lost.
    assert difference.abs().max() < 0.02 * velocity.abs().max()


def test_nothing_is_predicted_where_there_is_nothing() -> None:
    metric = Metric((40, 40, 40), (2.0,) * 3)
    empty = torch.zeros(40, 40, 40)
    assert predict(checkpoint(), empty, empty, metric).eq(0).all()


def test_a_network_is_not_used_with_another_metric() -> None:
    moving, fixed, metric = pair_of()
    other = Metric(metric.shape, metric.spacing, gamma=0.1)
    with pytest.raises(ValueError, match='another metric'):
        predict(checkpoint(), moving, fixed, other)


def smooth_momentum(blocks: Blocks, size: float) -> Tensor:
    """Whitened momentum on blocks that moves a brain in their middle by some millimetres."""
    centre = tuple(n / 2 for n in blocks.shape)
    ball = blob(blocks.shape, centre, 7.0)
    return size * torch.stack([ball, -0.5 * ball, 0.3 * ball])


def test_a_scene_shows_the_fixed_image_warped_back() -> None:
    moving, fixed, metric = pair_of()
    blocks = Blocks(metric, 4.0)
    whitened = smooth_momentum(blocks, 0.1)
    phi = shoot(blocks.colour(whitened), metric).phi
    assert 2.0 * phi.norm(dim=0).max() > 3.0  # mm
    expected = blocks.reduce(fields.interpolate(fixed[None], phi)[0])
    shown = Scene(moving, fixed, blocks).view(whitened).channels
    assert torch.equal(shown[0], blocks.reduce(moving))
    # Interpolating blocks blurs more than interpolating voxels, by less than half the change.
    assert (shown[1] - expected).norm() < 0.5 * (blocks.reduce(fixed) - expected).norm()


@pytest.mark.parametrize('detail', [2.0, 4.0])
def test_a_scene_shows_the_gradient_of_its_energy(detail: float) -> None:
    """Along any direction, the energy changes as the gradient says."""
    moving, fixed, metric = pair_of()
    blocks = Blocks(metric, 4.0)
    scene = Scene(moving, fixed, blocks, detail=detail, scale=0.02)
    whitened, change = smooth_momentum(blocks, 0.05), smooth_momentum(blocks, 0.01).flip(0)
    view = scene.view(whitened)
    assert view.energy == pytest.approx(float(scene.energy(whitened)), rel=1e-5)
    slope = 0.02 * float((view.channels[5:8] * change).sum()) * 4.0**3
    there, here = scene.energy(whitened + 0.1 * change), scene.energy(whitened - 0.1 * change)
    assert float(there - here) / 0.2 == pytest.approx(slope, rel=0.02)
    assert torch.allclose(0.02 * view.channels[8:11], whitened)


def test_a_scene_sees_no_sense_in_what_folds() -> None:
    moving, fixed, metric = pair_of()
    blocks = Blocks(metric, 4.0)
    scene = Scene(moving, fixed, blocks)
    assert math.isinf(scene.view(smooth_momentum(blocks, 3.0)).energy)
    assert math.isinf(scene.energy(smooth_momentum(blocks, 3.0)))


def test_a_correction_takes_steps_each_from_where_the_last_one_led() -> None:
    moving, fixed, metric = pair_of()
    net, blocks = _downhill(repeats=2), Blocks(metric, 4.0)
    scene = scene_of(net.spec, moving, fixed, metric)
    found = start = blocks.whiten(blocks.colour(smooth_momentum(blocks, 0.02)))
    for _ in range(2):
        found = found + propose(net, scene.view(found))
    expected = blocks.colour(smooth_momentum(blocks, 0.02)) + blocks.colour(found - start)
    corrected = correct(net, blocks.colour(smooth_momentum(blocks, 0.02)), moving, fixed, metric)
    assert torch.allclose(corrected, expected, atol=FLOAT32 * float(expected.abs().max()))
    once = replace(net, spec=replace(net.spec, repeats=1))
    start = blocks.colour(smooth_momentum(blocks, 0.02))
    assert torch.equal(
        correct(net, start, moving, fixed, metric, repeats=1),
        correct(once, start, moving, fixed, metric),
    )


@pytest.mark.parametrize('size', [-1.0, 50.0])
def test_a_network_that_is_wrong_does_no_harm(size: float) -> None:
    """Uphill, or so far that all folds: the energy is never more than that of the affine."""
    moving, fixed, metric = pair_of()
    net = _downhill(size)
    scene = scene_of(net.spec, moving, fixed, metric)
    found = scene.blocks.whiten(predict(net, moving, fixed, metric))
    assert float(scene.energy(found)) <= float(scene.energy(scene.nothing))


def _downhill(size: float = 0.05, **options: object) -> Checkpoint:
    """A network that goes a share of the gradient downhill, and looks at no image."""
    net = checkpoint(role='correction', stride=0, **options)
    with torch.no_grad():
        for parameter in net.network.parameters():
            parameter.zero_()
        for axis in range(3):
            net.network.shortcut.weight[axis, 3 + axis, 2, 2, 2] = -size
    return net


def test_images_are_scaled_as_the_network_was_trained() -> None:
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


def test_a_mirrored_pair_has_the_mirrored_momentum() -> None:
    """Although nothing in the weights is symmetric."""
    net = checkpoint(stride=0)
    volume = random(2 + HINTS, 19, 23, 19).abs()
    straight = apply_network(net.network, volume, 0)
    mirrored = apply_network(net.network, mirror(volume, 2), 0)
    assert torch.allclose(mirrored, mirror(straight, 0), atol=FLOAT32)
    assert not torch.allclose(straight, mirror(straight, 0), atol=0.01)


# Uncertainty


def test_uncertainty_is_the_spread_of_what_is_drawn() -> None:
    moving, fixed, metric = pair_of()
    net = checkpoint(dropout=0.2)
    draws = [*draw_momenta(net, moving, fixed, metric, samples=4, seed=3)]
    assert not torch.equal(draws[0], draws[1])
    places = torch.stack([2.0 * shoot(m, metric).phi for m in draws])
    spread = sample_uncertainty(net, moving, fixed, metric, samples=4, seed=3)
    assert torch.allclose(spread, places.var(dim=0).sum(dim=0).sqrt(), atol=1e-4)
    assert not net.network.training
    larger = replace(net, spec=replace(net.spec, inflation=3.0))
    inflated = sample_uncertainty(larger, moving, fixed, metric, samples=4, seed=3)
    assert torch.allclose(inflated, 3 * spread)


def test_a_seed_repeats_the_draws_and_leaves_other_random_numbers_alone() -> None:
    moving, fixed, metric = pair_of()
    net = checkpoint(dropout=0.2)
    torch.manual_seed(1)
    first = [*draw_momenta(net, moving, fixed, metric, samples=2)]
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1))
    again = [*draw_momenta(net, moving, fixed, metric, samples=2)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_a_network_without_dropout_has_no_uncertainty() -> None:
    moving, fixed, metric = pair_of()
    with pytest.raises(ValueError, match='no dropout'):
        sample_uncertainty(checkpoint(), moving, fixed, metric, samples=3)


# Files


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    made = checkpoint(dropout=0.1)
    save_checkpoint(Checkpoint(made.network, made.spec, {'licence': 'CC0-1.0'}), tmp_path / 'a')
    read = load_checkpoint(tmp_path / 'a')
    patches = random(2, 2, 15, 15, 15)
    assert read.spec == made.spec
    assert read.card == {'licence': 'CC0-1.0'}
    assert torch.equal(read.network(patches), made.network(patches))
    assert torch.equal(load_network(tmp_path / 'a')(patches), made.network(patches))


def test_damage_is_noticed(tmp_path: Path) -> None:
    save_checkpoint(checkpoint(), tmp_path / 'a.safetensors')
    content = bytearray((tmp_path / 'a.safetensors').read_bytes())
    content[-100] ^= 1
    (tmp_path / 'a.safetensors').write_bytes(content)
    with pytest.raises(WeightsError, match='checksum'):
        load_checkpoint(tmp_path / 'a.safetensors')


def test_what_is_no_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    (tmp_path / 'text').write_text('not weights')
    save_file({'a': torch.ones(1)}, tmp_path / 'foreign')
    reasons = {'none': 'no such', 'text': 'not a readable', 'foreign': 'not weights'}
    for name, reason in reasons.items():
        with pytest.raises(WeightsError, match=reason) as caught:
            load_checkpoint(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


# The original's weights


def legacy_state(features: int) -> dict[str, Tensor]:
    """Tensors in the layout of the original, of random values that keep signals near one."""
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
    """What the original computes of a batch of patches, written out operation by operation."""

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


def test_a_converted_network_computes_what_the_original_does(legacy: Callable) -> None:
    path, state = legacy(deformation_params={'alpha': 0.02, 'beta': 0.01, 'gamma': 0.001})
    converted = convert_legacy(path, role='correction')
    pair = random(2, 2, 15, 15, 15)
    assert torch.allclose(converted.network(pair), original_forward(state, pair), atol=FLOAT32)
    assert converted.spec.metric == {**ORIGINAL_METRIC, 'alpha': 0.02}
    assert converted.spec.role == 'correction'
    assert not converted.spec.whitened


def test_weights_that_see_the_axes_in_reverse_are_turned_round(legacy: Callable) -> None:
    path, state = legacy(matlab_t7=True)
    pair = random(1, 2, 15, 15, 15)
    reverse = original_forward(state, pair.permute(0, 1, 4, 3, 2)).permute(0, 1, 4, 3, 2)
    assert torch.allclose(convert_legacy(path).network(pair), reverse, atol=FLOAT32)


def test_weights_of_a_network_on_several_gpus_are_read(legacy: Callable) -> None:
    path, state = legacy()
    renamed = {f'module.{name}': tensor for name, tensor in state.items()}
    torch.save({'state_dict': renamed, 'patch_size': 15, 'network_feature': 3}, path)
    pair = random(1, 2, 15, 15, 15)
    assert torch.allclose(
        convert_legacy(path).network(pair), original_forward(state, pair), atol=FLOAT32
    )


def test_a_converted_network_predicts_from_its_file(legacy: Callable, tmp_path: Path) -> None:
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
def test_what_is_not_the_original_layout_is_refused(
    tmp_path: Path, content: object, reason: str, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / 'file.pth.tar'
    torch.save(content, path)
    with pytest.raises(WeightsError, match=reason):
        convert_legacy(path)
    assert 'harm' not in capsys.readouterr().out


def test_a_plain_pickle_is_not_executed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / 'file.pth.tar').write_bytes(pickle.dumps(_Harm()))
    with pytest.raises(WeightsError):
        convert_legacy(tmp_path / 'file.pth.tar')
    assert 'harm' not in capsys.readouterr().out

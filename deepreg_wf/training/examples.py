"""Training examples: the input of a network for a pair of images, and the target output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from deepreg_wf.lddmm.images import content_box
from deepreg_wf.quicksilver.checkpoint import Checkpoint, NetworkSpec
from deepreg_wf.quicksilver.coarse_grid import CoarseGrid
from deepreg_wf.quicksilver.inputs import RegistrationState, mirror
from deepreg_wf.quicksilver.patches import bounding_patch_size, valid_patch_side
from deepreg_wf.quicksilver.prediction import predict_update, registration_state_on
from deepreg_wf.training.augmentation import augment
from deepreg_wf.training.samples import Sample

N_IMAGES = 2
"""Channels of the input that are images; the others are vectors."""


@dataclass(frozen=True)
class TrainingPair:
    """A pair of images, with its optimal momentum and the current one.

    Attributes
    ----------
    images : Tensor, shape (2, X, Y, Z), float16
        Moving and fixed image on the voxels, augmented.
    optimum : Tensor, shape (3, X, Y, Z)
        Whitened momentum that the networks should find, on the coarse grid.
    current : Tensor, shape (3, X, Y, Z)
        Whitened momentum that the networks have reached, on the coarse grid.
    """

    images: Tensor
    optimum: Tensor
    current: Tensor


@dataclass(frozen=True)
class TrainingExample:
    """Input and target of a network for a pair, cropped to the brains.

    Attributes
    ----------
    pair : TrainingPair
        Pair of images.
    origin : tuple of int, length 3
        First coarse voxel of the crop.
    channels : Tensor, shape (C, X, Y, Z), float16
        Channels of the `deepreg_wf.quicksilver.inputs.NetworkInput`.
    target : Tensor, shape (3, X, Y, Z), float16
        Difference of the optimal and the current momentum, in units of the output.
    """

    pair: TrainingPair
    origin: tuple[int, int, int]
    channels: Tensor
    target: Tensor


def make_pairs(samples: Sequence[Sample], variants: int, seed: int) -> list[TrainingPair]:
    """Make training pairs at the identity.

    Parameters
    ----------
    samples : sequence of Sample
        Pairs of images and their momenta.
    variants : int
        Augmented copies of each sample; with 0, each sample is used once without augmentation.
    seed : int
        Seed of the augmentation.

    Returns
    -------
    list of TrainingPair
    """
    pairs = []
    for number, sample in enumerate(samples):
        generator = Generator().manual_seed(seed * 1_009 + number)
        zero = torch.zeros_like(sample.whitened)
        if not variants:
            pairs.append(TrainingPair(sample.images, sample.whitened, zero))
        for _ in range(variants):
            images = torch.stack([augment(image, generator) for image in sample.images.float()])
            pairs.append(TrainingPair(images.half(), sample.whitened, zero))
    return pairs


def make_examples(
    pairs: Sequence[TrainingPair], coarse_grid: CoarseGrid, spec: NetworkSpec
) -> list[TrainingExample]:
    """Compute the input and the target of a network for pairs at their current momenta.

    Parameters
    ----------
    pairs : sequence of TrainingPair
        Pairs; those whose current map folds are left out.
    coarse_grid : CoarseGrid
        Coarse grid of the network over the images.
    spec : NetworkSpec
        Specification of the network.

    Returns
    -------
    list of TrainingExample
    """
    examples = []
    for pair in pairs:
        state = state_of_pair(pair, coarse_grid, spec)
        network_input = state.network_input(pair.current.to(coarse_grid.device))
        if network_input.channels is None or network_input.folds:
            continue
        target = (pair.optimum - pair.current) / spec.output_scale
        both = torch.cat([network_input.channels.cpu(), target])
        occupied = (both[:N_IMAGES] > 0).any(dim=0)
        x, y, z = (part.start for part in content_box(occupied, 0))
        p, q, r = bounding_patch_size(occupied)
        both = both[:, x : x + p, y : y + q, z : z + r].half().contiguous()
        examples.append(TrainingExample(pair, (x, y, z), both[:-3], both[-3:]))
    return examples


def advance(examples: Sequence[TrainingExample], checkpoint: Checkpoint) -> list[TrainingPair]:
    """Add the update of a network to the current momentum of each pair.

    Parameters
    ----------
    examples : sequence of TrainingExample
        Pairs with the input of the network.
    checkpoint : Checkpoint
        Network that advances the pairs.

    Returns
    -------
    list of TrainingPair
    """
    pairs = []
    device = next(checkpoint.network.parameters()).device
    for example in examples:
        change = predict_update(checkpoint, example.channels.to(device).float()).cpu()
        current = example.pair.current.clone()
        x, y, z = example.origin
        p, q, r = change.shape[1:]
        current[:, x : x + p, y : y + q, z : z + r] += change
        pairs.append(replace(example.pair, current=current))
    return pairs


def state_of_pair(
    pair: TrainingPair, coarse_grid: CoarseGrid, spec: NetworkSpec
) -> RegistrationState:
    """Make the registration state of a pair for a network.

    Parameters
    ----------
    pair : TrainingPair
        Pair of images.
    coarse_grid : CoarseGrid
        Coarse grid of the network over the images.
    spec : NetworkSpec
        Specification of the network.

    Returns
    -------
    RegistrationState
    """
    moving, fixed = pair.images.float().to(coarse_grid.device)
    return registration_state_on(coarse_grid, spec, moving, fixed)


def collate(examples: Sequence[TrainingExample], generator: Generator) -> tuple[Tensor, Tensor]:
    """Stack examples into a batch and mirror each with a probability of one half.

    Parameters
    ----------
    examples : sequence of TrainingExample
        Examples of one batch.
    generator : Generator
        Source of random numbers.

    Returns
    -------
    channels : Tensor, shape (batch, C, X, Y, Z)
        Input of the network, zero beyond the crops.
    targets : Tensor, shape (batch, 3, X, Y, Z)
        Target of the network, zero beyond the crops.
    """
    largest = [max(e.target.shape[axis] for e in examples) for axis in (1, 2, 3)]
    sides = [valid_patch_side(n) for n in largest]
    channels, targets = [], []
    for example in examples:
        both = torch.cat([example.channels, example.target]).float()
        if torch.rand(1, generator=generator) < 0.5:
            both = mirror(both, N_IMAGES)
        missing = [side - n for side, n in zip(sides, both.shape[1:], strict=True)]
        both = F.pad(both, [w for m in reversed(missing) for w in (m // 2, m - m // 2)])
        channels.append(both[:-3])
        targets.append(both[-3:])
    return torch.stack(channels), torch.stack(targets)

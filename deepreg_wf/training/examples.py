"""What a network is shown in training, and what it should say to it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from deepreg_wf.lddmm.images import content_box
from deepreg_wf.quicksilver.checkpoint import Checkpoint, Spec
from deepreg_wf.quicksilver.coarse_grid import Blocks
from deepreg_wf.quicksilver.inputs import Scene, View, mirror
from deepreg_wf.quicksilver.patches import fitting, whole_side
from deepreg_wf.quicksilver.prediction import propose, scene_on
from deepreg_wf.training.augmentation import vary
from deepreg_wf.training.samples import Sample

IMAGES = 2
"""Channels that are images; the others are vectors."""


@dataclass(frozen=True)
class Case:
    """A pair on its way from the identity to its momentum.

    Attributes
    ----------
    images : Tensor, shape (2, X, Y, Z), float16
        Moving and fixed on voxels, as the networks see them.
    whitened : Tensor, shape (3, X, Y, Z)
        Where it is to be led.
    start : Tensor, shape (3, X, Y, Z)
        Where it is.
    """

    images: Tensor
    whitened: Tensor
    start: Tensor


@dataclass(frozen=True)
class Exercise:
    """What there is to see of a case, and the answer to it, cut to the box of the brains.

    Attributes
    ----------
    case : Case
    first : tuple of 3 int
        First block of the box.
    channels : Tensor, shape (C, X, Y, Z), float16
        Those of `View`.
    answer : Tensor, shape (3, X, Y, Z), float16
        What of the momentum is missing, in units of the output of the network.
    """

    case: Case
    first: tuple[int, int, int]
    channels: Tensor
    answer: Tensor


def cases(samples: Sequence[Sample], variants: int, seed: int) -> list[Case]:
    """Begin with samples, in variants of contrast, bias and noise; 0: as they are."""
    found = []
    for number, sample in enumerate(samples):
        generator = Generator().manual_seed(seed * 1_009 + number)
        start = torch.zeros_like(sample.whitened)
        if not variants:
            found.append(Case(sample.images, sample.whitened, start))
        for _ in range(variants):
            varied = torch.stack([vary(image, generator) for image in sample.images.float()])
            found.append(Case(varied.half(), sample.whitened, start))
    return found


def show(cases: Sequence[Case], blocks: Blocks, spec: Spec) -> list[Exercise]:
    """Show a network of a kind where cases are; those that fold are left out."""
    exercises = []
    for case in cases:
        view = scene_of(case, blocks, spec).view(case.start.to(blocks.device))
        if math.isinf(view.energy):
            continue
        missing = (case.whitened - case.start) / spec.scale
        both = torch.cat([view.channels.cpu(), missing])
        occupied = (both[:IMAGES] > 0).any(dim=0)
        x, y, z = (part.start for part in content_box(occupied, 0))
        p, q, r = fitting(occupied)
        both = both[:, x : x + p, y : y + q, z : z + r].half().contiguous()
        exercises.append(Exercise(case, (x, y, z), both[:-3], both[-3:]))
    return exercises


def lead(exercises: Sequence[Exercise], checkpoint: Checkpoint) -> list[Case]:
    """Lead cases to where a network wants them."""
    led = []
    device = next(checkpoint.network.parameters()).device
    for exercise in exercises:
        channels = exercise.channels.to(device).float()
        change = propose(checkpoint, View(channels, math.nan)).cpu()
        start = exercise.case.start.clone()
        x, y, z = exercise.first
        p, q, r = change.shape[1:]
        start[:, x : x + p, y : y + q, z : z + r] += change
        led.append(replace(exercise.case, start=start))
    return led


def scene_of(case: Case, blocks: Blocks, spec: Spec) -> Scene:
    """A case as a network of a kind sees it."""
    moving, fixed = case.images.float().to(blocks.device)
    return scene_on(blocks, spec, moving, fixed)


def collate(exercises: Sequence[Exercise], generator: Generator) -> tuple[Tensor, Tensor]:
    """Put exercises into a batch, half of them mirrored.

    Returns
    -------
    channels : Tensor, shape (batch, C, X, Y, Z)
    answers : Tensor, shape (batch, 3, X, Y, Z)
        Both zero beyond the brains.
    """
    largest = [max(e.answer.shape[axis] for e in exercises) for axis in (1, 2, 3)]
    sides = [whole_side(n) for n in largest]
    channels, answers = [], []
    for exercise in exercises:
        both = torch.cat([exercise.channels, exercise.answer]).float()
        if torch.rand(1, generator=generator) < 0.5:
            both = mirror(both, IMAGES)
        missing = [side - n for side, n in zip(sides, both.shape[1:], strict=True)]
        both = F.pad(both, [w for m in reversed(missing) for w in (m // 2, m - m // 2)])
        channels.append(both[:-3])
        answers.append(both[-3:])
    return torch.stack(channels), torch.stack(answers)

"""Learning from teachers: the error of a momentum, measured in its metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ..architecture import QuicksilverNet
from .samples import Sample, draw_patches, pick

PER_SAMPLE = 4
"""Patches that a batch takes from each of its samples."""

SYNTHETIC = 0.35
"""Share of the samples that are random known geodesics."""

HELD_BACK = 200
"""Patches of validation brains that the error is measured on, about."""


@dataclass
class Imitation:
    """Mean square error of whitened momenta, patch by patch: that of the metric's own norm.

    Its figure is the share of the energy that is missed; predicting zero misses 1.

    Attributes
    ----------
    real, synthetic, validation : sequence of Sample
        Matched, random known, and held back.
    scale : float
        What an output of one stands for.
    patch, batch : int
    device : str
    """

    real: Sequence[Sample]
    synthetic: Sequence[Sample]
    validation: Sequence[Sample]
    scale: float
    patch: int
    batch: int
    device: str = 'cpu'

    def __post_init__(self) -> None:
        count = -(-HELD_BACK // len(self.validation))
        generator = Generator().manual_seed(0)
        self._held_back = draw_patches(self.validation, self.patch, count, generator)

    def loss(
        self, network: QuicksilverNet, step: int, generator: Generator
    ) -> tuple[Tensor, float]:
        """Error of a batch of random patches of random samples."""
        count = max(1, self.batch // PER_SAMPLE)
        samples = [self._sample(generator) for _ in range(count)]
        per_sample = self.batch // count
        error, zero = self._error(
            network, *draw_patches(samples, self.patch, per_sample, generator)
        )
        return error, float(error.detach()) / zero

    def _sample(self, generator: Generator) -> Sample:
        made = bool(torch.rand(1, generator=generator) < SYNTHETIC)
        return pick(self.synthetic if made and self.synthetic else self.real, generator)

    def validate(self, network: QuicksilverNet) -> float:
        """Share missed of the patches that are held back."""
        missed = total = 0.0
        inputs, targets = self._held_back
        for first in range(0, len(inputs), 64):
            some = slice(first, first + 64)
            error, zero = self._error(network, inputs[some], targets[some])
            missed += float(error) * len(inputs[some])
            total += zero * len(inputs[some])
        return missed / total

    def _error(
        self, network: QuicksilverNet, inputs: Tensor, targets: Tensor
    ) -> tuple[Tensor, float]:
        """Mean square error, and that of predicting zero."""
        inputs = inputs.to(self.device).contiguous(memory_format=torch.channels_last_3d)
        targets = targets.to(self.device) / self.scale
        on_gpu = torch.device(self.device).type == 'cuda'
        with torch.autocast('cuda', torch.bfloat16, enabled=on_gpu):
            output = network(inputs)
        return (output.float() - targets).square().mean(), float(targets.square().mean())

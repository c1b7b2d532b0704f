"""Learning from teachers: the error of a momentum, measured in its metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from deepreg_wf.quicksilver.architecture import QuicksilverNet
from deepreg_wf.training.examples import Exercise, collate

SYNTHETIC = 0.25
"""Share of the exercises that are random known geodesics."""


@dataclass
class Imitation:
    """Mean square error of whitened momenta: that of the metric's own norm.

    Its figure is the share of the energy that is missed; answering zero misses 1.

    Attributes
    ----------
    real, synthetic, validation : sequence of Exercise
        Of pairs that have been matched, of known geodesics, and held back.
    batch : int
        Exercises a step.
    device : str
    """

    real: Sequence[Exercise]
    synthetic: Sequence[Exercise]
    validation: Sequence[Exercise]
    batch: int
    device: str = 'cpu'

    def loss(
        self, network: QuicksilverNet, step: int, generator: Generator
    ) -> tuple[Tensor, float]:
        """Error of a batch of random exercises."""
        chosen = [self._pick(generator) for _ in range(self.batch)]
        error, zero = self._error(network, chosen, generator)
        return error, float(error.detach()) / zero

    def _pick(self, generator: Generator) -> Exercise:
        made = bool(torch.rand(1, generator=generator) < SYNTHETIC)
        group = self.synthetic if made and self.synthetic else self.real
        return group[int(torch.randint(len(group), (1,), generator=generator))]

    def validate(self, network: QuicksilverNet) -> float:
        """Share missed of the exercises that are held back."""
        missed = total = 0.0
        generator = Generator().manual_seed(0)
        for exercise in self.validation:
            error, zero = self._error(network, [exercise], generator)
            missed += float(error)
            total += zero
        return missed / total

    def _error(
        self, network: QuicksilverNet, exercises: Sequence[Exercise], generator: Generator
    ) -> tuple[Tensor, float]:
        """Mean square error, and that of answering zero."""
        channels, answers = collate(exercises, generator)
        channels = channels.to(self.device).contiguous(memory_format=torch.channels_last_3d)
        answers = answers.to(self.device)
        on_gpu = torch.device(self.device).type == 'cuda'
        with torch.autocast('cuda', torch.bfloat16, enabled=on_gpu):
            output = network(channels)
        return (output.float() - answers).square().mean(), float(answers.square().mean())

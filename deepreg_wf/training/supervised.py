"""Supervised training: the loss is the error of the momentum, in the norm of its metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from deepreg_wf.quicksilver.architecture import QuicksilverNet
from deepreg_wf.training.examples import TrainingExample, collate

SYNTHETIC_SHARE = 0.25
"""Probability of drawing a synthetic example."""


@dataclass
class SupervisedObjective:
    """Objective: the mean squared error of whitened momenta.

    Attributes
    ----------
    matched, synthetic, validation : sequence of TrainingExample
        Examples of matched pairs, of known geodesics, and for validation.
    batch_size : int
        Examples in a step.
    device : str
        Device of the network.

    Notes
    -----
    With targets u and outputs N, ``loss = mean (N - u)^2``. Up to a constant this is the squared
    norm of the error of the velocity in the metric, see `CoarseGrid`; the original uses the L1
    norm of the error of the momentum. The metric in the history is the relative error
    ``sum (N - u)^2 / sum u^2``, the share of the energy that is missing; it is 1 for an output of
    zero.
    """

    matched: Sequence[TrainingExample]
    synthetic: Sequence[TrainingExample]
    validation: Sequence[TrainingExample]
    batch_size: int
    device: str = 'cpu'

    def loss(
        self, network: QuicksilverNet, step: int, generator: Generator
    ) -> tuple[Tensor, float]:
        """Compute the error of a random batch.

        Parameters
        ----------
        network : QuicksilverNet
            Network to train.
        step : int
            Number of the step; not used.
        generator : Generator
            Source of random numbers.

        Returns
        -------
        loss : Tensor, shape ()
            Mean squared error.
        metric : float
            Relative error.
        """
        examples = [self._draw(generator) for _ in range(self.batch_size)]
        error, zero_error = self._errors(network, examples, generator)
        return error, float(error.detach()) / zero_error

    def _draw(self, generator: Generator) -> TrainingExample:
        """Draw a matched or a synthetic example."""
        is_synthetic = bool(torch.rand(1, generator=generator) < SYNTHETIC_SHARE)
        group = self.synthetic if is_synthetic and self.synthetic else self.matched
        return group[int(torch.randint(len(group), (1,), generator=generator))]

    def validate(self, network: QuicksilverNet) -> float:
        """Compute the relative error of the examples for validation.

        Parameters
        ----------
        network : QuicksilverNet
            Network to validate.

        Returns
        -------
        float
        """
        error_sum = zero_sum = 0.0
        generator = Generator().manual_seed(0)
        for example in self.validation:
            error, zero_error = self._errors(network, [example], generator)
            error_sum += float(error)
            zero_sum += zero_error
        return error_sum / zero_sum

    def _errors(
        self, network: QuicksilverNet, examples: Sequence[TrainingExample], generator: Generator
    ) -> tuple[Tensor, float]:
        """Return the mean squared error of the network, and that of an output of zero."""
        channels, targets = collate(examples, generator)
        channels = channels.to(self.device).contiguous(memory_format=torch.channels_last_3d)
        targets = targets.to(self.device)
        on_gpu = torch.device(self.device).type == 'cuda'
        with torch.autocast('cuda', torch.bfloat16, enabled=on_gpu):
            output = network(channels)
        return (output.float() - targets).square().mean(), float(targets.square().mean())

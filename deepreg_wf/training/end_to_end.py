"""End-to-end training: the loss is the energy of the matching, without target momenta."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from deepreg_wf.quicksilver.architecture import QuicksilverNet
from deepreg_wf.quicksilver.checkpoint import NetworkSpec
from deepreg_wf.quicksilver.coarse_grid import CoarseGrid
from deepreg_wf.quicksilver.patches import extract_patches
from deepreg_wf.quicksilver.prediction import apply_patchwise
from deepreg_wf.training.examples import TrainingPair, state_of_pair


@dataclass
class EndToEndObjective:
    """Objective: the energy of the matching that the update of a network leads to.

    Attributes
    ----------
    training, validation : sequence of TrainingPair
        Pairs to train on and to validate with.
    spec : NetworkSpec
        Specification of the network.
    coarse_grid : CoarseGrid
        Coarse grid of the network over the images.

    Notes
    -----
    With the whitened momentum u_0 of the pair and the update N(u_0) of the network,

        loss = E(u_0 + N(u_0)) / E(0),  E(u) = 1/2 ||u||^2 + D(I0 o phi^-1, I1),

    where phi is the end of the geodesic of u. The gradient is propagated through the shooting and
    the interpolation. The metric in the history is the loss itself.
    """

    training: Sequence[TrainingPair]
    validation: Sequence[TrainingPair]
    spec: NetworkSpec
    coarse_grid: CoarseGrid

    def loss(
        self, network: QuicksilverNet, step: int, generator: Generator
    ) -> tuple[Tensor, float]:
        """Compute the relative energy of a random pair.

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
        metric : float
            The value of the loss.
        """
        pair = self.training[int(torch.randint(len(self.training), (1,), generator=generator))]
        energy = self._relative_energy(network, pair)
        return energy, float(energy.detach())

    def validate(self, network: QuicksilverNet) -> float:
        """Compute the mean relative energy of the pairs for validation.

        Parameters
        ----------
        network : QuicksilverNet
            Network to validate.

        Returns
        -------
        float
        """
        energies = [float(self._relative_energy(network, pair)) for pair in self.validation]
        return sum(energies) / len(energies)

    def _relative_energy(self, network: QuicksilverNet, pair: TrainingPair) -> Tensor:
        """Return the energy after the update of a network, divided by that of the identity."""
        spec = self.spec
        state = state_of_pair(pair, self.coarse_grid, spec)
        current = pair.current.to(self.coarse_grid.device)

        def evaluate(volume: Tensor, origins: Tensor, sides: Sequence[int]) -> Tensor:
            patches = extract_patches(volume, origins, sides)
            output: Tensor = network(patches.contiguous(memory_format=torch.channels_last_3d))
            return output

        channels = state.network_input(current).channels
        zero_energy = state.energy(state.zero_momentum)
        if channels is None or zero_energy is None:
            raise ValueError('the momentum of a training pair is too large to be shot')
        update = apply_patchwise(evaluate, channels, network, spec.stride)
        updated = current + spec.output_scale * update
        energy = state.energy(updated)
        if energy is None:
            # The map folds, so that its energy has no gradient: lead back towards the identity.
            energy = zero_energy + updated.square().sum()
        return (energy / zero_energy).float()

"""Learning without teachers: the energy of the matching that a network leads to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from deepreg_wf.quicksilver.architecture import QuicksilverNet
from deepreg_wf.quicksilver.checkpoint import Spec
from deepreg_wf.quicksilver.coarse_grid import Blocks
from deepreg_wf.quicksilver.patches import gather
from deepreg_wf.quicksilver.prediction import patchwise
from deepreg_wf.training.examples import Case, scene_of


@dataclass
class EndToEnd:
    """Energy ``1/2 <m, K m> + mismatch(I0 o phi^-1, I1)`` of what a network makes of a pair.

    What it answers is added to the momentum of the view and shot, and the image warped; the
    gradient comes back through all of that. Its figure is the energy in that of the identity.

    Attributes
    ----------
    training, validation : sequence of Case
    spec : Spec
        Of the network.
    blocks : Blocks
    """

    training: Sequence[Case]
    validation: Sequence[Case]
    spec: Spec
    blocks: Blocks

    def loss(
        self, network: QuicksilverNet, step: int, generator: Generator
    ) -> tuple[Tensor, float]:
        """Relative energy of a random case."""
        case = self.training[int(torch.randint(len(self.training), (1,), generator=generator))]
        energy = self._energy(network, case)
        return energy, float(energy.detach())

    def validate(self, network: QuicksilverNet) -> float:
        """Mean relative energy of the pairs that are held back."""
        energies = [float(self._energy(network, case)) for case in self.validation]
        return sum(energies) / len(energies)

    def _energy(self, network: QuicksilverNet, case: Case) -> Tensor:
        """Energy of what the network makes of a case, in that of the identity."""
        spec = self.spec
        scene = scene_of(case, self.blocks, spec)
        start = case.start.to(self.blocks.device)

        def run(volume: Tensor, starts: Tensor, sides: Sequence[int]) -> Tensor:
            patches = gather(volume, starts, sides)
            output: Tensor = network(patches.contiguous(memory_format=torch.channels_last_3d))
            return output

        channels = scene.view(start).channels
        found = start + spec.scale * patchwise(run, channels, network, spec.stride)
        zero = scene.energy(scene.nothing)
        energy = scene.energy(found)
        if not energy.isfinite():  # it folds: back towards nothing
            energy = zero + found.square().sum()
        return (energy / zero).float()

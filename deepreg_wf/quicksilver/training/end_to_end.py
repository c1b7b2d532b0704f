"""Learning without teachers: the energy of the matching that a prediction reaches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ...lddmm import DEFAULT_SIMILARITY, Metric, fields
from ...lddmm.lattice import Lattice
from ...lddmm.shooting import follow, steps_needed
from ..architecture import QuicksilverNet
from ..blocks import Blocks
from ..patches import gather
from ..prediction import patchwise
from ..weights import Spec
from .augment import mirror, vary
from .samples import NEGLIGIBLE_GAIN


@dataclass(frozen=True)
class Task:
    """A pair to be registered.

    Attributes
    ----------
    images : Tensor, shape (2, X, Y, Z)
        Moving and fixed, on the blocks.
    seen : Tensor, shape (2, X, Y, Z)
        What the network is shown; for a correction, the fixed image has been warped back.
    start : Tensor, shape (3, X, Y, Z)
        Whitened momentum that the network adds to.
    """

    images: Tensor
    seen: Tensor
    start: Tensor


@dataclass
class EndToEnd:
    """Energy ``1/2 <m, K m> + mismatch(I0 o phi^-1, I1)`` of what a network predicts.

    A prediction is put together from its patches, shot, and the image warped; the gradient comes
    back through all of that. Its figure is the energy in that of the images as they are.

    Attributes
    ----------
    training, validation : sequence of Task
    spec : Spec
        Of the network.
    metric : Metric
        On the blocks.
    """

    training: Sequence[Task]
    validation: Sequence[Task]
    spec: Spec
    metric: Metric

    def __post_init__(self) -> None:
        self._blocks = Blocks(self.metric, self.spec.spacing)
        self._lattice = Lattice.around(self.metric, negligible=NEGLIGIBLE_GAIN)

    def loss(
        self, network: QuicksilverNet, step: int, generator: Generator
    ) -> tuple[Tensor, float]:
        """Relative energy of a random pair."""
        task = self.training[int(torch.randint(len(self.training), (1,), generator=generator))]
        images, seen, start = task.images, task.seen, task.start
        if torch.rand(1, generator=generator) < 0.5:
            images, start = mirror(images, start)
            seen = seen.flip(1)
        seen = torch.stack([vary(image, generator) for image in seen])
        energy = self._energy(network, Task(images, seen, start))
        return energy, float(energy.detach())

    def validate(self, network: QuicksilverNet) -> float:
        """Mean relative energy of the pairs that are held back."""
        energies = [float(self._energy(network, task)) for task in self.validation]
        return sum(energies) / len(energies)

    def _energy(self, network: QuicksilverNet, task: Task) -> Tensor:
        """Energy of what the network makes of a task, in that of the identity."""
        device = self.metric.device
        moving, fixed = task.images.to(device)

        def run(pair: Tensor, starts: Tensor) -> Tensor:
            patches = gather(pair, starts, network.patch)
            output: Tensor = network(patches.contiguous(memory_format=torch.channels_last_3d))
            return output

        added = patchwise(run, task.seen.to(device), network.patch, self.spec.stride)
        momentum = self._blocks.colour(task.start.to(device) + self.spec.scale * added)
        on_lattice = self._lattice.restrict(momentum)
        steps = steps_needed(on_lattice.detach(), self._lattice)
        inverse = self._lattice.displacement(follow(on_lattice, self._lattice, steps).inverse)
        warped = fields.interpolate(moving.unsqueeze(0), inverse)[0]
        mismatch = DEFAULT_SIMILARITY.against(fixed, self.metric.spacing, None)
        energy = self._lattice.metric.energy(on_lattice) / 2 + mismatch(warped, None)
        return (energy / mismatch(moving, None)).float()

"""What a network learns from: pairs of images, and the momentum between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Generator, Tensor

from deepreg_wf.lddmm import fields
from deepreg_wf.lddmm.shooting import follow, steps_needed
from deepreg_wf.quicksilver.coarse_grid import Blocks
from deepreg_wf.training.cohort import TEMPLATE, Cohort
from deepreg_wf.training.targets import Pair, keep

MIXED = 3
"""Teachers that a random momentum is mixed from."""

AMPLITUDE = (0.4, 1.2)
"""Size of a random momentum, in that of the teachers."""


@dataclass(frozen=True)
class Sample:
    """A pair of images and what a network should make of it.

    Attributes
    ----------
    images : Tensor, shape (2, X, Y, Z), float16
        Moving and fixed, on voxels, in [0, 1].
    whitened : Tensor, shape (3, X, Y, Z)
        ``K^(1/2) m`` on the blocks.
    """

    images: Tensor
    whitened: Tensor


def taught(cohort: Cohort, teachers: Mapping[Pair, Tensor]) -> list[Sample]:
    """Samples of pairs that have been matched."""
    images = {name: cohort.image(name).half() for pair in teachers for name in pair}
    return [
        Sample(torch.stack([images[pair.moving], images[pair.fixed]]), whitened)
        for pair, whitened in teachers.items()
    ]


def known_geodesics(
    cohort: Cohort,
    momenta: Sequence[Tensor],
    blocks: Blocks,
    count: int,
    seed: int,
    folder: Path,
) -> list[Sample]:
    """Make random known geodesics, or read those of earlier calls; see `known_geodesic`."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = []
    for number in range(count):
        path = folder / f'{cohort.digest}_{len(momenta)}_{seed}_{number}.safetensors'
        if not path.exists():
            generator = Generator().manual_seed(seed * 100_003 + number)
            made = known_geodesic(cohort, momenta, blocks, generator)
            keep(path, images=made.images, whitened=made.whitened)
        tensors = load_file(path)
        samples.append(Sample(tensors['images'], tensors['whitened'].float()))
    return samples


def known_geodesic(
    cohort: Cohort,
    momenta: Sequence[Tensor],
    blocks: Blocks,
    generator: Generator,
    *,
    names: Sequence[str] = (),
) -> Sample:
    """Deform a brain by a random geodesic: its momentum is known without matching.

    The momentum is a random mixture of those of teachers, so that it has their statistics, and
    the brain is the template every other time, else one of `names`: those to train on by default.
    """
    names = names or cohort.training
    use_template = bool(torch.rand(1, generator=generator) < 0.5)
    name = TEMPLATE if use_template else names[_draw(len(names), generator)]
    weights = torch.randn(MIXED, generator=generator)
    low, high = AMPLITUDE
    size = low + (high - low) * float(torch.rand(1, generator=generator))
    weights *= size / float(weights.norm())
    chosen = [momenta[_draw(len(momenta), generator)] for _ in range(MIXED)]
    whitened = torch.tensordot(weights, torch.stack(chosen), dims=1)
    image = cohort.image(name).to(blocks.device)
    warped = fields.interpolate(
        image.unsqueeze(0), _inverse_map(whitened.to(blocks.device), blocks)
    )
    pair = torch.stack([image, warped[0]])
    return Sample(pair.half().cpu(), whitened)


def _inverse_map(whitened: Tensor, blocks: Blocks) -> Tensor:
    """Displacement of phi^-1 on the voxels, in voxels."""
    with torch.no_grad():
        start = blocks.on_lattice(whitened)
        path = follow(start, blocks.lattice, steps_needed(start, blocks.lattice))
        return blocks.lattice.displacement(path.inverse)


def _draw(n: int, generator: Generator) -> int:
    return int(torch.randint(n, (1,), generator=generator))

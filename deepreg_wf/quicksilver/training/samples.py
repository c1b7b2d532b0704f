"""What a network learns from: pairs of images on blocks, and the momentum between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Generator, Tensor

from ...lddmm import fields
from ...lddmm.lattice import Lattice
from ...lddmm.shooting import follow, steps_needed
from ..blocks import Blocks
from ..patches import gather
from .augment import mirror, vary
from .cohort import TEMPLATE, Cohort
from .teachers import Pair, keep

NEGLIGIBLE_GAIN = 1 / 125
"""As that of `Lattice`: one of 4 mm carries momenta of blocks of that size."""

MIXED = 3
"""Teachers that a random momentum is mixed from."""

AMPLITUDE = (0.4, 1.2)
"""Size of a random momentum, in that of the teachers."""

JITTER = 3
"""Blocks by which a patch may stick out of the brain."""


@dataclass(frozen=True)
class Sample:
    """A pair of images and what a network should make of it.

    Attributes
    ----------
    images : Tensor, shape (2, X, Y, Z)
        Moving and fixed, on the blocks, in [0, 1].
    whitened : Tensor, shape (3, X, Y, Z)
        ``K^(1/2) m``.
    """

    images: Tensor
    whitened: Tensor


def taught(cohort: Cohort, teachers: Mapping[Pair, Tensor], blocks: Blocks) -> list[Sample]:
    """Samples of pairs that have been matched."""
    names = {name for pair in teachers for name in pair}
    reduced = {name: blocks.reduce(cohort.image(name)) for name in names}
    return [
        Sample(torch.stack([reduced[pair.moving], reduced[pair.fixed]]), whitened)
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
        samples.append(Sample(tensors['images'].float(), tensors['whitened'].float()))
    return samples


def known_geodesic(
    cohort: Cohort, momenta: Sequence[Tensor], blocks: Blocks, generator: Generator
) -> Sample:
    """Deform a brain by a random geodesic: its momentum is known without matching.

    The momentum is a random mixture of those of teachers, so that it has their statistics, and
    the brain is the template every other time.
    """
    names = cohort.training
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
    pair = torch.stack([blocks.reduce(image), blocks.reduce(warped[0])])
    return Sample(pair.cpu(), whitened)


def _inverse_map(whitened: Tensor, blocks: Blocks) -> Tensor:
    """Displacement of phi^-1 on the voxels, in voxels."""
    lattice = Lattice.around(blocks.image, negligible=NEGLIGIBLE_GAIN)
    with torch.no_grad():
        start = lattice.restrict(blocks.colour(whitened))
        path = follow(start, lattice, steps_needed(start, lattice))
        return lattice.displacement(path.inverse)


def draw_patches(
    samples: Sequence[Sample], patch: int, count: int, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Cut random patches out of varied images, `count` from each sample.

    Returns
    -------
    inputs : Tensor, shape (patches, 2, P, P, P)
    targets : Tensor, shape (patches, 3, P, P, P)
    """
    inputs, targets = [], []
    for sample in samples:
        images = torch.stack([vary(image, generator) for image in sample.images])
        field = sample.whitened
        if torch.rand(1, generator=generator) < 0.5:
            images, field = mirror(images, field)
        starts = _random_starts(images, patch, count, generator)
        inputs.append(gather(images, starts, patch))
        targets.append(gather(field, starts, patch))
    return torch.cat(inputs), torch.cat(targets)


def _random_starts(images: Tensor, patch: int, count: int, generator: Generator) -> Tensor:
    """First voxels of patches anywhere in the box of the brains, and a little beyond."""
    voxels = torch.nonzero((images > 0).any(dim=0))
    shape = torch.tensor(images.shape[1:])
    low = (voxels.amin(dim=0) - JITTER).clamp_min(0)
    last = torch.minimum(voxels.amax(dim=0) + 1 + JITTER, shape) - patch
    low = torch.minimum(low, last.clamp_min(0))
    room = (last - low).clamp_min(0) + 1
    return low + (torch.rand(count, 3, generator=generator) * room).long()


def pick(samples: Sequence[Sample], generator: Generator) -> Sample:
    """Choose a sample at random."""
    return samples[_draw(len(samples), generator)]


def _draw(n: int, generator: Generator) -> int:
    return int(torch.randint(n, (1,), generator=generator))

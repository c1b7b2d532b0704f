"""Training samples: pairs of images and the momentum between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Generator, Tensor

from deepreg_wf.lddmm import fields
from deepreg_wf.lddmm.shooting import integrate, steps_needed
from deepreg_wf.quicksilver.coarse_grid import CoarseGrid
from deepreg_wf.training.cohort import TEMPLATE, Cohort
from deepreg_wf.training.targets import BrainPair, save_half

N_MIXED = 3
"""Momenta that a random momentum is a linear combination of."""

AMPLITUDE = (0.4, 1.2)
"""Range of the norm of the coefficients of a random momentum."""


@dataclass(frozen=True)
class Sample:
    """A pair of images and the momentum between them.

    Attributes
    ----------
    images : Tensor, shape (2, X, Y, Z), float16
        Moving and fixed image on the voxels, in [0, 1].
    whitened : Tensor, shape (3, X, Y, Z)
        Whitened momentum ``K^(1/2) m`` on the coarse grid.
    """

    images: Tensor
    whitened: Tensor


def matched_samples(cohort: Cohort, targets: Mapping[BrainPair, Tensor]) -> list[Sample]:
    """Make samples of pairs of brains that have been matched.

    Parameters
    ----------
    cohort : Cohort
        Brains by name.
    targets : mapping of BrainPair to Tensor, shape (3, X, Y, Z)
        Whitened momenta; see `deepreg_wf.training.targets.compute_targets`.

    Returns
    -------
    list of Sample
    """
    images = {name: cohort.image(name).half() for pair in targets for name in pair}
    return [
        Sample(torch.stack([images[pair.moving], images[pair.fixed]]), whitened)
        for pair, whitened in targets.items()
    ]


def known_geodesics(
    cohort: Cohort,
    momenta: Sequence[Tensor],
    coarse_grid: CoarseGrid,
    count: int,
    seed: int,
    folder: Path,
) -> list[Sample]:
    """Make samples of random geodesics, or read those of earlier calls.

    Parameters
    ----------
    cohort : Cohort
        Brains that are deformed.
    momenta : sequence of Tensor, shape (3, X, Y, Z)
        Whitened momenta that are mixed; see `known_geodesic`.
    coarse_grid : CoarseGrid
        Coarse grid of the networks over the images.
    count : int
        Number of samples.
    seed : int
        Seed of the random momenta.
    folder : Path
        Folder of the files, one for each sample.

    Returns
    -------
    list of Sample
    """
    folder.mkdir(parents=True, exist_ok=True)
    samples = []
    for number in range(count):
        path = folder / f'{cohort.digest}_{len(momenta)}_{seed}_{number}.safetensors'
        if not path.exists():
            generator = Generator().manual_seed(seed * 100_003 + number)
            sample = known_geodesic(cohort, momenta, coarse_grid, generator)
            save_half(path, images=sample.images, whitened=sample.whitened)
        tensors = load_file(path)
        samples.append(Sample(tensors['images'], tensors['whitened'].float()))
    return samples


def known_geodesic(
    cohort: Cohort,
    momenta: Sequence[Tensor],
    coarse_grid: CoarseGrid,
    generator: Generator,
    *,
    names: Sequence[str] = (),
) -> Sample:
    """Deform a brain by a random geodesic, whose momentum is then known exactly.

    Parameters
    ----------
    cohort : Cohort
        Brains.
    momenta : sequence of Tensor, shape (3, X, Y, Z)
        Whitened momenta on the coarse grid. The random momentum is a linear combination of
        `N_MIXED` of them, so that it has their statistics.
    coarse_grid : CoarseGrid
        Coarse grid of the networks over the images.
    generator : Generator
        Source of random numbers.
    names : sequence of str
        Brains of which one is deformed, unless it is the template, with a probability of one
        half; the training brains by default.

    Returns
    -------
    Sample
        The brain, the deformed brain, and the momentum.
    """
    names = names or cohort.training
    use_template = bool(torch.rand(1, generator=generator) < 0.5)
    name = TEMPLATE if use_template else names[_random_index(len(names), generator)]
    weights = torch.randn(N_MIXED, generator=generator)
    low, high = AMPLITUDE
    norm = low + (high - low) * float(torch.rand(1, generator=generator))
    weights *= norm / float(weights.norm())
    chosen = [momenta[_random_index(len(momenta), generator)] for _ in range(N_MIXED)]
    whitened = torch.tensordot(weights, torch.stack(chosen), dims=1)
    image = cohort.image(name).to(coarse_grid.device)
    inverse = _inverse_map(whitened.to(coarse_grid.device), coarse_grid)
    warped = fields.interpolate(image.unsqueeze(0), inverse)
    pair = torch.stack([image, warped[0]])
    return Sample(pair.half().cpu(), whitened)


def _inverse_map(whitened: Tensor, coarse_grid: CoarseGrid) -> Tensor:
    """Return the displacement of phi^-1 on the voxels, in voxels, shape (3, X, Y, Z)."""
    lattice = coarse_grid.lattice
    with torch.no_grad():
        start = coarse_grid.unwhiten_on_lattice(whitened)
        end = integrate(start, lattice, steps_needed(start, lattice))
        return lattice.displacement(end.inverse)


def _random_index(n: int, generator: Generator) -> int:
    return int(torch.randint(n, (1,), generator=generator))

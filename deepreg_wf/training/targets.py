"""Target momenta: optimal momenta between the brains of a cohort, found by matching."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from deepreg_wf.lddmm import EnergyTerms, MatchingSchedule, match
from deepreg_wf.quicksilver.coarse_grid import CoarseGrid
from deepreg_wf.training.cohort import TEMPLATE, Cohort
from deepreg_wf.utils.atomic import atomic_write

SCHEDULE = MatchingSchedule(iterations=(25, 12), tolerance=0.01)
"""Iterations of the matching: nearly to convergence, since a network cannot exceed its targets."""


class BrainPair(NamedTuple):
    """Names of two brains of a cohort, of which one is moved onto the other.

    Attributes
    ----------
    moving, fixed : str
        Names of the brains.
    """

    moving: str
    fixed: str

    def __str__(self) -> str:
        return f'{self.moving}-to-{self.fixed}'


def choose_pairs(names: Sequence[str], n_between: int, seed: int) -> list[BrainPair]:
    """Choose the pairs to match: each brain with the template both ways, and some of two brains.

    Parameters
    ----------
    names : sequence of str
        Names of the brains, without the template.
    n_between : int
        Number of pairs of two brains.
    seed : int
        Seed of the choice.

    Returns
    -------
    list of BrainPair
        The pairs with the template come first.
    """
    from_template = [BrainPair(TEMPLATE, name) for name in names]
    to_template = [BrainPair(name, TEMPLATE) for name in names]
    others = [BrainPair(*pair) for pair in itertools.permutations(names, 2)]
    order = torch.randperm(len(others), generator=torch.Generator().manual_seed(seed))
    return [*from_template, *to_template, *(others[i] for i in order[:n_between].tolist())]


def compute_targets(
    cohort: Cohort,
    pairs: Sequence[BrainPair],
    coarse_grid: CoarseGrid,
    terms: EnergyTerms,
    folder: Path,
    log: Callable[[str], None],
) -> dict[BrainPair, Tensor]:
    """Match pairs of brains, or read the momenta of earlier calls.

    Parameters
    ----------
    cohort : Cohort
        Brains by name.
    pairs : sequence of BrainPair
        Pairs to match.
    coarse_grid : CoarseGrid
        Coarse grid of the networks over the images.
    terms : EnergyTerms
        Terms of the energy of the matching.
    folder : Path
        Folder of the momenta. The names of the files contain the digests of the cohort and of the
        energy, so that momenta of other images or of another energy are not read.
    log : callable
        Function that takes a line of progress.

    Returns
    -------
    dict of BrainPair to Tensor, shape (3, X, Y, Z)
        Whitened momenta on the coarse grid.
    """
    folder.mkdir(parents=True, exist_ok=True)
    targets = {}
    energy = _digest(terms, coarse_grid)
    for number, pair in enumerate(pairs, start=1):
        path = folder / f'{cohort.digest}_{energy}_{pair}.safetensors'
        if not path.exists():
            save_half(path, whitened=_match(cohort, pair, coarse_grid, terms))
            log(f'matched pair {number} of {len(pairs)}: {pair}')
        targets[pair] = load_file(path)['whitened'].float()
    return targets


def _digest(terms: EnergyTerms, coarse_grid: CoarseGrid) -> str:
    """Return a digest of all that the momentum of a pair depends on, beside its images."""
    parts = {
        'terms': terms.to_dict(),
        'metric': coarse_grid.image_metric.parameters,
        'spacing': coarse_grid.spacing,
        'schedule': asdict(SCHEDULE),
    }
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def _match(cohort: Cohort, pair: BrainPair, coarse_grid: CoarseGrid, terms: EnergyTerms) -> Tensor:
    """Return the whitened momentum that matching finds, on the CPU."""
    moving, fixed = (cohort.image(name).to(coarse_grid.device) for name in pair)
    result = match(
        moving,
        fixed,
        coarse_grid.image_metric,
        terms=terms,
        schedule=SCHEDULE,
    )
    return coarse_grid.whiten(result.momentum).cpu()


def save_half(path: Path, **tensors: Tensor) -> None:
    """Write tensors in half precision, whose rounding error is far below that of a network.

    Parameters
    ----------
    path : Path
        ``.safetensors`` file.
    **tensors : Tensor
        Tensors by name.
    """
    with atomic_write(path) as temporary:
        temporary.write_bytes(save({name: t.half().contiguous() for name, t in tensors.items()}))

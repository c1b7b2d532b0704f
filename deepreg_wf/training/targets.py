"""Teachers: the momenta that matching finds between the brains of a cohort, kept as files."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from deepreg_wf.lddmm import DEFAULT_SIMILARITY, Schedule, match
from deepreg_wf.quicksilver.coarse_grid import Blocks
from deepreg_wf.training.cohort import TEMPLATE, Cohort
from deepreg_wf.utils.atomic import atomic_write

SCHEDULE = Schedule(iterations=(25, 12), tolerance=0.01)
"""Nearly to the end: what is left out of a momentum cannot be learnt."""


class Pair(NamedTuple):
    """Which brain is moved onto which."""

    moving: str
    fixed: str

    def __str__(self) -> str:
        return f'{self.moving}-to-{self.fixed}'


def choose_pairs(names: Sequence[str], between: int, seed: int) -> list[Pair]:
    """Template to subject and back for each, then some pairs of subjects.

    Parameters
    ----------
    names : sequence of str
        Subjects.
    between : int
        Pairs of subjects.
    seed : int

    Returns
    -------
    list of Pair
        What matters most comes first, so that a training cut short has it.
    """
    to_subject = [Pair(TEMPLATE, name) for name in names]
    to_template = [Pair(name, TEMPLATE) for name in names]
    others = [Pair(*pair) for pair in itertools.permutations(names, 2)]
    order = torch.randperm(len(others), generator=torch.Generator().manual_seed(seed))
    return [*to_subject, *to_template, *(others[i] for i in order[:between].tolist())]


def teach(
    cohort: Cohort,
    pairs: Sequence[Pair],
    blocks: Blocks,
    folder: Path,
    say: Callable[[str], None],
) -> dict[Pair, Tensor]:
    """Match pairs of brains, or read what earlier calls found.

    Parameters
    ----------
    cohort : Cohort
    pairs : sequence of Pair
    blocks : Blocks
        On the grid of the cohort.
    folder : Path
        Where the momenta are kept; only those of this cohort are taken from it.
    say : callable

    Returns
    -------
    dict of Pair to Tensor, shape (3, X, Y, Z)
        Whitened momenta on the blocks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for number, pair in enumerate(pairs, start=1):
        path = folder / f'{cohort.digest}_{pair}.safetensors'
        if not path.exists():
            keep(path, whitened=_match(cohort, pair, blocks))
            say(f'teacher {number} of {len(pairs)}: {pair}')
        found[pair] = load_file(path)['whitened'].float()
    return found


def _match(cohort: Cohort, pair: Pair, blocks: Blocks) -> Tensor:
    moving, fixed = (cohort.image(name).to(blocks.device) for name in pair)
    found = match(moving, fixed, blocks.image, similarity=DEFAULT_SIMILARITY, schedule=SCHEDULE)
    return blocks.whiten(found.momentum).cpu()


def keep(path: Path, **tensors: Tensor) -> None:
    """Write tensors at half precision, whose rounding is far below what networks can learn."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(save({name: t.half().contiguous() for name, t in tensors.items()}))

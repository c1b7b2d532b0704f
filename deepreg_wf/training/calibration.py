"""How large the spread of drawn momenta has to be made, to be that of the error."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Generator, Tensor

from deepreg_wf.lddmm import Geodesic, Metric, shoot
from deepreg_wf.quicksilver.checkpoint import Checkpoint
from deepreg_wf.quicksilver.coarse_grid import Blocks
from deepreg_wf.quicksilver.prediction import correct, predict
from deepreg_wf.quicksilver.uncertainty import sample_uncertainty
from deepreg_wf.training.augmentation import vary
from deepreg_wf.training.cohort import Cohort
from deepreg_wf.training.samples import known_geodesic

GEODESICS, SAMPLES = 6, 8
"""Known geodesics that the spread is measured on, and momenta that are drawn for each."""


def calibrate(
    cohort: Cohort,
    checkpoints: Mapping[str, Checkpoint],
    momenta: Sequence[Tensor],
    blocks: Blocks,
    seed: int,
) -> float:
    """Compare the error of a registration with the spread of the maps that are drawn.

    Both are measured where the truth is known: on validation brains that are deformed by random
    geodesics, in other contrast. The error is that of the prediction and its correction, as far
    as there is one: that of the map which a user gets.

    Parameters
    ----------
    cohort : Cohort
    checkpoints : mapping of str to Checkpoint
        'prediction', 'probabilistic' and, if there is one, 'correction'.
    momenta : sequence of Tensor, shape (3, X, Y, Z)
        Whitened, on the blocks: what random momenta are mixed from.
    blocks : Blocks
        On the grid of the cohort.
    seed : int

    Returns
    -------
    float
        Root mean square error over root mean square spread, over the voxels of the brains.
    """
    metric = blocks.image
    size = torch.tensor(metric.spacing, device=metric.device).view(3, 1, 1, 1)
    squares = spread = 0.0
    for number, (moving, fixed, truth) in enumerate(_pairs(cohort, momenta, blocks, seed)):
        inside = moving > 0
        found = shoot(_register(checkpoints, moving, fixed, metric), metric)
        away = (size * (found.phi - truth.phi)).square().sum(dim=0)
        drawn = sample_uncertainty(
            checkpoints['probabilistic'], moving, fixed, metric, samples=SAMPLES, seed=number
        )
        squares += float(away[inside].mean())
        spread += float(drawn[inside].square().mean())
    return math.sqrt(squares / spread)


def _pairs(
    cohort: Cohort, momenta: Sequence[Tensor], blocks: Blocks, seed: int
) -> Iterator[tuple[Tensor, Tensor, Geodesic]]:
    """A brain, what a geodesic makes of it in another contrast, and the geodesic."""
    for number in range(GEODESICS):
        generator = Generator().manual_seed(seed * 100_003 + 50_000 + number)
        made = known_geodesic(cohort, momenta, blocks, generator, names=cohort.validation)
        moving, fixed = made.images.float()
        fixed = vary(fixed, generator).to(blocks.device)
        truth = shoot(blocks.colour(made.whitened.to(blocks.device)), blocks.image)
        yield moving.to(blocks.device), fixed, truth


def _register(
    checkpoints: Mapping[str, Checkpoint], moving: Tensor, fixed: Tensor, metric: Metric
) -> Tensor:
    momentum = predict(checkpoints['prediction'], moving, fixed, metric)
    if 'correction' in checkpoints:
        momentum = correct(checkpoints['correction'], momentum, moving, fixed, metric)
    return momentum

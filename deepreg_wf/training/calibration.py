"""Calibration of the uncertainty: the spread of drawn maps is scaled to the error of the map."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Generator, Tensor

from deepreg_wf.lddmm import Geodesic, Metric, shoot
from deepreg_wf.quicksilver.checkpoint import Checkpoint
from deepreg_wf.quicksilver.coarse_grid import CoarseGrid
from deepreg_wf.quicksilver.prediction import correct, predict
from deepreg_wf.quicksilver.uncertainty import sample_uncertainty
from deepreg_wf.training.augmentation import augment
from deepreg_wf.training.cohort import Cohort
from deepreg_wf.training.samples import known_geodesic

N_GEODESICS, N_SAMPLES = 6, 8
"""Known geodesics to measure on, and momenta drawn for each."""


def calibrate(
    cohort: Cohort,
    checkpoints: Mapping[str, Checkpoint],
    momenta: Sequence[Tensor],
    coarse_grid: CoarseGrid,
    seed: int,
) -> float:
    """Compute the factor from the spread of drawn maps to the error of the registration.

    Parameters
    ----------
    cohort : Cohort
        Brains; only those for validation and the template are used.
    checkpoints : mapping of str to Checkpoint
        'prediction', 'probabilistic' and, if there is one, 'correction'.
    momenta : sequence of Tensor, shape (3, X, Y, Z)
        Whitened momenta on the coarse grid, from which random momenta are mixed.
    coarse_grid : CoarseGrid
        Coarse grid of the networks over the images of the cohort.
    seed : int
        Seed of the random momenta and of the augmentation.

    Returns
    -------
    float
        Ratio of the root mean square error to the root mean square spread.

    Notes
    -----
    Both are measured where the true map is known: brains are deformed by random geodesics and
    augmented. With the true map phi of geodesic g, the map phi_g of the prediction and its
    correction, which is the one that a user gets, and the standard deviation s_g of the drawn
    maps,

        scale^2 = sum_g mean |phi_g - phi|^2 / sum_g mean s_g^2,

    where the means are over the voxels of the moving brain, in mm^2.
    """
    metric = coarse_grid.image_metric
    voxel_size = torch.tensor(metric.spacing, device=metric.device).view(3, 1, 1, 1)
    error = variance = 0.0
    pairs = _known_pairs(cohort, momenta, coarse_grid, seed)
    for number, (moving, fixed, truth) in enumerate(pairs):
        inside = moving > 0
        geodesic = shoot(_register(checkpoints, moving, fixed, metric), metric)
        distance = (voxel_size * (geodesic.phi - truth.phi)).square().sum(dim=0)
        deviation = sample_uncertainty(
            checkpoints['probabilistic'], moving, fixed, metric, samples=N_SAMPLES, seed=number
        )
        error += float(distance[inside].mean())
        variance += float(deviation[inside].square().mean())
    return math.sqrt(error / variance)


def _known_pairs(
    cohort: Cohort, momenta: Sequence[Tensor], coarse_grid: CoarseGrid, seed: int
) -> Iterator[tuple[Tensor, Tensor, Geodesic]]:
    """Yield a brain, the same deformed by a geodesic and augmented, and the geodesic."""
    for number in range(N_GEODESICS):
        generator = Generator().manual_seed(seed * 100_003 + 50_000 + number)
        sample = known_geodesic(cohort, momenta, coarse_grid, generator, names=cohort.validation)
        moving, fixed = sample.images.float()
        fixed = augment(fixed, generator).to(coarse_grid.device)
        momentum = coarse_grid.unwhiten(sample.whitened.to(coarse_grid.device))
        truth = shoot(momentum, coarse_grid.image_metric)
        yield moving.to(coarse_grid.device), fixed, truth


def _register(
    checkpoints: Mapping[str, Checkpoint], moving: Tensor, fixed: Tensor, metric: Metric
) -> Tensor:
    """Return the momentum of the prediction and, if there is one, of the correction."""
    momentum = predict(checkpoints['prediction'], moving, fixed, metric)
    if 'correction' in checkpoints:
        momentum = correct(checkpoints['correction'], momentum, moving, fixed, metric)
    return momentum

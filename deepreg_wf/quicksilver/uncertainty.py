"""How sure a probabilistic network is of the transform it predicts."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from deepreg_wf.lddmm import Metric, shoot
from deepreg_wf.quicksilver.checkpoint import Checkpoint
from deepreg_wf.quicksilver.prediction import BATCH_SIZE, propose, scene_of


def draw_momenta(
    checkpoint: Checkpoint,
    moving: Tensor,
    fixed: Tensor,
    metric: Metric,
    *,
    samples: int,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
) -> Iterator[Tensor]:
    """Draw momenta from a network whose dropout stays on (Yang et al., 2017, section 2.4).

    Parameters
    ----------
    checkpoint : Checkpoint
        Trained with dropout.
    moving, fixed, metric, batch_size
        Those of `predict`.
    samples : int
    seed : int
        The draws depend on it and, the dropout being drawn batch by batch, on the batch size.

    Yields
    ------
    Tensor, shape (3, X, Y, Z)

    Raises
    ------
    ValueError
        If the network has no dropout.
    """
    if not checkpoint.spec.dropout:
        raise ValueError('the network has no dropout, and would give the same momentum each time')
    scene = scene_of(checkpoint.spec, moving, fixed, metric)
    view = scene.view(scene.nothing)
    devices = [metric.device] if metric.device.type == 'cuda' else []
    for sample in range(samples):
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed * 10_007 + sample)
            checkpoint.network.train()
            try:
                whitened = propose(checkpoint, view, batch_size)
            finally:
                checkpoint.network.eval()
        yield scene.blocks.colour(whitened)


def sample_uncertainty(
    checkpoint: Checkpoint,
    moving: Tensor,
    fixed: Tensor,
    metric: Metric,
    *,
    samples: int,
    inverse: bool = False,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
) -> Tensor:
    """Shoot momenta drawn from a probabilistic network and measure how far their maps differ.

    Parameters
    ----------
    checkpoint, moving, fixed, metric, seed, batch_size
        Those of `draw_momenta`.
    samples : int
        At least 2.
    inverse : bool
        Of the inverse map, whose points are those of the fixed image, and not of the forward one.

    Returns
    -------
    Tensor, shape (X, Y, Z)
        Standard deviation in mm of the place that each voxel is mapped to: the square root of the
        variances along the three axes together, times the inflation of the network.
    """
    if samples < 2:
        raise ValueError(f'at least 2 samples have a standard deviation, got {samples}')
    draws = draw_momenta(
        checkpoint, moving, fixed, metric, samples=samples, seed=seed, batch_size=batch_size
    )
    size = moving.new_tensor(metric.spacing).view(3, 1, 1, 1)
    mean = moving.new_zeros(3, *moving.shape)
    spread = moving.new_zeros(moving.shape)
    # Welford's recurrence: no map but the last is kept.
    for count, momentum in enumerate(draws, start=1):
        geodesic = shoot(momentum, metric)
        place = size * (geodesic.phi_inverse if inverse else geodesic.phi)
        change = place - mean
        mean += change / count
        spread += (change * (place - mean)).sum(dim=0)
    return checkpoint.spec.inflation * (spread / (samples - 1)).sqrt()

"""Uncertainty of the transform that a probabilistic network predicts."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from deepreg_wf.lddmm import Metric, shoot
from deepreg_wf.quicksilver.checkpoint import Checkpoint
from deepreg_wf.quicksilver.prediction import BATCH_SIZE, predict_update, registration_state


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
    """Draw momenta from a network with active dropout (Yang et al., 2017, section 2.4).

    Parameters
    ----------
    checkpoint : Checkpoint
        Network that was trained with dropout.
    moving, fixed, metric, batch_size
        Images, metric and number of patches as in `deepreg_wf.quicksilver.predict`.
    samples : int
        Number of momenta.
    seed : int
        Seed of the dropout. The draws also depend on the batch size, because dropout is drawn
        batch by batch.

    Yields
    ------
    Tensor, shape (3, X, Y, Z)
        Momentum on the voxels of the images.

    Raises
    ------
    ValueError
        If the network has no dropout.
    """
    if not checkpoint.spec.dropout:
        raise ValueError('the network has no dropout, so that all samples would be equal')
    state = registration_state(checkpoint.spec, moving, fixed, metric)
    channels = state.network_input(state.zero_momentum).channels
    assert channels is not None  # the zero momentum can always be shot
    devices = [metric.device] if metric.device.type == 'cuda' else []
    for sample in range(samples):
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed * 10_007 + sample)
            checkpoint.network.train()
            try:
                whitened = predict_update(checkpoint, channels, batch_size)
            finally:
                checkpoint.network.eval()
        yield state.coarse_grid.unwhiten(whitened)


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
    """Measure the spread of the maps of momenta drawn from a probabilistic network.

    Parameters
    ----------
    checkpoint, moving, fixed, metric, seed, batch_size
        Network, images and settings as in `draw_momenta`.
    samples : int
        Number of momenta, at least 2.
    inverse : bool
        Measure the inverse map, which is defined on the points of the fixed image, instead of
        the forward map.

    Returns
    -------
    Tensor, shape (X, Y, Z)
        Standard deviation in mm of the point that each voxel is mapped to: the square root of the
        sum of the variances along the three axes, times the `uncertainty_scale` of the network.

    Raises
    ------
    ValueError
        If there are fewer than 2 samples, or the network has no dropout.
    """
    if samples < 2:
        raise ValueError(f'a standard deviation needs at least 2 samples, got {samples}')
    draws = draw_momenta(
        checkpoint, moving, fixed, metric, samples=samples, seed=seed, batch_size=batch_size
    )
    voxel_size = moving.new_tensor(metric.spacing).view(3, 1, 1, 1)
    mean = moving.new_zeros(3, *moving.shape)
    squares = moving.new_zeros(moving.shape)
    # Welford's online algorithm, which keeps one map in memory: with d = x_n - mean_(n-1),
    # mean_n = mean_(n-1) + d / n and S_n = S_(n-1) + d (x_n - mean_n).
    for count, momentum in enumerate(draws, start=1):
        geodesic = shoot(momentum, metric)
        point = voxel_size * (geodesic.phi_inverse if inverse else geodesic.phi)
        change = point - mean
        mean += change / count
        squares += (change * (point - mean)).sum(dim=0)
    return checkpoint.spec.uncertainty_scale * (squares / (samples - 1)).sqrt()

"""Our own methods and the original recipe, with the signature of the peers."""

from __future__ import annotations

import functools

import torch
from outcome import Outcome, Stopwatch
from torch import Tensor

from deepreg_wf import __version__, lddmm
from deepreg_wf.checkpoints.locate import SHIPPED
from deepreg_wf.lddmm.energy import NETWORK_TERMS
from deepreg_wf.lddmm.metric import MetricParameters
from deepreg_wf.quicksilver import correct, load_checkpoint, predict

POWER_1 = MetricParameters(alpha=0.03, beta=0.03, gamma=0.0018, power=1, discrete=False)
"""Of the decay length of the default metric, and of its gain for waves of that length."""

SSD_TERMS = lddmm.EnergyTerms(similarity=lddmm.SSD())

ORIGINAL_STEPS = 50
ORIGINAL_STEP_SIZE = 4e-6


def register_lddmm(moving: Tensor, fixed: Tensor, spacing: float) -> Outcome:
    """Match by a chain of geodesics, with the defaults of the package.

    Parameters
    ----------
    moving, fixed : Tensor, shape (X, Y, Z)
        On one grid, intensities in [0, 1].
    spacing : float
        Millimetres, along each axis.

    Returns
    -------
    Outcome
    """
    with Stopwatch(moving.device) as watch:
        grid = lddmm.Metric(moving.shape, [spacing] * 3, device=moving.device)
        chain = _match_and_shoot(moving, fixed, grid)
    return _outcome(chain, watch)


def _match_and_shoot(
    moving: Tensor,
    fixed: Tensor,
    grid: lddmm.Metric,
    iterations: int | None = None,
    momentum: Tensor | None = None,
) -> lddmm.Chain:
    """Match and shoot as the app does, from a predicted momentum or from zero."""
    links = lddmm.default_links(grid.spacing, iterations)
    matches = lddmm.match_chain(moving, fixed, grid, links, initial_momentum=momentum)
    metrics = [grid.with_grid(grid.shape, grid.spacing, link.metric) for link in links]
    return lddmm.shoot_chain([match.momentum for match in matches], metrics)


def register_geodesic(
    moving: Tensor,
    fixed: Tensor,
    spacing: float,
    *,
    metric: MetricParameters = lddmm.DEFAULT_METRIC,
    terms: lddmm.EnergyTerms = NETWORK_TERMS,
) -> Outcome:
    """Match by one geodesic, as before there were chains.

    Parameters beside those of `register_lddmm` are those of `lddmm.match`.
    """
    with Stopwatch(moving.device) as watch:
        grid = lddmm.Metric(moving.shape, [spacing] * 3, device=moving.device, **metric)
        momentum = lddmm.match(moving, fixed, grid, terms=terms).momentum
        geodesic = lddmm.shoot_invertible(momentum, grid)[1]
    return _outcome(geodesic, watch)


def register_original(moving: Tensor, fixed: Tensor, spacing: float) -> Outcome:
    """Match by the recipe of the original Quicksilver: fixed steps along the L2 gradient of SSD.

    In voxels whatever their size, with its metric, its weight and its step, at one resolution;
    the geodesics are ours. Parameters are those of `register_lddmm`.
    """
    voxels = {**lddmm.ORIGINAL_METRIC, 'discrete': False}
    whole = lddmm.Metric(moving.shape, (1.0, 1.0, 1.0), device=moving.device, **voxels)
    with Stopwatch(moving.device) as watch:
        box = _bounding_box(moving + fixed)
        moving, fixed = moving[box], fixed[box]
        grid = whole.with_grid(moving.shape, whole.spacing)
        mismatch = lddmm.SSD(sigma=0.2).bind(fixed, grid.spacing, None)
        momentum = moving.new_zeros(3, *moving.shape)
        for _ in range(ORIGINAL_STEPS):
            momentum.requires_grad_()
            inverse = lddmm.shoot_inverse(momentum, grid)
            warped = lddmm.fields.interpolate(moving.unsqueeze(0), inverse)[0]
            energy = grid.energy(momentum) / 2 + mismatch(warped, None)
            (gradient,) = torch.autograd.grad(energy, momentum)
            momentum = momentum.detach() - ORIGINAL_STEP_SIZE * gradient
        everywhere = momentum.new_zeros(3, *whole.shape)
        everywhere[(slice(None), *box)] = momentum
        geodesic = lddmm.shoot(everywhere, whole)
    return _outcome(geodesic, watch)


def _bounding_box(image: Tensor) -> tuple[slice, ...]:
    points = torch.nonzero(image)
    return tuple(
        slice(int(low), int(high) + 1)
        for low, high in zip(points.amin(dim=0), points.amax(dim=0), strict=True)
    )


def _outcome(geodesic: lddmm.Geodesic | lddmm.Chain, watch: Stopwatch) -> Outcome:
    return Outcome(
        displacement=geodesic.phi_inverse,
        inverse=geodesic.phi,
        cost=watch.cost,
        version=f'deepreg_wf {__version__}',
        energy_drift=geodesic.energy_drift,
    )


def register_affine(moving: Tensor, fixed: Tensor, spacing: float) -> Outcome:
    """Return the identity: the result of the affine alone, at no cost."""
    with Stopwatch(moving.device) as watch:
        grid = lddmm.Metric(moving.shape, [spacing] * 3, device=moving.device)
        momentum = moving.new_zeros(3, *moving.shape)
    return _outcome(lddmm.shoot(momentum, grid), watch)


def register_network(
    moving: Tensor,
    fixed: Tensor,
    spacing: float,
    *,
    corrected: bool = True,
    refine: int = 0,
) -> Outcome:
    """Predict, correct, refine and shoot, with the networks that come with the package.

    Parameters are those of `register_lddmm`; reading the networks is not in the time.
    """
    prediction = load_checkpoint(SHIPPED / 'prediction.safetensors', device=moving.device)
    correction = load_checkpoint(SHIPPED / 'correction.safetensors', device=moving.device)
    with Stopwatch(moving.device) as watch:
        parameters = prediction.spec.metric
        grid = lddmm.Metric(moving.shape, [spacing] * 3, device=moving.device, **parameters)
        momentum = predict(prediction, moving, fixed, grid)
        if corrected:
            n_iterations = 1 if refine else None
            momentum = correct(
                correction, momentum, moving, fixed, grid, n_iterations=n_iterations
            )
        result: lddmm.Geodesic | lddmm.Chain
        if refine:
            result = _match_and_shoot(moving, fixed, grid, refine, momentum)
        else:
            result = lddmm.shoot_invertible(momentum, grid)[1]
    return _outcome(result, watch)


register_predict = functools.partial(register_network, corrected=False)
register_refine_5 = functools.partial(register_network, refine=5)
register_refine_20 = functools.partial(register_network, refine=20)
register_geodesic_ssd = functools.partial(register_geodesic, terms=SSD_TERMS)
register_power1 = functools.partial(register_geodesic, metric=POWER_1)
register_power1_ssd = functools.partial(register_geodesic, metric=POWER_1, terms=SSD_TERMS)

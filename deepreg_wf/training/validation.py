"""Validation of trained networks on brains that they were not trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import mean

from torch import Tensor

from deepreg_wf.lddmm import Metric, diagnostics, fields, shoot
from deepreg_wf.quicksilver.checkpoint import Checkpoint
from deepreg_wf.quicksilver.prediction import correct, predict
from deepreg_wf.training.cohort import Cohort
from deepreg_wf.training.targets import BrainPair

Measures = dict[str, float]
"""Accuracy of a network by the name of the measure."""

SLICE_HEIGHTS = (0.35, 0.5, 0.65)
"""Heights of the axial slices of a panel, relative to the height of the grid."""


def validate(
    cohort: Cohort,
    checkpoints: Mapping[str, Checkpoint],
    pairs: Sequence[BrainPair],
    device: str,
) -> tuple[dict[str, Measures], dict[str, Tensor]]:
    """Register pairs of brains and measure the result.

    Parameters
    ----------
    cohort : Cohort
        Brains by name.
    checkpoints : mapping of str to Checkpoint
        Networks by name: 'prediction', and optionally 'correction' and 'probabilistic'.
    pairs : sequence of BrainPair
        Pairs to register.
    device : str
        Device of the computation.

    Returns
    -------
    measures : dict of str to dict
        For 'affine', without any deformation, and for each network: number of pairs, mean and
        smallest correlation of the images inside the fixed brain, smallest Jacobian determinant
        of either map.
    panels : dict of str to Tensor, shape (3, X, Y)
        Three axial slices of the pair with the lowest correlation after prediction: 'fixed', and
        the moving image as each of the above warps it.
    """
    metric = cohort.metric_on(device)
    rows: dict[str, list[Measures]] = {}
    panels: dict[str, Tensor] = {}
    worst = math.inf
    for pair in pairs:
        moving, fixed = (cohort.image(name).to(device) for name in pair)
        images = {'fixed': fixed}
        for name, momentum in _momenta(checkpoints, moving, fixed, metric).items():
            images[name], measures = _register(moving, fixed, momentum, metric)
            rows.setdefault(name, []).append(measures)
        if rows['prediction'][-1]['correlation'] < worst:
            worst = rows['prediction'][-1]['correlation']
            panels = {name: _axial_slices(image) for name, image in images.items()}
    return {name: _summarise(of_pairs) for name, of_pairs in rows.items()}, panels


def _momenta(
    checkpoints: Mapping[str, Checkpoint], moving: Tensor, fixed: Tensor, metric: Metric
) -> dict[str, Tensor]:
    """Return the momentum of each network, and zero for the affine."""
    prediction = checkpoints['prediction'].to(metric.device)
    momenta = {
        'affine': moving.new_zeros(3, *moving.shape),
        'prediction': predict(prediction, moving, fixed, metric),
    }
    if 'correction' in checkpoints:
        network, start = checkpoints['correction'].to(metric.device), momenta['prediction']
        momenta['correction'] = correct(network, start, moving, fixed, metric)
    if 'probabilistic' in checkpoints:
        network = checkpoints['probabilistic'].to(metric.device)
        momenta['probabilistic'] = predict(network, moving, fixed, metric)
    return momenta


def _register(
    moving: Tensor, fixed: Tensor, momentum: Tensor, metric: Metric
) -> tuple[Tensor, Measures]:
    """Return the moving image warped by a momentum, and the measures of one pair."""
    geodesic = shoot(momentum, metric)
    warped = fields.interpolate(moving.unsqueeze(0), geodesic.phi_inverse)[0]
    inside = fixed > 0
    determinants = [fields.jacobian_determinant(m) for m in (geodesic.phi, geodesic.phi_inverse)]
    return warped, {
        'correlation': diagnostics.correlation(warped[inside], fixed[inside]),
        'min_jacobian': min(float(d.min()) for d in determinants),
    }


def _axial_slices(image: Tensor) -> Tensor:
    """Return the axial slices of a panel, shape (3, X, Y)."""
    depth = image.shape[2]
    slices = [round(height * depth) for height in SLICE_HEIGHTS]
    return image[:, :, slices].permute(2, 0, 1).contiguous().cpu()


def _summarise(rows: Sequence[Measures]) -> Measures:
    """Summarise the measures of all pairs."""
    correlations = [row['correlation'] for row in rows]
    return {
        'pairs': len(rows),
        'mean_correlation': mean(correlations),
        'worst_correlation': min(correlations),
        'min_jacobian': min(row['min_jacobian'] for row in rows),
    }

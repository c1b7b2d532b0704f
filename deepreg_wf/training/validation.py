"""How good trained networks are on brains that they have not seen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import mean

from torch import Tensor

from deepreg_wf.lddmm import Metric, diagnostics, fields, shoot
from deepreg_wf.quicksilver.checkpoint import Checkpoint
from deepreg_wf.quicksilver.prediction import correct, predict
from deepreg_wf.training.cohort import Cohort
from deepreg_wf.training.targets import Pair

Figures = dict[str, float]

SLICES = (0.35, 0.5, 0.65)
"""Height of the slices that are kept, as a share of the grid's."""


def validate(
    cohort: Cohort,
    checkpoints: Mapping[str, Checkpoint],
    pairs: Sequence[Pair],
    device: str,
) -> tuple[dict[str, Figures], dict[str, Tensor]]:
    """Register pairs of validation brains and measure the result.

    Parameters
    ----------
    cohort : Cohort
    checkpoints : mapping of str to Checkpoint
        By name; 'prediction' is needed, the others are optional.
    pairs : sequence of Pair
    device : str

    Returns
    -------
    figures : dict of str to dict
        For the affine alone and for each network: mean and smallest correlation of the images
        inside the fixed brain, smallest Jacobian determinant of either map.
    panels : dict of str to Tensor, shape (3, X, Y)
        Of the pair on which prediction does worst: three axial slices of the fixed image, and of
        the moving one as each of the above warps it.
    """
    metric = cohort.metric_on(device)
    rows: dict[str, list[Figures]] = {}
    panels: dict[str, Tensor] = {}
    worst = math.inf
    for pair in pairs:
        moving, fixed = (cohort.image(name).to(device) for name in pair)
        pictures = {'fixed': fixed}
        for name, momentum in _momenta(checkpoints, moving, fixed, metric).items():
            pictures[name], figures = _register(moving, fixed, momentum, metric)
            rows.setdefault(name, []).append(figures)
        if rows['prediction'][-1]['correlation'] < worst:
            worst = rows['prediction'][-1]['correlation']
            panels = {name: _slices(picture) for name, picture in pictures.items()}
    return {name: _summary(of_pairs) for name, of_pairs in rows.items()}, panels


def _momenta(
    checkpoints: Mapping[str, Checkpoint], moving: Tensor, fixed: Tensor, metric: Metric
) -> dict[str, Tensor]:
    """The momentum of each network, and none for the affine."""
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
) -> tuple[Tensor, Figures]:
    """The moving image as a momentum warps it, and how good that is."""
    geodesic = shoot(momentum, metric)
    warped = fields.interpolate(moving.unsqueeze(0), geodesic.phi_inverse)[0]
    inside = fixed > 0
    determinants = [fields.jacobian_determinant(m) for m in (geodesic.phi, geodesic.phi_inverse)]
    return warped, {
        'correlation': diagnostics.correlation(warped[inside], fixed[inside]),
        'min_jacobian': min(float(d.min()) for d in determinants),
    }


def _slices(image: Tensor) -> Tensor:
    """Three axial slices."""
    depth = image.shape[2]
    chosen = [round(share * depth) for share in SLICES]
    return image[:, :, chosen].permute(2, 0, 1).contiguous().cpu()


def _summary(rows: Sequence[Figures]) -> Figures:
    correlations = [row['correlation'] for row in rows]
    return {
        'pairs': len(rows),
        'mean_correlation': mean(correlations),
        'worst_correlation': min(correlations),
        'min_jacobian': min(row['min_jacobian'] for row in rows),
    }

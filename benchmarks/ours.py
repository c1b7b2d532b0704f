"""Our own methods, behind the signature of the peers."""

from __future__ import annotations

from outcome import Outcome, Stopwatch
from torch import Tensor

from deepreg_wf import __version__, lddmm


def register_lddmm(moving: Tensor, fixed: Tensor, spacing: float) -> Outcome:
    """Match by geodesic shooting with our defaults and shoot the momentum that is found.

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
        metric = lddmm.Metric(
            moving.shape, [spacing] * 3, device=moving.device, **lddmm.DEFAULT_METRIC
        )
        found = lddmm.match(moving, fixed, metric, similarity=lddmm.DEFAULT_SIMILARITY)
        geodesic = lddmm.shoot(found.momentum, metric)
    return Outcome(
        displacement=geodesic.phi_inverse,
        inverse=geodesic.phi,
        cost=watch.cost,
        version=f'deepreg_wf {__version__}',
        energy_drift=geodesic.energy_drift,
    )

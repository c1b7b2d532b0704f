"""How far a recovered transform is from the true one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from deepreg_wf.demo.truth import Truth
from deepreg_wf.spatial import read_composite

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Errors:
    """Distances in mm between where points should go and where they do.

    Attributes
    ----------
    mean, p95 : float
        Mean and 95th percentile over the points.
    """

    mean: float
    p95: float

    @classmethod
    def between(cls, points: Array, truth: Array) -> Errors:
        """Compare points with their true places, both of shape (N, 3)."""
        distance = np.linalg.norm(points - truth, axis=1)
        return cls(mean=float(distance.mean()), p95=float(np.percentile(distance, 95)))


def registration_errors(transform: Path, truth: Truth, points: Array) -> dict[str, Errors]:
    """Measure a recovered transform, whole and stage by stage.

    Parameters
    ----------
    transform : Path
        ITK composite that maps template points to T1w points.
    truth : Truth
    points : ndarray, shape (N, 3)
        Template points in RAS mm.

    Returns
    -------
    dict of str to Errors
        ``header`` takes the headers at their word, ``affine`` leaves the displacement field out
        and ``registration`` is the whole transform.
    """
    composite = read_composite(transform)
    true = truth.to_subject(points)
    return {
        'header': Errors.between(points, true),
        'affine': Errors.between(apply_affine(composite.affine, points), true),
        'registration': Errors.between(composite.map_points(points), true),
    }

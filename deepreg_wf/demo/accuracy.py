"""Distance between recovered and true transforms."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from deepreg_wf.demo.true_transform import TrueTransform
from deepreg_wf.spatial import load_composite

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PointErrors:
    """Statistics of the distances between points and their true positions.

    Attributes
    ----------
    mean, p95 : float
        Mean and 95th percentile over the points, in mm.
    """

    mean: float
    p95: float

    @classmethod
    def between(cls, points: Array, expected: Array) -> PointErrors:
        """Compare points with their true positions, both of shape (N, 3)."""
        distance = np.linalg.norm(points - expected, axis=1)
        return cls(mean=float(distance.mean()), p95=float(np.percentile(distance, 95)))


def registration_errors(
    transform: Path, truth: TrueTransform, points: Array
) -> dict[str, PointErrors]:
    """Measure the error of a recovered transform, after each stage of the registration.

    Parameters
    ----------
    transform : Path
        ITK composite that maps template points to T1w points.
    truth : TrueTransform
    points : ndarray, shape (N, 3)
        Template points in RAS mm.

    Returns
    -------
    dict of str to PointErrors
        Errors of the positions in the headers (``header``), of the affine part alone
        (``affine``) and of the whole transform (``registration``).
    """
    composite = load_composite(transform)
    expected = truth.to_subject(points)
    return {
        'header': PointErrors.between(points, expected),
        'affine': PointErrors.between(apply_affine(composite.affine, points), expected),
        'registration': PointErrors.between(composite.map_points(points), expected),
    }

"""Measures of the quality of a map and of the agreement of two images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deepreg_wf.lddmm import fields


def magnitude_mm(displacement: Tensor, spacing: Sequence[float]) -> Tensor:
    """Return the length of a displacement.

    Parameters
    ----------
    displacement : Tensor, shape (3, X, Y, Z)
        In voxels.
    spacing : sequence of 3 float
        Voxel size in millimetres.

    Returns
    -------
    Tensor, shape (X, Y, Z)
        In millimetres.
    """
    scale = torch.tensor(spacing, dtype=displacement.dtype, device=displacement.device)
    millimetres: Tensor = displacement * scale.view(3, 1, 1, 1)
    return millimetres.square().sum(dim=0).sqrt()


def inverse_error(phi: Tensor, phi_inverse: Tensor, spacing: Sequence[float]) -> Tensor:
    """Return the distance between x and ``phi(phi_inverse(x))``.

    Parameters
    ----------
    phi, phi_inverse : Tensor, shape (3, X, Y, Z)
        Displacements in voxels.
    spacing : sequence of 3 float
        Voxel size in millimetres.

    Returns
    -------
    Tensor, shape (X, Y, Z)
        In millimetres.
    """
    return magnitude_mm(fields.compose(phi, phi_inverse), spacing)


def nonpositive_fraction(determinant: Tensor) -> float:
    """Return the fraction of Jacobian determinants that are not positive, that is, of folds.

    Parameters
    ----------
    determinant : Tensor
        Jacobian determinants, of any shape.

    Returns
    -------
    float
        From 0 to 1.
    """
    return float((determinant <= 0).double().mean())


def correlation(a: Tensor, b: Tensor) -> float:
    """Return the Pearson correlation of two sets of values.

    Parameters
    ----------
    a, b : Tensor
        Values, of the same shape.

    Returns
    -------
    float
        From -1 to 1; 0 if one set is constant.
    """
    a, b = a.double() - a.double().mean(), b.double() - b.double().mean()
    scale = a.norm() * b.norm()
    return float((a * b).sum() / scale) if scale > 0 else 0.0


def dice(a: Tensor, b: Tensor) -> float:
    """Return the Dice overlap of two masks.

    Parameters
    ----------
    a, b : Tensor
        Masks of the same shape, positive inside.

    Returns
    -------
    float
        From 0 to 1; 1 if both masks are empty.
    """
    a, b = a > 0, b > 0
    total = int(a.sum() + b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0

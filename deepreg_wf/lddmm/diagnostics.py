"""Figures that a transform carries as its own proof."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deepreg_wf.lddmm import fields


def length(displacement: Tensor, spacing: Sequence[float]) -> Tensor:
    """Length of a displacement in voxels, (3, X, Y, Z) -> (X, Y, Z), in millimetres."""
    scale = torch.tensor(spacing, dtype=displacement.dtype, device=displacement.device)
    millimetres: Tensor = displacement * scale.view(3, 1, 1, 1)
    return millimetres.square().sum(dim=0).sqrt()


def inverse_error(phi: Tensor, phi_inverse: Tensor, spacing: Sequence[float]) -> Tensor:
    """Distance between x and ``phi(phi_inverse(x))``, shape (X, Y, Z), in millimetres.

    Parameters
    ----------
    phi, phi_inverse : Tensor, shape (3, X, Y, Z)
        Displacements in voxels.
    spacing : sequence of 3 float
        Voxel size in millimetres.
    """
    return length(fields.compose(phi, phi_inverse), spacing)


def nonpositive_fraction(determinant: Tensor) -> float:
    """Share of the Jacobian determinants that are not positive: folds."""
    return float((determinant <= 0).double().mean())


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson correlation of two sets of values; 0 where one is constant."""
    a, b = a.double() - a.double().mean(), b.double() - b.double().mean()
    scale = a.norm() * b.norm()
    return float((a * b).sum() / scale) if scale > 0 else 0.0


def dice(a: Tensor, b: Tensor) -> float:
    """Dice overlap of two masks; 1 where both are empty."""
    a, b = a > 0, b > 0
    total = int(a.sum() + b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0

"""The energy that a matching lowers, and its gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from deepreg_wf.lddmm import fields
from deepreg_wf.lddmm.lattice import Lattice
from deepreg_wf.lddmm.metric import Metric
from deepreg_wf.lddmm.shooting import Path, follow, steps_needed
from deepreg_wf.lddmm.similarity import LNCC, SSD, Mismatch

MIN_JACOBIAN = 0.1
"""Least local volume change that a step may lead to, either way.

The metric makes folds costly but not impossible on a grid, so a step towards one is not taken.
"""

MAX_STEPS = 40
"""A momentum that needs more time steps than this is no step towards an alignment of brains."""


@dataclass(frozen=True)
class Pair:
    """Two images, (X, Y, Z), and the weights of their voxels."""

    moving: Tensor
    fixed: Tensor
    moving_weight: Tensor | None = None
    fixed_weight: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> Pair:
        """Change all images alike."""
        images = (self.moving, self.fixed, self.moving_weight, self.fixed_weight)
        changed = (None if image is None else change(image) for image in images)
        return Pair(*changed)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Energy:
    """``1/2 <m0, K m0> + mismatch(I0 o phi^-1, I1)`` at one resolution.

    Attributes
    ----------
    moving, moving_weight : Tensor, shape (X, Y, Z)
        I0 and the weight of its voxels.
    lattice : Lattice
        Where the momenta are, around the images.
    mismatch : callable
        The energy of a warped moving image.
    """

    moving: Tensor
    moving_weight: Tensor | None
    lattice: Lattice
    mismatch: Mismatch

    @classmethod
    def of(cls, pair: Pair, lattice: Lattice, similarity: SSD | LNCC) -> Energy:
        """The energy of a pair of images that the lattice lies around."""
        mismatch = similarity.against(pair.fixed, lattice.image.spacing, pair.fixed_weight)
        return cls(pair.moving, pair.moving_weight, lattice, mismatch)

    @property
    def metric(self) -> Metric:
        """Metric on the lattice, where the momenta are."""
        return self.lattice.metric

    @property
    def spacing(self) -> float:
        """Largest voxel size of the level, in millimetres."""
        return max(self.lattice.image.spacing)

    def __call__(self, momentum: Tensor) -> tuple[float, Tensor]:
        """Energy and its L2 gradient on the lattice, (3, X, Y, Z); infinite where it folds."""
        variable = momentum.detach().requires_grad_()
        with torch.enable_grad():
            energy = self.value(variable)
            if not energy.isfinite():
                return math.inf, torch.zeros_like(momentum)
            (gradient,) = torch.autograd.grad(energy, variable)
        return float(energy.detach()), gradient

    def value(self, momentum: Tensor) -> Tensor:
        """Energy of a momentum on the lattice, differentiable; infinite where it folds."""
        steps = steps_needed(momentum.detach(), self.lattice)
        if steps > MAX_STEPS:
            return momentum.new_tensor(math.inf)
        return self.at_end(follow(momentum, self.lattice, steps), momentum)

    def at_end(self, path: Path, momentum: Tensor) -> Tensor:
        """Energy of a momentum whose path is known."""
        inverse = self.lattice.displacement(path.inverse)
        if not is_diffeomorphic(inverse.detach()):
            return momentum.new_tensor(math.inf)
        warped = fields.interpolate(self.moving.unsqueeze(0), inverse)[0]
        weight = None
        if self.moving_weight is not None:
            weight = fields.interpolate(self.moving_weight.unsqueeze(0), inverse)[0]
        return self.lattice.metric.energy(momentum) / 2 + self.mismatch(warped, weight)


def is_diffeomorphic(displacement: Tensor) -> bool:
    """Whether no voxel of a map shrinks or grows beyond `MIN_JACOBIAN`, let alone folds."""
    determinant = fields.jacobian_determinant(displacement)
    # False for NaN too.
    return bool(determinant.min() > MIN_JACOBIAN and determinant.max() < 1 / MIN_JACOBIAN)

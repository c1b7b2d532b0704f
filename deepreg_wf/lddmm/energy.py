"""The energy that matching minimises, and its gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from deepreg_wf.lddmm import fields
from deepreg_wf.lddmm.lattice import Lattice
from deepreg_wf.lddmm.metric import Metric
from deepreg_wf.lddmm.shooting import GeodesicEnd, integrate, steps_needed
from deepreg_wf.lddmm.similarity import LNCC, SSD, Mismatch

MIN_JACOBIAN = 0.1
"""Smallest Jacobian determinant that an iteration may reach; the largest is its inverse.

The metric makes folds costly, but on a grid not impossible.
"""

MAX_TIME_STEPS = 40
"""Most time steps of a momentum that can align brains; one that needs more is rejected."""


@dataclass(frozen=True)
class ImagePair:
    """Two images and the weights of their voxels.

    Attributes
    ----------
    moving, fixed : Tensor, shape (X, Y, Z)
        Images on the same grid.
    moving_weight, fixed_weight : Tensor, shape (X, Y, Z), or None
        Weights of the voxels of each; None for 1 everywhere.
    """

    moving: Tensor
    fixed: Tensor
    moving_weight: Tensor | None = None
    fixed_weight: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> ImagePair:
        """Return the pair with a function applied to all images and weights.

        Parameters
        ----------
        change : callable
            Takes an image and returns one.

        Returns
        -------
        ImagePair
            The changed images and weights.
        """
        images = (self.moving, self.fixed, self.moving_weight, self.fixed_weight)
        changed = (None if image is None else change(image) for image in images)
        return ImagePair(*changed)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Energy:
    """Energy ``1/2 <m0, K m0> + mismatch(I0 o phi^-1, I1)`` of a momentum at one resolution.

    Attributes
    ----------
    moving : Tensor, shape (X, Y, Z)
        I0.
    moving_weight : Tensor, shape (X, Y, Z), or None
        Weight of each voxel of I0.
    lattice : Lattice
        Lattice of the momenta, around the images.
    mismatch : callable
        Dissimilarity of a warped moving image to I1.
    """

    moving: Tensor
    moving_weight: Tensor | None
    lattice: Lattice
    mismatch: Mismatch

    @classmethod
    def from_pair(cls, pair: ImagePair, lattice: Lattice, similarity: SSD | LNCC) -> Energy:
        """Return the energy of a pair of images.

        Parameters
        ----------
        pair : ImagePair
            The images.
        lattice : Lattice
            Lattice around them.
        similarity : SSD or LNCC
            Similarity of images.

        Returns
        -------
        Energy
            The energy.
        """
        spacing = lattice.image_metric.spacing
        mismatch = similarity.bind(pair.fixed, spacing, pair.fixed_weight)
        return cls(pair.moving, pair.moving_weight, lattice, mismatch)

    @property
    def metric(self) -> Metric:
        """Metric on the lattice of the momenta."""
        return self.lattice.metric

    @property
    def spacing(self) -> float:
        """Largest voxel size of the images, in millimetres."""
        return max(self.lattice.image_metric.spacing)

    def __call__(self, momentum: Tensor) -> tuple[float, Tensor] | None:
        """Return the energy of a momentum and its gradient, or None if the map folds.

        Parameters
        ----------
        momentum : Tensor, shape (3, X, Y, Z)
            m0, on the lattice.

        Returns
        -------
        tuple of float and Tensor, shape (3, X, Y, Z), or None
            The energy and its L2 gradient on the lattice.
        """
        variable = momentum.detach().requires_grad_()
        with torch.enable_grad():
            energy = self.value(variable)
            if energy is None:
                return None
            (gradient,) = torch.autograd.grad(energy, variable)
        return float(energy.detach()), gradient

    def value(self, momentum: Tensor) -> Tensor | None:
        """Return the energy of a momentum.

        Parameters
        ----------
        momentum : Tensor, shape (3, X, Y, Z)
            m0, on the lattice.

        Returns
        -------
        Tensor, shape (), or None
            The energy, differentiable; None if the map folds.
        """
        steps = steps_needed(momentum.detach(), self.lattice)
        if steps > MAX_TIME_STEPS:
            return None
        return self.at_endpoint(integrate(momentum, self.lattice, steps), momentum)

    def at_endpoint(self, end: GeodesicEnd, momentum: Tensor) -> Tensor | None:
        """Return the energy of a momentum that has been shot already.

        Parameters
        ----------
        end : GeodesicEnd
            End of its geodesic.
        momentum : Tensor, shape (3, X, Y, Z)
            m0, on the lattice.

        Returns
        -------
        Tensor, shape (), or None
            The energy, differentiable; None if the map folds.
        """
        inverse = self.lattice.displacement(end.inverse)
        if not is_diffeomorphic(inverse.detach()):
            return None
        warped = fields.interpolate(self.moving.unsqueeze(0), inverse)[0]
        weight = None
        if self.moving_weight is not None:
            weight = fields.interpolate(self.moving_weight.unsqueeze(0), inverse)[0]
        energy = self.lattice.metric.energy(momentum) / 2 + self.mismatch(warped, weight)
        return energy if energy.isfinite() else None


def is_diffeomorphic(displacement: Tensor) -> bool:
    """Tell whether all Jacobian determinants of a map are within `MIN_JACOBIAN` and its inverse.

    Parameters
    ----------
    displacement : Tensor, shape (3, X, Y, Z)
        In voxels.

    Returns
    -------
    bool
        False also if a value is not finite.
    """
    determinant = fields.jacobian_determinant(displacement)
    # Comparisons with NaN are false.
    return bool(determinant.min() > MIN_JACOBIAN and determinant.max() < 1 / MIN_JACOBIAN)

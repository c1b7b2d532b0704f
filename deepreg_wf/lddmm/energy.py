"""The energy that matching minimises, and its gradient."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import relu

from deepreg_wf.lddmm import fields
from deepreg_wf.lddmm.lattice import Lattice, every_nth
from deepreg_wf.lddmm.metric import Metric
from deepreg_wf.lddmm.shooting import MIN_TIME_STEPS, GeodesicEnd, integrate, steps_needed
from deepreg_wf.lddmm.similarity import LNCC, SSD, Mismatch

MAX_TIME_STEPS = 40
"""Most time steps of a momentum that can align brains; one that needs more is rejected."""

BARRIER_WEIGHT = 2.0
"""Energy per mm^3 where the logarithm of a volume change exceeds its soft bound by one."""

JACOBIANS_PER_LATTICE_SPACING = 2
"""Points along each axis, per lattice spacing, at which the volume change is computed."""


@dataclass(frozen=True, kw_only=True)
class EnergyTerms:
    """Terms of the energy of a matching, beside the norm of the velocity.

    Attributes
    ----------
    similarity : SSD or LNCC
        Similarity of the images.
    soft_volume_change : float
        Factor c of volume change, in either direction, from which on the energy has a barrier,
        ``BARRIER_WEIGHT * integral of max(0, |log J| - log c)^2``, over the space of the fixed
        image and over that of the moving one; infinite for none.
    max_volume_change : float
        Factor of volume change that no iteration may reach. The metric makes folds costly, but on
        a grid not impossible.
    min_time_steps : int
        Fewest time steps of a geodesic; see `steps_needed`. Two are enough for a small
        deformation that is shot again, more finely, once it is found.

    Notes
    -----
    J is the Jacobian determinant of the whole map, with those of earlier links of a chain.
    """

    similarity: SSD | LNCC
    soft_volume_change: float = math.inf
    max_volume_change: float = 10.0
    min_time_steps: int = MIN_TIME_STEPS

    def to_dict(self) -> dict[str, Any]:
        """Return the terms in values that JSON can represent.

        Returns
        -------
        dict
            See `from_dict`.
        """
        soft = self.soft_volume_change
        return {
            'similarity': {'kind': type(self.similarity).__name__, **asdict(self.similarity)},
            'soft_volume_change': soft if math.isfinite(soft) else None,
            'max_volume_change': self.max_volume_change,
            'min_time_steps': self.min_time_steps,
        }

    @classmethod
    def from_dict(cls, terms: Mapping[str, Any]) -> EnergyTerms:
        """Return the terms that `to_dict` has described.

        Parameters
        ----------
        terms : mapping
            The description.

        Returns
        -------
        EnergyTerms
            The terms.

        Raises
        ------
        ValueError
            If the similarity is unknown.
        """
        similarity = dict(terms['similarity'])
        kind = similarity.pop('kind')
        kinds: dict[str, type[SSD | LNCC]] = {'SSD': SSD, 'LNCC': LNCC}
        if kind not in kinds:
            raise ValueError(f'unknown similarity {kind!r}')
        soft = terms['soft_volume_change']
        return cls(
            similarity=kinds[kind](**similarity),
            soft_volume_change=math.inf if soft is None else soft,
            max_volume_change=terms['max_volume_change'],
            min_time_steps=terms['min_time_steps'],
        )


NETWORK_TERMS = EnergyTerms(similarity=LNCC(width=2.0, weight=0.2))
"""Terms that a network without others in its weights file was trained with."""


@dataclass(frozen=True)
class ImagePair:
    """Two images and the weights of their voxels.

    Attributes
    ----------
    moving, fixed : Tensor, shape (X, Y, Z)
        Images on the same grid.
    moving_weight, fixed_weight : Tensor, shape (X, Y, Z), or None
        Weights of the voxels of each; None for 1 everywhere.
    earlier : Tensor, shape (3, X, Y, Z), or None
        Displacement, in mm, of the inverse map of the earlier links of a chain, which has warped
        the moving image already; None for the identity.
    """

    moving: Tensor
    fixed: Tensor
    moving_weight: Tensor | None = None
    fixed_weight: Tensor | None = None
    earlier: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> ImagePair:
        """Return the pair with a function applied to all its tensors.

        Parameters
        ----------
        change : callable
            Takes a tensor of shape (..., X, Y, Z) and returns one.

        Returns
        -------
        ImagePair
            The changed pair.
        """
        images = (
            self.moving,
            self.fixed,
            self.moving_weight,
            self.fixed_weight,
            self.earlier,
        )
        changed = (None if image is None else change(image) for image in images)
        return ImagePair(*changed)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Energy:
    """Energy ``1/2 <m0, K m0> + mismatch(I0 o phi^-1, I1) + barrier(phi)`` at one resolution.

    Attributes
    ----------
    pair : ImagePair
        I0 and I1.
    lattice : Lattice
        Lattice of the momenta, around the images.
    terms : EnergyTerms
        Similarity, and bounds of the volume change.
    mismatch : callable
        Dissimilarity of a warped moving image to I1.
    """

    pair: ImagePair
    lattice: Lattice
    terms: EnergyTerms
    mismatch: Mismatch

    @classmethod
    def from_pair(cls, pair: ImagePair, lattice: Lattice, terms: EnergyTerms) -> Energy:
        """Return the energy of a pair of images.

        Parameters
        ----------
        pair : ImagePair
            The images.
        lattice : Lattice
            Lattice around them.
        terms : EnergyTerms
            Similarity, and bounds of the volume change.

        Returns
        -------
        Energy
            The energy.
        """
        spacing = lattice.image_metric.spacing
        mismatch = terms.similarity.bind(pair.fixed, spacing, pair.fixed_weight)
        return cls(pair, lattice, terms, mismatch)

    @property
    def metric(self) -> Metric:
        """Metric on the lattice of the momenta."""
        return self.lattice.metric

    @property
    def spacing(self) -> float:
        """Largest voxel size of the images, in millimetres."""
        return max(self.lattice.image_metric.spacing)

    def __call__(self, momentum: Tensor) -> tuple[float, Tensor] | None:
        """Return the energy of a momentum and its gradient.

        Parameters
        ----------
        momentum : Tensor, shape (3, X, Y, Z)
            m0, on the lattice.

        Returns
        -------
        tuple of float and Tensor, shape (3, X, Y, Z), or None
            The energy and its L2 gradient on the lattice; None if the map exceeds the bounds.
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
            The energy, differentiable; None if the map exceeds the bounds.
        """
        steps = steps_needed(momentum.detach(), self.lattice, self.terms.min_time_steps)
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
            The energy, differentiable; None if the map exceeds the bounds.
        """
        # The determinant is cheaper than the rest: a map that exceeds the bounds goes no further.
        jacobian = self.lattice.jacobian_determinant(end.inverse, self._jacobian_step)
        if not self._is_within_bounds(jacobian.detach()):
            return None
        inverse = self.lattice.displacement(end.inverse)
        log_jacobian = jacobian.log()
        if self._earlier is not None:
            *earlier, log_earlier = fields.interpolate(self._earlier, inverse)
            inverse = inverse + torch.stack(earlier)
            log_jacobian = log_jacobian + self._at_jacobians(log_earlier)
            if not self._is_within_bounds(log_jacobian.detach().exp()):
                return None
        moving, weight = self._warp(inverse)
        energy = self.lattice.metric.energy(momentum) / 2 + self.mismatch(moving, weight)
        if math.isfinite(self.terms.soft_volume_change):
            energy = energy + self._barrier(log_jacobian)
        return energy if energy.isfinite() else None

    @functools.cached_property
    def _earlier(self) -> Tensor | None:
        """Displacement of the earlier links in voxels, and the logarithm of its Jacobian.

        The images are sampled once, where the whole map leads. If they were warped link by link,
        every link would blur them once more, and the energy would have a kink at a momentum of
        zero, where all points lie on voxels.
        """
        if self.pair.earlier is None:
            return None
        size = self.pair.earlier.new_tensor(self.lattice.image_metric.spacing).view(3, 1, 1, 1)
        displacement = self.pair.earlier / size
        # Not log(0), should the samples of the map fold.
        smallest = torch.finfo(displacement.dtype).eps
        jacobian = fields.jacobian_determinant(displacement).clamp_min(smallest)
        return torch.cat([displacement, jacobian.log().unsqueeze(0)])

    def _warp(self, inverse: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the moving image and its weights, after phi^-1."""
        if self.pair.moving_weight is None:
            return fields.interpolate(self.pair.moving.unsqueeze(0), inverse)[0], None
        images = torch.stack([self.pair.moving, self.pair.moving_weight])
        moving, weight = fields.interpolate(images, inverse)
        return moving, weight

    def _barrier(self, log_jacobian: Tensor) -> Tensor:
        """Return the energy of volume changes beyond the soft bound."""
        excess = relu(log_jacobian.abs() - math.log(self.terms.soft_volume_change))
        volume = self.lattice.image_metric.voxel_volume * self._jacobian_step**3
        # J is the volume that a voxel of the fixed image has in the space of the moving one.
        both_spaces = volume * (1 + log_jacobian.exp())
        return BARRIER_WEIGHT * (both_spaces * excess.square()).sum()

    def _is_within_bounds(self, jacobian: Tensor) -> bool:
        """Tell whether all volume changes are within the hard bound; False for NaN."""
        bound = self.terms.max_volume_change
        return bool(jacobian.min() > 1 / bound and jacobian.max() < bound)

    @property
    def _jacobian_step(self) -> int:
        """Distance, in voxels, of the points at which the volume change is computed."""
        finest = min(self.lattice.metric.spacing) / JACOBIANS_PER_LATTICE_SPACING
        return max(1, int(finest / max(self.lattice.image_metric.spacing)))

    def _at_jacobians(self, image: Tensor) -> Tensor:
        """Return the voxels of an image at which the volume change is computed."""
        x, y, z = (every_nth(length, self._jacobian_step) for length in image.shape)
        return image[x, y, z]

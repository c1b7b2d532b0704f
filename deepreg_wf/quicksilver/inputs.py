"""Input of the networks: images on the coarse grid, energy gradient and current momentum."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deepreg_wf.lddmm import fields
from deepreg_wf.lddmm.energy import (
    MAX_TIME_STEPS,
    NETWORK_TERMS,
    Energy,
    EnergyTerms,
    ImagePair,
)
from deepreg_wf.lddmm.images import block_average, content_box, pad_to_multiple
from deepreg_wf.lddmm.lattice import Lattice, coarsest_spacing
from deepreg_wf.lddmm.shooting import GeodesicEnd, integrate, steps_needed
from deepreg_wf.quicksilver.architecture import correlation_forces
from deepreg_wf.quicksilver.coarse_grid import CoarseGrid

FORCE_SCALE = 0.1
"""Typical magnitude of correlation forces, by which they are divided."""

BOX_MARGIN = 1
"""Coarse voxels around the brains that take part; a wider margin improved nothing."""

COARSE_VOXELS_PER_LATTICE_POINT = 1.5
"""Spacing of the lattice on which a momentum is shot, in coarse voxels.

Compared with a lattice as fine as the coarse grid, this halves the time of an input. It changes
the energy of a prediction by a hundredth, where the networks lower the energy by a third.
"""


@dataclass(frozen=True)
class NetworkInput:
    """Input of a network at a momentum, and the energy of that momentum.

    Attributes
    ----------
    channels : Tensor or None, shape (2 or 2 + N_GRADIENT_CHANNELS, X, Y, Z)
        On the coarse grid: the moving image; the fixed image, warped back to the space of the
        moving image; and, with gradient channels, the forces of the local correlation, the energy
        gradient and the momentum, three components each. The gradient and the momentum are
        whitened and in units of the output of the network. None where the input was not computed,
        which `RegistrationState.energy_only` and a momentum too large to be shot lead to.
    energy : float or None
        Energy of the matching; None if the network has no gradient channels, or if the map folds.
    folds : bool
        Whether the map of the momentum folds, so that the energy is not defined.
    """

    channels: Tensor | None
    energy: float | None
    folds: bool = False

    def is_better_than(self, other: NetworkInput) -> bool:
        """Return whether this momentum should be preferred to another of the same images.

        Parameters
        ----------
        other : NetworkInput
            Input at the momentum to compare with.

        Returns
        -------
        bool
            True if the map does not fold and its energy is lower, or cannot be compared.
        """
        if self.folds:
            return False
        if self.energy is None or other.energy is None:
            return True
        return self.energy < other.energy


def mirror(channels: Tensor, n_images: int) -> Tensor:
    """Swap left and right, which lie along the x axis.

    Parameters
    ----------
    channels : Tensor, shape (..., C, X, Y, Z)
        Images, followed by vectors of three channels each.
    n_images : int
        Channels that are images.

    Returns
    -------
    Tensor, shape (..., C, X, Y, Z)
        Mirrored channels; the x components of the vectors have changed their sign.
    """
    mirrored = channels.flip(-3)
    mirrored[..., n_images::3, :, :, :].neg_()
    return mirrored


class RegistrationState:
    """Two images to register, from which the input of a network at any momentum is computed.

    Parameters
    ----------
    moving, fixed : Tensor, shape (X, Y, Z)
        Images in [0, 1], on the voxels of the image of the coarse grid.
    coarse_grid : CoarseGrid
        Grid of the network.
    energy_spacing : float
        Voxel size in mm to which the images are averaged for the energy.
    terms : EnergyTerms
        Terms of the energy that the network was trained with.
    output_scale : float
        Whitened momentum that an output of one stands for.
    gradient_channels : bool
        Whether the network has gradient channels.

    Attributes
    ----------
    coarse_grid : CoarseGrid
        Grid of the network.

    Notes
    -----
    The energy of a momentum m is ``E(m) = 1/2 <m, K m> + D(I0 o phi^-1, I1)``, where D is the
    mismatch and phi the end of the geodesic of m. Let f be the gradient of D with respect to the
    velocity, carried back along the geodesic to its start by the adjoint equations. With the
    whitened momentum ``u = K^(1/2) m``, the gradient channel is

        dE/du = u + K^(1/2) f,

    zero at the optimum. It shows what an optimiser sees: u resists the deformation, the second
    term is the pull of the images, both in the units of the output of the network. It is computed
    by automatic differentiation of the shooting, see `deepreg_wf.lddmm.energy`.
    """

    def __init__(
        self,
        moving: Tensor,
        fixed: Tensor,
        coarse_grid: CoarseGrid,
        *,
        energy_spacing: float = 2.0,
        terms: EnergyTerms = NETWORK_TERMS,
        output_scale: float = 1.0,
        gradient_channels: bool = True,
    ) -> None:
        self.coarse_grid, self._output_scale = coarse_grid, output_scale
        images = torch.stack([coarse_grid.downsample(moving), coarse_grid.downsample(fixed)])
        # Everything is computed in the bounding box of the brains, which saves time.
        box = content_box(images.amax(dim=0), BOX_MARGIN)
        self._box = (..., *box)
        factor = coarse_grid.factor
        voxels = tuple(slice(factor * b.start, factor * b.stop) for b in box)
        moving, fixed = moving[voxels], fixed[voxels]
        self._box_grid = coarse_grid.for_image_shape(moving.shape)
        self._images = images[self._box]
        self._lattice = _shooting_lattice(self._box_grid)
        self._lattice_on_coarse_grid = self._lattice.coarsened(factor)
        self._energy = None
        if gradient_channels:
            energy_factor = _energy_factor(coarse_grid, energy_spacing)
            energy_lattice = self._lattice.coarsened(energy_factor)
            pair = _averaged_pair(moving, fixed, energy_factor)
            self._energy = Energy.from_pair(pair, energy_lattice, terms)

    @property
    def zero_momentum(self) -> Tensor:
        """Whitened momentum of the identity, shape (3, X, Y, Z), on the coarse grid."""
        return self._images.new_zeros(3, *self.coarse_grid.shape)

    def network_input(self, whitened: Tensor) -> NetworkInput:
        """Compute the input of the network at a momentum.

        Parameters
        ----------
        whitened : Tensor, shape (3, X, Y, Z)
            Whitened momentum on the coarse grid.

        Returns
        -------
        NetworkInput
        """
        inside = whitened[self._box]
        momentum = self._box_grid.unwhiten_on_lattice(inside).detach()
        steps = steps_needed(self._to_shooting_lattice(momentum), self._lattice)
        if self._energy is not None and steps > MAX_TIME_STEPS:
            return NetworkInput(None, None, folds=True)
        end, energy, gradient = self._shoot(momentum, steps)
        channels = torch.stack([self._images[0], self._warp_back(end, steps)])
        if gradient is not None:
            forces = correlation_forces(channels[None, :1], channels[None, 1:])[0] / FORCE_SCALE
            slope = self._box_grid.whitened_gradient(gradient) / self._output_scale
            channels = torch.cat([channels, forces, slope, inside / self._output_scale])
        padded = whitened.new_zeros(len(channels), *self.coarse_grid.shape)
        padded[self._box] = channels
        return NetworkInput(padded, energy, folds=gradient is not None and energy is None)

    def energy_only(self, whitened: Tensor) -> NetworkInput:
        """Compute the energy of a momentum without the channels.

        Parameters
        ----------
        whitened : Tensor, shape (3, X, Y, Z)
            Whitened momentum on the coarse grid.

        Returns
        -------
        NetworkInput
        """
        if self._energy is None:
            return NetworkInput(None, None)
        with torch.no_grad():
            energy = self.energy(whitened)
        return NetworkInput(None, _as_float(energy), folds=energy is None)

    def energy(self, whitened: Tensor) -> Tensor | None:
        """Compute the energy of a momentum, differentiably.

        Parameters
        ----------
        whitened : Tensor, shape (3, X, Y, Z)
            Whitened momentum on the coarse grid.

        Returns
        -------
        Tensor or None, shape ()
            None if the map folds.

        Raises
        ------
        ValueError
            If the network has no gradient channels.
        """
        if self._energy is None:
            raise ValueError('the energy is only known to a network with gradient channels')
        momentum = self._box_grid.unwhiten_on_lattice(whitened[self._box])
        return self._energy.value(self._to_shooting_lattice(momentum))

    def _to_shooting_lattice(self, momentum: Tensor) -> Tensor:
        """Bring a momentum from the lattice of the coarse grid to the one of shooting."""
        return self._lattice.restrict_from(self._box_grid.lattice, momentum)

    def _shoot(
        self, momentum: Tensor, steps: int
    ) -> tuple[GeodesicEnd, float | None, Tensor | None]:
        """Return the end of a geodesic, its energy, and the gradient at the momentum.

        The energy is None if the map folds, and the gradient is then zero; both are None without
        gradient channels.
        """
        if self._energy is None:
            with torch.no_grad():
                end = integrate(self._to_shooting_lattice(momentum), self._lattice, steps)
            return end, None, None
        variable = momentum.requires_grad_()
        with torch.enable_grad():
            start = self._to_shooting_lattice(variable)
            end = integrate(start, self._lattice, steps)
            energy = self._energy.at_endpoint(end, start)
            gradient = torch.zeros_like(momentum)
            if energy is not None:
                (gradient,) = torch.autograd.grad(energy, variable)
        return end, _as_float(energy), gradient

    def _warp_back(self, end: GeodesicEnd, steps: int) -> Tensor:
        """Return the fixed image on the coarse grid in the space of the moving image."""
        # Shooting the reversed momentum from the end retraces the geodesic; the inverse map of
        # the way back is the forward map phi, and I1 o phi lies in the space of I0.
        with torch.no_grad():
            back = integrate(-end.momentum.detach(), self._lattice, steps)
            phi = self._lattice_on_coarse_grid.displacement(back.inverse)
            return fields.interpolate(self._images[1:], phi)[0]


def _as_float(energy: Tensor | None) -> float | None:
    return None if energy is None else float(energy.detach())


def _shooting_lattice(coarse_grid: CoarseGrid) -> Lattice:
    """Make the lattice on which the momenta of a coarse grid are shot."""
    metric = coarse_grid.image_metric
    spacing = COARSE_VOXELS_PER_LATTICE_POINT * max(coarse_grid.spacing)
    return Lattice.around(metric, spacing=max(spacing, coarsest_spacing(metric)))


def _energy_factor(coarse_grid: CoarseGrid, energy_spacing: float) -> int:
    """Return the divisor of the coarsening factor that comes near a spacing in mm."""
    voxel_size = max(coarse_grid.image_metric.spacing)
    factor = min(coarse_grid.factor, max(1, round(energy_spacing / voxel_size)))
    while coarse_grid.factor % factor:
        factor -= 1
    return factor


def _averaged_pair(moving: Tensor, fixed: Tensor, factor: int) -> ImagePair:
    """Return two images averaged over blocks of `factor` voxels a side."""
    images = block_average(pad_to_multiple(torch.stack([moving, fixed]), factor), factor)
    return ImagePair(images[0], images[1])

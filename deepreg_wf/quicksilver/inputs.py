"""What a network is shown: two images, where a momentum takes them, and what is still wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from deepreg_wf.lddmm import DEFAULT_SIMILARITY, fields
from deepreg_wf.lddmm.energy import MAX_STEPS, Energy, Pair
from deepreg_wf.lddmm.images import block_average, content_box, pad_to_multiple
from deepreg_wf.lddmm.lattice import Lattice, coarsest_spacing
from deepreg_wf.lddmm.shooting import Path, follow, steps_needed
from deepreg_wf.quicksilver.architecture import correlation_forces
from deepreg_wf.quicksilver.coarse_grid import Blocks

FORCE = 0.1
"""Size of correlation forces."""

ROOM = 1
"""Blocks around the brains that take part; with more of them nothing was gained."""

BLOCKS_PER_POINT = 1.5
"""Blocks to a point, each way, of the lattice on which a momentum is shot to see where it leads.

Next to a lattice as fine as the blocks this halves the time of looking. The energy of a prediction
differs by a hundredth, where the networks take away a third.
"""


@dataclass(frozen=True)
class View:
    """What there is to see of a pair of images at a momentum.

    Attributes
    ----------
    channels : Tensor, shape (2 or 2 + HINTS, X, Y, Z)
        On the blocks: the moving image; the fixed one, warped back; and, as hints, the forces of
        their local correlation, the gradient of the energy and the momentum itself. The latter two
        are whitened and in units of the network's own output. Nothing, where the momentum is
        beyond all reason.
    energy : float
        Of the matching; infinite where the momentum folds, and what is shown then means nothing.
        None is known of a scene without hints: NaN.
    """

    channels: Tensor
    energy: float


def mirror(channels: Tensor, images: int) -> Tensor:
    """Change left for right, which are on x.

    Parameters
    ----------
    channels : Tensor, shape (..., C, X, Y, Z)
    images : int
        Channels that are images; the others are vectors, three by three.

    Returns
    -------
    Tensor, shape (..., C, X, Y, Z)
    """
    mirrored = channels.flip(-3)
    mirrored[..., images::3, :, :, :].neg_()
    return mirrored


class Scene:
    """A pair of images to be registered, as seen from any momentum.

    At the gradient of the energy an optimiser looks, too. In whitened momenta it is
    ``u + K^(1/2) force``: zero at the optimum, and until then the sum of what the images want
    and of what the metric resists, carried back along the geodesic to where it starts.

    Parameters
    ----------
    moving, fixed : Tensor, shape (X, Y, Z)
        On the voxels of the blocks' image, in [0, 1].
    blocks : Blocks
    detail : float
        Voxel size in mm that images are averaged to for the energy.
    scale : float
        What a whitened momentum of one stands for in the channels.
    hints : bool
        Whether to show more than images.
    """

    def __init__(
        self,
        moving: Tensor,
        fixed: Tensor,
        blocks: Blocks,
        *,
        detail: float = 2.0,
        scale: float = 1.0,
        hints: bool = True,
    ) -> None:
        self.blocks, self.scale = blocks, scale
        images = torch.stack([blocks.reduce(moving), blocks.reduce(fixed)])
        # Nothing but the brains and some room around them takes part.
        box = content_box(images.amax(dim=0), ROOM)
        self._box = (..., *box)
        voxels = tuple(slice(blocks.factor * b.start, blocks.factor * b.stop) for b in box)
        moving, fixed = moving[voxels], fixed[voxels]
        self._inner = blocks.of_image(moving.shape)
        self._images = images[self._box]
        self._lattice = _lattice(self._inner)
        self._coarse = self._lattice.coarsened(blocks.factor)
        self._energy = None
        if hints:
            factor = _factor(blocks, detail)
            self._energy = _energy(moving, fixed, self._lattice.coarsened(factor), factor)

    @property
    def nothing(self) -> Tensor:
        """The momentum of the identity, (3, X, Y, Z) on the blocks."""
        return self._images.new_zeros(3, *self.blocks.shape)

    def view(self, whitened: Tensor) -> View:
        """See the pair from a whitened momentum, (3, X, Y, Z) on the blocks."""
        inside = whitened[self._box]
        momentum = self._inner.on_lattice(inside).detach()
        steps = steps_needed(self._coarsely(momentum), self._lattice)
        if self._energy is not None and steps > MAX_STEPS:
            return View(whitened.new_zeros(0), math.inf)
        path, energy, gradient = self._descend(momentum, steps)
        shown = torch.stack([self._images[0], self._warp_back(path, steps)])
        if self._energy is not None:
            forces = correlation_forces(shown[None, :1], shown[None, 1:])[0] / FORCE
            slope = self._inner.from_lattice(gradient) / self.scale
            shown = torch.cat([shown, forces, slope, inside / self.scale])
        channels = whitened.new_zeros(len(shown), *self.blocks.shape)
        channels[self._box] = shown
        return View(channels, energy)

    def glance(self, whitened: Tensor) -> View:
        """See no more than the energy."""
        energy = math.nan
        if self._energy is not None:
            with torch.no_grad():
                energy = float(self.energy(whitened))
        return View(whitened.new_zeros(0), energy)

    def energy(self, whitened: Tensor) -> Tensor:
        """Energy of a whitened momentum, differentiable; infinite where it folds."""
        if self._energy is None:
            raise ValueError('a scene without hints has no energy')
        return self._energy.value(self._coarsely(self._inner.on_lattice(whitened[self._box])))

    def _coarsely(self, momentum: Tensor) -> Tensor:
        return self._lattice.restrict_from(self._inner.lattice, momentum)

    def _descend(self, momentum: Tensor, steps: int) -> tuple[Path, float, Tensor]:
        """The path of a momentum, the energy at its end and the gradient of that."""
        if self._energy is None:
            with torch.no_grad():
                return follow(self._coarsely(momentum), self._lattice, steps), math.nan, momentum
        variable = momentum.requires_grad_()
        with torch.enable_grad():
            coarse = self._coarsely(variable)
            path = follow(coarse, self._lattice, steps)
            energy = self._energy.at_end(path, coarse)
            gradient = torch.zeros_like(momentum)
            if energy.isfinite():
                (gradient,) = torch.autograd.grad(energy, variable)
        return path, float(energy.detach()), gradient

    def _warp_back(self, path: Path, steps: int) -> Tensor:
        """The fixed image on the blocks, in the space of the moving one."""
        with torch.no_grad():
            back = follow(-path.momentum.detach(), self._lattice, steps)
            phi = self._coarse.displacement(back.inverse)
            return fields.interpolate(self._images[1:], phi)[0]


def _lattice(blocks: Blocks) -> Lattice:
    """Where momenta of blocks are shot."""
    spacing = BLOCKS_PER_POINT * max(blocks.size)
    return Lattice.around(blocks.image, spacing=max(spacing, coarsest_spacing(blocks.image)))


def _factor(blocks: Blocks, detail: float) -> int:
    """Voxels, a whole part of a block's, that come near some detail in mm."""
    factor = min(blocks.factor, max(1, round(detail / max(blocks.image.spacing))))
    while blocks.factor % factor:
        factor -= 1
    return factor


def _energy(moving: Tensor, fixed: Tensor, lattice: Lattice, factor: int) -> Energy:
    """The energy of two images averaged over blocks of `factor` voxels a side."""
    images = block_average(pad_to_multiple(torch.stack([moving, fixed]), factor), factor)
    return Energy.of(Pair(images[0], images[1]), lattice, DEFAULT_SIMILARITY)

"""The grid on which a network works: blocks of voxels, as large as those it was trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from deepreg_wf.lddmm import Metric, spectral
from deepreg_wf.lddmm.images import block_average, pad_to_multiple
from deepreg_wf.lddmm.lattice import MARGIN, Lattice

TOLERANCE = 0.1
"""Share by which blocks may be larger or smaller than those that a network was trained on."""


class Blocks:
    """Blocks of voxels of an image grid, and the momenta of their size.

    A network does not see momenta but whitened ones, ``u = K^(1/2) m``, whose square integrates
    to the energy ``<m, K m>``: where the momentum has the edges of the image in it, and the
    velocity hides all but the coarsest, u weighs every frequency as the metric does. For a metric
    of power two ``K^(1/2)`` is the kernel of power one.

    Parameters
    ----------
    image : Metric
        On the voxels of the images.
    spacing : float
        Size in mm that the blocks should have.
    whitened : bool
        If not, the momenta of the blocks are plain ones.

    Attributes
    ----------
    image : Metric
    factor : int
        Voxels along each side of a block.
    shape : tuple of 3 int
        Blocks along each axis; the last may lie half outside of the image.
    size : tuple of 3 float
        Millimetres.
    lattice : Lattice
        The blocks, and so many around them that no periodic copy is near: momenta can be shot
        there.

    Raises
    ------
    ValueError
        If no whole number of voxels comes near that size, or the metric has an odd power.
    """

    def __init__(self, image: Metric, spacing: float, *, whitened: bool = True) -> None:
        self.image = image
        self.factor = _factor(image.spacing, spacing)
        self.shape = tuple(-(-n // self.factor) for n in image.shape)
        self.size = tuple(self.factor * h for h in image.spacing)
        reach = [math.ceil(MARGIN * image.decay_length / h / 2) for h in self.size]
        shape = [spectral.friendly_size(n + 2 * r) for n, r in zip(self.shape, reach, strict=True)]
        self._before = [(n - m) // 2 for n, m in zip(shape, self.shape, strict=True)]
        x, y, z = (n * self.factor - (self.factor - 1) / 2 for n in self._before)
        self.lattice = Lattice(image.with_grid(shape, self.size), image, (x, y, z))
        self._root = self.lattice.metric.root if whitened else None

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return self.image.device

    def of_image(self, shape: Sequence[int]) -> Blocks:
        """Blocks of the same kind of an image of another shape."""
        image = self.image.with_grid(shape, self.image.spacing)
        return Blocks(image, max(self.size), whitened=self._root is not None)

    def reduce(self, image: Tensor) -> Tensor:
        """Average an image, (..., X, Y, Z), over the blocks; beyond its end it is zero."""
        return block_average(pad_to_multiple(image, self.factor), self.factor)

    def whiten(self, momentum: Tensor) -> Tensor:
        """Bring a momentum, (..., 3, X, Y, Z) on the voxels, to the blocks as ``K^(1/2) m``.

        What is finer than the blocks is lost.
        """
        coarse = self.lattice.restrict(momentum)
        return self._crop(self._root.velocity(coarse) if self._root else coarse)

    def colour(self, whitened: Tensor) -> Tensor:
        """Give the momentum on the voxels, (..., 3, X, Y, Z), that a whitened one stands for."""
        return self.lattice.lift(self.on_lattice(whitened))

    def on_lattice(self, whitened: Tensor) -> Tensor:
        """Give the momentum on the lattice, (..., 3, X, Y, Z), that a whitened one stands for."""
        padded = self._pad(whitened)
        return self._root.momentum(padded) if self._root else padded

    def from_lattice(self, gradient: Tensor) -> Tensor:
        """Give the gradient of what `on_lattice` makes, of a function of that, per mm^3."""
        share = self.lattice.metric.voxel_volume
        return self._crop(self._root.momentum(gradient) if self._root else gradient) / share

    def _pad(self, field: Tensor) -> Tensor:
        widths = []
        for axis in (2, 1, 0):
            before = self._before[axis]
            widths += [before, self.lattice.metric.shape[axis] - before - self.shape[axis]]
        return F.pad(field, widths)

    def _crop(self, field: Tensor) -> Tensor:
        for axis, (before, n) in enumerate(zip(self._before, self.shape, strict=True)):
            field = field.narrow(axis - 3, before, n)
        return field


def _factor(voxel: tuple[float, float, float], spacing: float) -> int:
    factor = max(1, round(spacing / max(voxel)))
    if any(abs(factor * h / spacing - 1) > TOLERANCE for h in voxel):
        size = ' x '.join(f'{h:g}' for h in voxel)
        raise ValueError(
            f'the network works on blocks of {spacing:g} mm, which voxels of {size} mm do not '
            f'make up; register at {spacing:g} mm or a whole part of it'
        )
    return factor

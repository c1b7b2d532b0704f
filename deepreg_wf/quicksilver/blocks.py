"""The grid on which a network works: blocks of voxels, as large as those it was trained on."""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..lddmm import Metric, spectral
from ..lddmm.images import block_average, pad_to_multiple
from ..lddmm.lattice import MARGIN

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
        self._lattice = image.with_grid(shape, self.size)
        self._root = self._lattice.root if whitened else None
        self._whitened = whitened

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return self.image.device

    @property
    def alone(self) -> Blocks:
        """The same blocks, of a coarse image whose voxels they are."""
        coarse = self.image.with_grid(self.shape, self.size)
        return Blocks(coarse, max(self.size), whitened=self._whitened)

    def reduce(self, image: Tensor) -> Tensor:
        """Average an image, (..., X, Y, Z), over the blocks; beyond its end it is zero."""
        return block_average(pad_to_multiple(image, self.factor), self.factor)

    def whiten(self, momentum: Tensor) -> Tensor:
        """Bring a momentum, (..., 3, X, Y, Z) on the voxels, to the blocks as ``K^(1/2) m``.

        What is finer than the blocks is lost.
        """
        down = [matrix.T for matrix in self._to_voxels]
        share = self.image.voxel_volume / self._lattice.voxel_volume
        coarse = spectral.resample(momentum, down) * share
        return self._crop(self._root.velocity(coarse) if self._root else coarse)

    def colour(self, whitened: Tensor) -> Tensor:
        """Give the momentum on the voxels, (..., 3, X, Y, Z), that a whitened one stands for."""
        padded = self._pad(whitened)
        momentum = self._root.momentum(padded) if self._root else padded
        return spectral.resample(momentum, self._to_voxels)

    def _pad(self, field: Tensor) -> Tensor:
        widths = []
        for axis in (2, 1, 0):
            before = self._before[axis]
            widths += [before, self._lattice.shape[axis] - before - self.shape[axis]]
        return F.pad(field, widths)

    def _crop(self, field: Tensor) -> Tensor:
        for axis, (before, n) in enumerate(zip(self._before, self.shape, strict=True)):
            field = field.narrow(axis - 3, before, n)
        return field

    @functools.cached_property
    def _to_voxels(self) -> list[Tensor]:
        """Matrices that evaluate a field of the padded blocks at the voxels."""
        matrices = []
        for axis, n in enumerate(self.image.shape):
            voxels = torch.arange(n, dtype=torch.float64)
            positions = (voxels - (self.factor - 1) / 2) / self.factor + self._before[axis]
            matrix = spectral.interpolation_matrix(self._lattice.shape[axis], positions)
            matrices.append(matrix.to(device=self.image.device, dtype=self.image.dtype))
        return matrices


def _factor(voxel: tuple[float, float, float], spacing: float) -> int:
    factor = max(1, round(spacing / max(voxel)))
    if any(abs(factor * h / spacing - 1) > TOLERANCE for h in voxel):
        size = ' x '.join(f'{h:g}' for h in voxel)
        raise ValueError(
            f'the network works on blocks of {spacing:g} mm, which voxels of {size} mm do not '
            f'make up; register at {spacing:g} mm or a whole part of it'
        )
    return factor

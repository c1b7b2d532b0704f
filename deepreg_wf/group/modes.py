"""The mean of momenta, and the directions in which brains differ most from it.

Momenta that start at the template are vectors of one tangent space of the group of maps, whose
inner product is ``<m, K m'>``: their mean shoots to the average brain, and principal components in
that inner product are the principal geodesics through it (Vaillant, Miller, Younes, Trouve,
NeuroImage 2004).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepreg_wf.group.components import Components
from deepreg_wf.lddmm import Metric
from deepreg_wf.lddmm.lattice import Lattice, coarsest_spacing
from deepreg_wf.lddmm.matching import NEGLIGIBLE_GAIN

MODES = 5
"""Modes that are kept."""

NEGLIGIBLE = 1e-6
"""Share of the variance below which a direction is rounding: two images are the same."""


@dataclass(frozen=True)
class Mode:
    """A principal direction.

    Attributes
    ----------
    momentum : Tensor, shape (3, X, Y, Z)
        One standard deviation, on the voxels.
    share : float
        Of the variance of all momenta.
    """

    momentum: Tensor
    share: float


class Momenta:
    """Mean and principal components of momenta that come one at a time.

    Momenta are whitened, ``u = K^(1/2) m``, on the lattice that matching finds them on; there the
    inner product of the metric is the plain one. Memory does not grow with their number.

    Parameters
    ----------
    metric : Metric
        Of the momenta, on their voxels.

    Raises
    ------
    ValueError
        If the power of the metric is odd, hence K has no root of its kind.
    """

    def __init__(self, metric: Metric) -> None:
        self._lattice = Lattice.around(metric, spacing=coarsest_spacing(metric, NEGLIGIBLE_GAIN))
        self._root = self._lattice.metric.root
        # That of the inner product, so that squares are energies.
        self._unit = math.sqrt(self._lattice.metric.voxel_volume)
        self._shape = (3, *self._lattice.metric.shape)
        self._components = Components(MODES, math.prod(self._shape))

    def add(self, momentum: Tensor) -> None:
        """Take a momentum in, (3, X, Y, Z) per mm^3 on the voxels."""
        self._components.add(self._row(momentum))

    @property
    def mean(self) -> Tensor:
        """Mean momentum, (3, X, Y, Z) on the voxels; the way to the average brain."""
        self._components.update()
        return self._momentum(self._components.mean)

    def modes(self) -> list[Mode]:
        """Principal directions, the one that explains most first; none where all are alike."""
        self._components.update()
        return [
            Mode(self._momentum(self._components.deviation(number)), float(share))
            for number, share in enumerate(self._components.shares[: self._kept])
        ]

    @property
    def _kept(self) -> int:
        return int((self._components.shares > NEGLIGIBLE).sum())

    def scores(self, momentum: Tensor) -> list[float]:
        """How far a momentum lies from the mean along each mode, in standard deviations."""
        return self._components.places(self._row(momentum), self._kept)

    def _row(self, momentum: Tensor) -> NDArray[np.float32]:
        whitened = self._root.velocity(self._lattice.restrict(momentum))
        row: NDArray[np.float32] = (self._unit * whitened).flatten().numpy()
        return row

    def _momentum(self, row: NDArray[np.floating]) -> Tensor:
        whitened = torch.from_numpy(row / self._unit).float().reshape(self._shape)
        return self._lattice.lift(self._root.momentum(whitened))

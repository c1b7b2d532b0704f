"""Mean and principal modes of momenta.

Momenta that start at the template are vectors of one tangent space of the group of maps, with the
inner product ``<m, K m'>``. Their mean shoots to the average brain. Principal components in that
inner product are the principal geodesics through the average (Vaillant, Miller, Younes, Trouve,
NeuroImage 2004).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepreg_wf.group.incremental_pca import IncrementalPCA
from deepreg_wf.lddmm import Metric
from deepreg_wf.lddmm.lattice import Lattice, coarsest_spacing
from deepreg_wf.lddmm.matching import MATCHING_GAIN_CUTOFF

N_MODES = 5
"""Largest number of modes."""

NEGLIGIBLE_VARIANCE = 1e-6
"""Fraction of the variance that rounding errors explain, for example where images are equal."""


@dataclass(frozen=True)
class PrincipalMode:
    """Principal mode of the momenta of a group.

    Attributes
    ----------
    momentum : Tensor, shape (3, X, Y, Z)
        One standard deviation along the mode, on the registration grid.
    explained_variance_ratio : float
        Fraction of the variance of all momenta.
    """

    momentum: Tensor
    explained_variance_ratio: float


class MomentumStatistics:
    """Mean and principal modes of momenta that are added one at a time.

    Momenta are whitened, ``u = K^(1/2) m``, on the lattice on which matching finds them. There
    the inner product ``<m, K m'>`` is the Euclidean one, so that plain principal components
    apply. Memory does not grow with the number of momenta.

    Parameters
    ----------
    metric : Metric
        Metric of the momenta, on the registration grid.

    Raises
    ------
    ValueError
        If the power of the metric is odd, so that K has no square root of the same form.
    """

    def __init__(self, metric: Metric) -> None:
        self._lattice = Lattice.around(
            metric, spacing=coarsest_spacing(metric, MATCHING_GAIN_CUTOFF)
        )
        self._root = self._lattice.metric.square_root
        # The inner product is an integral: this factor makes squared lengths of rows energies.
        self._unit = math.sqrt(self._lattice.metric.voxel_volume)
        self._shape = (3, *self._lattice.metric.shape)
        self._pca = IncrementalPCA(N_MODES, math.prod(self._shape))

    def add(self, momentum: Tensor) -> None:
        """Add a momentum, shape (3, X, Y, Z), per mm^3, on the registration grid."""
        self._pca.add(self._to_row(momentum))

    @property
    def mean(self) -> Tensor:
        """Mean momentum, shape (3, X, Y, Z), on the registration grid."""
        self._pca.update()
        return self._to_momentum(self._pca.mean)

    def modes(self) -> list[PrincipalMode]:
        """Compute the principal modes, by decreasing variance; none if all momenta are equal."""
        self._pca.update()
        ratios = self._pca.explained_variance_ratio[: self._n_modes]
        return [
            PrincipalMode(self._to_momentum(self._pca.scaled_component(number)), float(ratio))
            for number, ratio in enumerate(ratios)
        ]

    @property
    def _n_modes(self) -> int:
        return int((self._pca.explained_variance_ratio > NEGLIGIBLE_VARIANCE).sum())

    def scores(self, momentum: Tensor) -> list[float]:
        """Compute the coordinate of a momentum along each mode, in standard deviations."""
        return self._pca.scores(self._to_row(momentum), self._n_modes)

    def _to_row(self, momentum: Tensor) -> NDArray[np.float32]:
        """Whiten a momentum and flatten it."""
        whitened = self._root.velocity(self._lattice.restrict(momentum))
        row: NDArray[np.float32] = (self._unit * whitened).flatten().numpy()
        return row

    def _to_momentum(self, row: NDArray[np.floating]) -> Tensor:
        """Return the momentum of a row."""
        whitened = torch.from_numpy(row / self._unit).float().reshape(self._shape)
        return self._lattice.lift(self._root.momentum(whitened))

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

from ..lddmm import Metric
from ..lddmm.lattice import Lattice, coarsest_spacing
from ..lddmm.matching import NEGLIGIBLE_GAIN

MODES = 5
"""Modes that are kept."""

SPARE = 10
"""Components that are carried along beside them, so that what is forgotten is small."""

BATCH = 2 * (MODES + SPARE)
"""Momenta that are taken in at once."""

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
    inner product of the metric is the plain one. Components are kept up to date batch by batch
    (Ross, Lim, Lin, Yang, IJCV 2008, in scikit-learn), so that memory does not grow.

    Parameters
    ----------
    metric : Metric
        Of the momenta, on their voxels.
    count : int
        Momenta that are to come.

    Raises
    ------
    ValueError
        If the power of the metric is odd, hence K has no root of its kind.
    """

    def __init__(self, metric: Metric, count: int) -> None:
        from sklearn.decomposition import IncrementalPCA

        self._lattice = Lattice.around(metric, spacing=coarsest_spacing(metric, NEGLIGIBLE_GAIN))
        self._root = self._lattice.metric.root
        # That of the inner product, so that squares are energies.
        self._unit = math.sqrt(self._lattice.metric.voxel_volume)
        self._sum = torch.zeros(3, *self._lattice.metric.shape, dtype=torch.float64)
        self._count = 0
        self._waiting: list[NDArray[np.float32]] = []
        components = min(MODES + SPARE, count - 1)
        self._pca = IncrementalPCA(components) if components > 0 else None

    def add(self, momentum: Tensor) -> None:
        """Take a momentum in, (3, X, Y, Z) per mm^3 on the voxels."""
        whitened = self._whiten(momentum)
        self._sum += whitened.double()
        self._count += 1
        if self._pca is not None:
            self._waiting.append(self._row(whitened))
        # As many stay behind, so that the last batch is never smaller than the components.
        if len(self._waiting) == 2 * BATCH:
            self._digest(BATCH)

    def _digest(self, number: int) -> None:
        if self._pca is not None and number:
            self._pca.partial_fit(np.stack(self._waiting[:number]))
            del self._waiting[:number]

    @property
    def mean(self) -> Tensor:
        """Mean momentum, (3, X, Y, Z) on the voxels; the way to the average brain."""
        return self._colour((self._sum / max(self._count, 1)).float())

    def modes(self) -> list[Mode]:
        """Principal directions, the one that explains most first; none where all are alike."""
        self._digest(len(self._waiting))
        return [self._mode(number) for number in range(self._kept)]

    def _mode(self, number: int) -> Mode:
        assert self._pca is not None
        row = self._pca.components_[number] * math.sqrt(self._pca.explained_variance_[number])
        whitened = torch.from_numpy(row / self._unit).float().reshape(self._sum.shape)
        share = float(self._pca.explained_variance_ratio_[number])
        return Mode(self._colour(whitened), share)

    @property
    def _kept(self) -> int:
        if self._pca is None:
            return 0
        return int((self._pca.explained_variance_ratio_[:MODES] > NEGLIGIBLE).sum())

    def scores(self, momentum: Tensor) -> list[float]:
        """How far a momentum lies from the mean along each mode, in standard deviations."""
        kept = self._kept
        if self._pca is None or not kept:
            return []
        row = self._row(self._whiten(momentum))
        places = self._pca.transform(row[np.newaxis])[0, :kept]
        sizes = np.sqrt(self._pca.explained_variance_[:kept])
        return [float(place) for place in places / sizes]

    def _whiten(self, momentum: Tensor) -> Tensor:
        return self._root.velocity(self._lattice.restrict(momentum))

    def _colour(self, whitened: Tensor) -> Tensor:
        return self._lattice.lift(self._root.momentum(whitened))

    def _row(self, whitened: Tensor) -> NDArray[np.float32]:
        row: NDArray[np.float32] = (self._unit * whitened).flatten().numpy()
        return row

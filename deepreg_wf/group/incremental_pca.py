"""Principal components of vectors that are added one at a time, in constant memory."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

EXTRA_COMPONENTS = 10
"""Components that are computed beside the requested ones, to reduce the truncation error."""

BATCH_SIZE = 30
"""Vectors that are processed at once."""

_CHUNK = 1 << 16
"""Entries of a vector that are processed at once, to bound the memory."""


class IncrementalPCA:
    """Mean and principal components, updated batch by batch.

    The method of Ross, Lim, Lin and Yang (IJCV 77 (2008) 125-141): the components found so far,
    each scaled by its singular value, stand for all earlier vectors. An update finds the
    principal components of these rows, of the new vectors minus their mean, and of one row
    ``sqrt(n m / (n + m)) (old mean - new mean)``, which corrects for the change of the mean, where
    n vectors came before and m are new. The components come from the eigenvectors of the small
    Gram matrix of the rows, as a singular value decomposition of the rows takes many times their
    memory.

    Parameters
    ----------
    n_components : int
        Number of components.
    n_features : int
        Length of a vector.

    Attributes
    ----------
    n_samples : int
        Number of vectors in the mean and in the components.
    mean : ndarray, shape (n_features,)
        Mean of these vectors.
    """

    def __init__(self, n_components: int, n_features: int) -> None:
        self._n_components, self._n_stored = n_components, n_components + EXTRA_COMPONENTS
        # Rows: scaled components, new vectors, and the correction for the change of the mean.
        self._rows = np.zeros((self._n_stored + BATCH_SIZE + 1, n_features), np.float32)
        self.mean = np.zeros(n_features)
        self._eigenvalues = np.zeros(self._n_stored)
        self._total = 0.0
        self._n_new = self.n_samples = 0

    def add(self, vector: NDArray[np.float32]) -> None:
        """Add a vector, shape (n_features,)."""
        self._rows[self._n_stored + self._n_new] = vector
        self._n_new += 1
        if self._n_new == BATCH_SIZE:
            self.update()

    def update(self) -> None:
        """Update the mean and the components with all vectors that were added."""
        n_new, self._n_new = self._n_new, 0
        if not n_new:
            return
        batch, correction = np.split(
            self._rows[self._n_stored : self._n_stored + n_new + 1], [n_new]
        )
        batch_mean = batch.mean(axis=0, dtype=np.float64)
        batch -= batch_mean.astype(np.float32)
        n_total = self.n_samples + n_new
        factor = math.sqrt(self.n_samples * n_new / n_total)
        correction[0] = factor * (self.mean - batch_mean)
        self.mean += (batch_mean - self.mean) * (n_new / n_total)
        self.n_samples = n_total
        self._rotate(self._rows[: self._n_stored + n_new + 1])

    def _rotate(self, rows: NDArray[np.float32]) -> None:
        """Replace the first rows by the scaled principal components of all rows.

        With the eigenvectors U of the Gram matrix ``rows @ rows.T``, the rows of ``U.T @ rows``
        are the principal components times their singular values.
        """
        chunks = [slice(start, start + _CHUNK) for start in range(0, rows.shape[1], _CHUNK)]
        gram = np.zeros((len(rows), len(rows)))
        for chunk in chunks:
            part = rows[:, chunk].astype(np.float64)
            gram += part @ part.T
        self._total += float(np.trace(gram[self._n_stored :, self._n_stored :]))
        values, vectors = np.linalg.eigh(gram)
        largest = slice(-1, -1 - self._n_stored, -1)
        for chunk in chunks:
            part = vectors[:, largest].T @ rows[:, chunk].astype(np.float64)
            rows[: self._n_stored, chunk] = part
        self._eigenvalues = np.maximum(values[largest], 0)

    @property
    def explained_variance_ratio(self) -> NDArray[np.float64]:
        """Fraction of the variance that each component explains, in decreasing order."""
        return self._eigenvalues[: self._n_components] / (self._total or 1.0)

    def scaled_component(self, number: int) -> NDArray[np.float32]:
        """Return one standard deviation along a component, shape (n_features,)."""
        scale = np.float32(max(self.n_samples - 1, 1) ** 0.5)
        row: NDArray[np.float32] = self._rows[number] / scale
        return row

    def scores(self, vector: NDArray[np.float32], n_components: int) -> list[float]:
        """Compute the coordinates of a vector along the first components, in standard deviations.

        Parameters
        ----------
        vector : ndarray, shape (n_features,)
        n_components : int
            Number of coordinates.

        Returns
        -------
        list of float
        """
        along = self._rows[:n_components] @ (vector - self.mean).astype(np.float32)
        return [
            float(a / s) * math.sqrt(self.n_samples - 1)
            for a, s in zip(along, self._eigenvalues, strict=False)
        ]

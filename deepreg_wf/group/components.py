"""Principal components of vectors that come one at a time, in memory that does not grow."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

SPARE = 10
"""Components that are carried along beside those that are wanted: what is forgotten is small."""

BATCH = 30
"""Vectors that are taken in at once."""

_CHUNK = 1 << 16
"""Entries of a vector that are worked on at a time."""


class Components:
    """Mean and principal components, kept up to date batch by batch.

    After Ross, Lim, Lin and Yang (IJCV 77 (2008) 125-141): the components so far, each as long as
    its singular value, stand for all vectors before the batch. Instead of a singular value
    decomposition of these rows, which takes many times their memory, that of their small Gram
    matrix is made.

    Parameters
    ----------
    wanted : int
        Components.
    size : int
        Entries of a vector.

    Attributes
    ----------
    count : int
        Vectors in the components.
    mean : ndarray, shape (size,)
        Of these.
    """

    def __init__(self, wanted: int, size: int) -> None:
        self._wanted, self._carried = wanted, wanted + SPARE
        # Components, those that wait, and one row for the way between the means.
        self._rows = np.zeros((self._carried + BATCH + 1, size), np.float32)
        self.mean = np.zeros(size)
        self._squares = np.zeros(self._carried)
        self._total = 0.0
        self._waiting = self.count = 0

    def add(self, vector: NDArray[np.float32]) -> None:
        """Take a vector in, shape (size,)."""
        self._rows[self._carried + self._waiting] = vector
        self._waiting += 1
        if self._waiting == BATCH:
            self.update()

    def update(self) -> None:
        """Bring the components up to all that was added."""
        new, self._waiting = self._waiting, 0
        if not new:
            return
        batch, between = np.split(self._rows[self._carried : self._carried + new + 1], [new])
        middle = batch.mean(axis=0, dtype=np.float64)
        batch -= middle.astype(np.float32)
        all_of_them = self.count + new
        between[0] = math.sqrt(self.count * new / all_of_them) * (self.mean - middle)
        self.mean += (middle - self.mean) * (new / all_of_them)
        self.count = all_of_them
        self._rotate(self._rows[: self._carried + new + 1])

    def _rotate(self, rows: NDArray[np.float32]) -> None:
        """Turn rows such that the first are the components of all."""
        chunks = [slice(start, start + _CHUNK) for start in range(0, rows.shape[1], _CHUNK)]
        gram = np.zeros((len(rows), len(rows)))
        for chunk in chunks:
            part = rows[:, chunk].astype(np.float64)
            gram += part @ part.T
        self._total += float(np.trace(gram[self._carried :, self._carried :]))
        values, vectors = np.linalg.eigh(gram)
        largest = slice(-1, -1 - self._carried, -1)
        for chunk in chunks:
            part = vectors[:, largest].T @ rows[:, chunk].astype(np.float64)
            rows[: self._carried, chunk] = part
        self._squares = np.maximum(values[largest], 0)

    @property
    def shares(self) -> NDArray[np.float64]:
        """Of the variance, that each wanted component explains, the largest first."""
        return self._squares[: self._wanted] / (self._total or 1.0)

    def deviation(self, number: int) -> NDArray[np.float32]:
        """One standard deviation along a component, shape (size,)."""
        row: NDArray[np.float32] = self._rows[number] / np.float32(max(self.count - 1, 1) ** 0.5)
        return row

    def places(self, vector: NDArray[np.float32], kept: int) -> list[float]:
        """How far a vector is from the mean along the first components, in standard deviations."""
        along = self._rows[:kept] @ (vector - self.mean).astype(np.float32)
        return [
            float(a / s) * math.sqrt(self.count - 1)
            for a, s in zip(along, self._squares, strict=False)
        ]

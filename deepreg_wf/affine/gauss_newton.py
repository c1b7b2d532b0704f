"""Refining an affine by Gauss and Newton's method."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, ndimage

from deepreg_wf.affine.brain import Brain
from deepreg_wf.spatial import Transform, VoxelGrid, resample
from deepreg_wf.spatial.masks import Mask

Array = NDArray[np.float64]

UNIT_MM = 100.0
"""Unit of length in which linear parts and translations have about the same size."""

RING_MM = 8.0
"""Distance from the brain up to which voxels are compared, in mm: its edge counts."""

TOLERANCE_MM = 1e-3
"""Step, at the corner of the brain's box that it moves most, after which a level is done."""

LONGEST_MM = 40.0
"""Step that is not exceeded: far from the minimum Gauss and Newton's can be anything."""

LARGEST_CHANGE = 3.0
"""Factor of volume from which on a result is none: the start has that right to a fifth."""

OUTLIERS = 2.0
"""Residual, in robust standard deviations, of a voxel that counts half."""


@dataclass(frozen=True, kw_only=True)
class Level:
    """What is done at one resolution.

    Attributes
    ----------
    spacing : float
        Of the voxels that are compared, in mm, at least.
    smoothing : float
        Standard deviation of the Gaussian before that, in mm.
    iterations : int
        At most.
    affine : bool
        Twelve degrees of freedom; rotation, translation and size if not.
    """

    spacing: float
    smoothing: float
    iterations: int
    affine: bool = True


COARSE = (
    Level(spacing=8.0, smoothing=6.0, iterations=15, affine=False),
    Level(spacing=8.0, smoothing=4.0, iterations=15),
)
"""Enough to tell which of several starts is right."""

FINE = (
    Level(spacing=4.0, smoothing=3.0, iterations=15),
    Level(spacing=3.0, smoothing=1.0, iterations=25),
)

SLOPPY = (Level(spacing=4.0, smoothing=3.0, iterations=10),)


def refine(moving: Brain, fixed: Brain, start: Array, levels: tuple[Level, ...]) -> Array:
    """Refine an affine by least squares between evened brains.

    Both brains' gradients are averaged in each step, which makes it one of second order (Malis,
    ICRA 2004). Contrast is fitted along with the affine; voxels that do not fit, as those of a
    lesion or of meninges, count little (Reuter et al., NeuroImage 53 (2010) 1181-1196).

    Parameters
    ----------
    moving, fixed : Brain
    start : ndarray, shape (4, 4)
        RAS mm of the fixed brain to RAS mm of the moving one.
    levels : tuple of Level
        The coarsest first.

    Returns
    -------
    ndarray, shape (4, 4)
        As `start`; the sign of its determinant is that of `start`.
    """
    affine = start
    for level in levels:
        found = _Comparison(moving, fixed, level).minimise(affine)
        # Where nothing is alike, least squares shrink a brain to nothing.
        volume = np.linalg.det(found[:3, :3]) / np.linalg.det(start[:3, :3])
        if not 1 / LARGEST_CHANGE < volume < LARGEST_CHANGE:
            return affine
        affine = found
    return affine


class _Comparison:
    """Two brains at one level."""

    def __init__(self, moving: Brain, fixed: Brain, level: Level) -> None:
        self.iterations = level.iterations
        self.basis = _AFFINE if level.affine else _SIMILARITY
        self.moving, self.source = _smooth(moving, level.smoothing), moving.grid
        stride = max(1, round(level.spacing / fixed.spacing))
        every = (slice(None, None, stride),) * 3
        ring = ndimage.distance_transform_edt(~fixed.mask, fixed.grid.spacing) <= RING_MM
        self.voxels: Mask = ring[every]
        image = _smooth(fixed, level.smoothing)[every]
        self.grid = VoxelGrid(image.shape, fixed.grid.affine @ np.diag([stride] * 3 + [1]))
        self.step = self.grid.spacing[0] / UNIT_MM
        self.fixed, self.gradient = image[self.voxels], self._gradient(image)
        points = (self.grid.to_mm(np.argwhere(self.voxels)) - fixed.centre) / UNIT_MM
        self.points = np.column_stack([points, np.ones(len(points))])
        ends = zip(self.points.min(axis=0), self.points.max(axis=0), strict=True)
        self.corners = np.array(np.meshgrid(*ends)).reshape(4, -1).T
        self.unit = np.diag([UNIT_MM] * 3 + [1.0])
        self.unit[:3, 3] = fixed.centre

    def minimise(self, affine: Array) -> Array:
        """Go from an affine to the nearest minimum."""
        for _ in range(self.iterations):
            change = self._change(affine)
            step = UNIT_MM * np.abs(self.corners @ change[:3].T).max()
            change *= min(1, LONGEST_MM / max(step, TOLERANCE_MM))
            affine = affine @ self.unit @ linalg.expm(change) @ np.linalg.inv(self.unit)
            if step < TOLERANCE_MM:
                break
        return affine

    def _change(self, affine: Array) -> Array:
        """Logarithm of the affine, about the centre of the fixed brain, that is to come first."""
        seen = resample(self.moving, self.source, self.grid, Transform(affine=affine))
        values = seen[self.voxels].astype(np.float64)
        gain = (values @ self.fixed) / max(values @ values, 1e-12)
        slope = (self._gradient(seen) + self.gradient / max(gain, 1e-6)) / 2
        products = (slope[:, :, np.newaxis] * self.points[:, np.newaxis]).reshape(-1, 12)
        columns = products @ self.basis.reshape(-1, 12).T
        design = np.column_stack([columns, values, np.ones(len(values))])
        weights = _trust(self.fixed - gain * values)
        weighted = weights[:, np.newaxis] * design
        # Not by BLAS, whose sums depend on the number of its threads.
        normal = np.einsum('ni,nj->ij', design, weighted)
        ridge = 1e-9 * np.trace(normal) * np.eye(len(normal))
        found = np.linalg.solve(normal + ridge, np.einsum('ni,n->i', weighted, self.fixed))
        change = np.zeros((4, 4))
        # The second to last is the gain that belongs to these steps.
        change[:3] = np.tensordot(found[:-2] / max(found[-2], 1e-6), self.basis, axes=1)
        return change

    def _gradient(self, image: NDArray[np.floating]) -> Array:
        parts = [part[self.voxels] for part in np.gradient(image, self.step)]
        return np.stack(parts, axis=-1).astype(np.float64)


def _smooth(brain: Brain, sigma: float) -> NDArray[np.float32]:
    smoothed: NDArray[np.float32] = ndimage.gaussian_filter(
        brain.even, sigma / brain.spacing, mode='constant'
    )
    return smoothed


def _trust(residuals: Array) -> Array:
    """Weights of Cauchy's distribution, whose width is a robust standard deviation."""
    centred = residuals - np.median(residuals)
    deviation = 1.4826 * np.median(np.abs(centred)) + 1e-6
    weights: Array = 1 / (1 + (centred / (OUTLIERS * deviation)) ** 2)
    return weights


def _similarities() -> Array:
    """Rotations, size and translations as matrices, shape (7, 3, 4)."""
    basis = np.zeros((7, 3, 4))
    for k, (i, j) in enumerate(((0, 1), (0, 2), (1, 2))):
        basis[k, i, j], basis[k, j, i] = -1, 1
    basis[3, :, :3] = np.eye(3)
    basis[4:, :, 3] = np.eye(3)
    return basis


_AFFINE = np.eye(12).reshape(12, 3, 4)
_SIMILARITY = _similarities()

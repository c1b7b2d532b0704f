"""Refinement of an affine by the Gauss-Newton method, with robust weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, ndimage

from deepreg_wf.affine.brain import Brain
from deepreg_wf.spatial import Transform, VoxelGrid, resample
from deepreg_wf.spatial.masks import Mask

AffineMatrix = NDArray[np.float64]

UNIT_MM = 100.0
"""Unit of length of the parameters, in which linear part and translation have similar sizes."""

NEIGHBOURHOOD_MM = 8.0
"""Distance from the fixed brain within which voxels are compared, so that its edge counts."""

TOLERANCE_MM = 1e-3
"""Largest displacement of a step, over the corners of the brain's box, that ends a level."""

MAXIMUM_STEP_MM = 40.0
"""Upper bound of the same displacement: far from the minimum a step can have any size."""

MAXIMUM_VOLUME_CHANGE = 3.0
"""Factor of volume from which a result is rejected; an initialisation is right to a fifth."""

OUTLIER_THRESHOLD = 2.0
"""Residual, in robust standard deviations, at which the Cauchy weight is one half."""


@dataclass(frozen=True, kw_only=True)
class Level:
    """Settings of one resolution level.

    Attributes
    ----------
    spacing : float
        Least distance of the voxels that are compared, in mm.
    smoothing : float
        Standard deviation of the Gaussian filter of both images, in mm.
    iterations : int
        Upper bound of the number of Gauss-Newton steps.
    affine : bool
        Fit all twelve degrees of freedom; otherwise seven: rotation, scale and translation.
    """

    spacing: float
    smoothing: float
    iterations: int
    affine: bool = True


COARSE = (
    Level(spacing=8.0, smoothing=6.0, iterations=15, affine=False),
    Level(spacing=8.0, smoothing=4.0, iterations=15),
)
"""Levels that are enough to compare several initialisations."""

FINE = (
    Level(spacing=4.0, smoothing=3.0, iterations=15),
    Level(spacing=3.0, smoothing=1.0, iterations=25),
)
"""Levels that give the final accuracy."""

SLOPPY = (Level(spacing=4.0, smoothing=3.0, iterations=10),)
"""Level in place of `FINE`, for tests."""


def refine(
    moving: Brain, fixed: Brain, start: AffineMatrix, levels: tuple[Level, ...]
) -> AffineMatrix:
    """Refine an affine by robust least squares between locally normalised brains.

    Gain and offset of the intensities are fitted together with the affine. Voxels with large
    residuals, such as those of a lesion or of meninges, get small weights (Reuter et al.,
    NeuroImage 53 (2010) 1181-1196).

    Parameters
    ----------
    moving, fixed : Brain
        The two brains.
    start : ndarray, shape (4, 4)
        RAS mm of the fixed brain to RAS mm of the moving one.
    levels : tuple of Level
        Resolution levels, the coarsest first.

    Returns
    -------
    ndarray, shape (4, 4)
        Refined affine, of the same direction as `start`; its determinant has the same sign.
    """
    affine = start
    for level in levels:
        refined = _LeastSquares(moving, fixed, level).minimise(affine)
        # Least squares between unlike images shrink the brain without bound.
        volume = np.linalg.det(refined[:3, :3]) / np.linalg.det(start[:3, :3])
        if not 1 / MAXIMUM_VOLUME_CHANGE < volume < MAXIMUM_VOLUME_CHANGE:
            return affine
        affine = refined
    return affine


class _LeastSquares:
    """Weighted least-squares problem of one level.

    With moving image M, fixed image F, current affine A and an increment P = exp(sum_k p_k B_k),
    the problem is

        min over p, g, o of  sum_x w(x) [F(x) - g M(A P x) - o]^2

    over the voxels x near the fixed brain, with gain g and offset o. The increment acts before A,
    in coordinates u = (x - c) / UNIT_MM about the centre c of the fixed brain. There the twelve
    generators B_k (shape (3, 4), linear part and translation) have similar effects, so that the
    normal equations are well scaled. A = start @ exp(...) @ exp(...) keeps the sign of its
    determinant.

    To first order in p, M(A P x) = M(A x) + G(x) . sum_k p_k B_k (u, 1), where the slope G is the
    mean of the gradients of M(A x) and of F / g. The mean makes the convergence second order
    (efficient second-order minimisation; Benhimane and Malis, IROS 2004; Malis, ICRA 2004).
    The unknowns (g p, g, o) are then linear; p is the first part divided by g.

    Parameters
    ----------
    moving, fixed : Brain
        The two brains.
    level : Level
        Resolution, smoothing and degrees of freedom.
    """

    def __init__(self, moving: Brain, fixed: Brain, level: Level) -> None:
        self.iterations = level.iterations
        self.generators = _AFFINE_GENERATORS if level.affine else _SIMILARITY_GENERATORS
        self.moving, self.moving_grid = _smooth(moving, level.smoothing), moving.grid
        stride = max(1, round(level.spacing / fixed.spacing))
        every = (slice(None, None, stride),) * 3
        distance = ndimage.distance_transform_edt(~fixed.mask, fixed.grid.spacing)
        self.voxels: Mask = (distance <= NEIGHBOURHOOD_MM)[every]
        image = _smooth(fixed, level.smoothing)[every]
        self.grid = VoxelGrid(image.shape, fixed.grid.affine @ np.diag([stride] * 3 + [1]))
        self.voxel_size = self.grid.spacing[0] / UNIT_MM
        self.fixed, self.fixed_gradient = image[self.voxels], self._gradient(image)
        points = (self.grid.to_mm(np.argwhere(self.voxels)) - fixed.centre) / UNIT_MM
        self.points = np.column_stack([points, np.ones(len(points))])  # (N, 4)
        bounds = zip(self.points.min(axis=0), self.points.max(axis=0), strict=True)
        self.corners = np.array(np.meshgrid(*bounds)).reshape(4, -1).T
        self.units_to_mm = np.diag([UNIT_MM] * 3 + [1.0])
        self.units_to_mm[:3, 3] = fixed.centre

    def minimise(self, affine: AffineMatrix) -> AffineMatrix:
        """Iterate from an affine to the nearest minimum."""
        for _ in range(self.iterations):
            logarithm = self._gauss_newton_step(affine)
            length = UNIT_MM * np.abs(self.corners @ logarithm[:3].T).max()
            logarithm *= min(1, MAXIMUM_STEP_MM / max(length, TOLERANCE_MM))
            increment = linalg.expm(logarithm)
            affine = affine @ self.units_to_mm @ increment @ np.linalg.inv(self.units_to_mm)
            if length < TOLERANCE_MM:
                break
        return affine

    def _gauss_newton_step(self, affine: AffineMatrix) -> AffineMatrix:
        """Compute the matrix logarithm ``sum_k p_k B_k`` of the next increment, shape (4, 4)."""
        moved = resample(self.moving, self.moving_grid, self.grid, Transform(affine=affine))
        values = moved[self.voxels].astype(np.float64)
        gain = (values @ self.fixed) / max(values @ values, 1e-12)
        slope = (self._gradient(moved) + self.fixed_gradient / max(gain, 1e-6)) / 2
        # d M / d (3, 4) matrix = slope x point, (N, 12); projected on the generators, (N, K).
        products = (slope[:, :, np.newaxis] * self.points[:, np.newaxis]).reshape(-1, 12)
        columns = products @ self.generators.reshape(-1, 12).T
        design = np.column_stack([columns, values, np.ones(len(values))])
        weights = cauchy_weights(self.fixed - gain * values)
        weighted = weights[:, np.newaxis] * design
        # Without BLAS, whose sums depend on the number of its threads.
        normal = np.einsum('ni,nj->ij', design, weighted)
        ridge = 1e-9 * np.trace(normal) * np.eye(len(normal))
        solution = np.linalg.solve(normal + ridge, np.einsum('ni,n->i', weighted, self.fixed))
        parameters = solution[:-2] / max(solution[-2], 1e-6)
        logarithm = np.zeros((4, 4))
        logarithm[:3] = np.tensordot(parameters, self.generators, axes=1)
        return logarithm

    def _gradient(self, image: NDArray[np.floating]) -> NDArray[np.float64]:
        """Compute the gradient per `UNIT_MM` at the voxels compared, shape (N, 3)."""
        parts = [part[self.voxels] for part in np.gradient(image, self.voxel_size)]
        return np.stack(parts, axis=-1).astype(np.float64)


def _smooth(brain: Brain, sigma: float) -> NDArray[np.float32]:
    """Smooth the locally normalised intensities of a brain, by sigma in mm."""
    smoothed: NDArray[np.float32] = ndimage.gaussian_filter(
        brain.locally_normalised, sigma / brain.spacing, mode='constant'
    )
    return smoothed


def cauchy_weights(residuals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the weights of the Cauchy M-estimator.

    ``w = 1 / (1 + (r / (k s))^2)`` with k = `OUTLIER_THRESHOLD`, residuals r about their median,
    and s the robust standard deviation, 1.4826 times their median absolute deviation.

    Parameters
    ----------
    residuals : ndarray, shape (N,)
        Residuals of the voxels.

    Returns
    -------
    ndarray, shape (N,)
        Weights from 0 to 1.
    """
    centred = residuals - np.median(residuals)
    deviation = 1.4826 * np.median(np.abs(centred)) + 1e-6
    weights: NDArray[np.float64] = 1 / (1 + (centred / (OUTLIER_THRESHOLD * deviation)) ** 2)
    return weights


def _similarity_generators() -> NDArray[np.float64]:
    """Return the generators of three rotations, scale and three translations, shape (7, 3, 4)."""
    generators = np.zeros((7, 3, 4))
    for k, (i, j) in enumerate(((0, 1), (0, 2), (1, 2))):
        generators[k, i, j], generators[k, j, i] = -1, 1
    generators[3, :, :3] = np.eye(3)
    generators[4:, :, 3] = np.eye(3)
    return generators


_AFFINE_GENERATORS = np.eye(12).reshape(12, 3, 4)
_SIMILARITY_GENERATORS = _similarity_generators()

"""Random transforms from template to subject: a geodesic, followed by an affine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy import ndimage

from deepreg_wf.spatial import VoxelGrid

ALPHA, BETA, GAMMA = 0.3, 0.1, 0.03
"""Metric of the random geodesics. It differs from that of the registration, as real anatomical
differences do not follow that metric either."""

MARGIN = 20.0
"""Width in mm of the margin around the brain in which the displacement decays to zero."""

SMOOTHNESS = 9.0
"""Standard deviation in mm of the Gaussian that smooths the random momentum."""

MIN_JACOBIAN = 0.2
"""Smallest Jacobian determinant of a geodesic that is accepted."""

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class TrueTransform:
    """Transform from template points to subject points, and its inverse.

    Points are in RAS mm. The code is independent of `spatial.Transform`, with which the
    registration is evaluated.

    Attributes
    ----------
    grid : VoxelGrid
        Grid of the displacements, in template space.
    warp, inverse_warp : ndarray, shape (3, X, Y, Z)
        Displacements of the geodesic map and of its inverse, in voxels along the grid's axes.
    affine : ndarray, shape (4, 4)
        Affine that is applied after the geodesic map.
    mean_displacement, max_displacement : float
        Mean displacement of the geodesic map in the brain, and its maximum, in mm.
    """

    grid: VoxelGrid
    warp: Array
    inverse_warp: Array
    affine: Array
    mean_displacement: float
    max_displacement: float

    def to_subject(self, points: Array) -> Array:
        """Map template points to subject points, shape (N, 3)."""
        moved: Array = apply_affine(self.affine, self._displace(points, self.warp))
        return moved

    def to_template(self, points: Array) -> Array:
        """Map subject points to template points, shape (N, 3)."""
        aligned = apply_affine(np.linalg.inv(self.affine), points)
        return self._displace(aligned, self.inverse_warp)

    def _displace(self, points: Array, field: Array) -> Array:
        """Add to points a displacement field in voxels, shape (3, X, Y, Z)."""
        voxels = self.grid.to_indices(points).T
        shift = [ndimage.map_coordinates(component, voxels, order=1) for component in field]
        return self.grid.to_mm((voxels + shift).T)


def draw_true_transform(
    brain: Mask, affine: Array, *, subject_affine: Array, mean_displacement: float, seed: int
) -> TrueTransform:
    """Draw a random transform whose geodesic has a given size and does not fold.

    Parameters
    ----------
    brain : ndarray of bool, shape (X, Y, Z)
        Brain mask of the template.
    affine : ndarray, shape (4, 4)
        Voxel-to-RAS affine of the mask.
    subject_affine : ndarray, shape (4, 4)
        Affine that is applied after the geodesic, from RAS mm to RAS mm.
    mean_displacement : float
        Mean displacement of the geodesic in the brain in mm, to first order.
    seed : int

    Returns
    -------
    TrueTransform

    Raises
    ------
    ValueError
        If the Jacobian determinant of the geodesic map falls below `MIN_JACOBIAN`.
    """
    import torch

    from deepreg_wf.lddmm import Metric, fields, shoot

    mask, grid = _field_of_view(brain, affine)
    metric = Metric(grid.shape, grid.spacing, alpha=ALPHA, beta=BETA, gamma=GAMMA)
    momentum = torch.from_numpy(_smooth_noise(mask, grid, seed))
    speed = metric.velocity(momentum).norm(dim=0)[torch.from_numpy(mask)].mean()
    geodesic = shoot(momentum * (mean_displacement / speed), metric)
    smallest = float(fields.jacobian_determinant(geodesic.phi).min())
    if not smallest >= MIN_JACOBIAN:  # also true if it is NaN
        raise ValueError(f'seed {seed}: the smallest Jacobian determinant is {smallest:.2f}')
    warp, inverse = (u.double().numpy() for u in (geodesic.phi, geodesic.phi_inverse))
    distance = np.linalg.norm(warp * np.reshape(grid.spacing, (3, 1, 1, 1)), axis=0)
    return TrueTransform(
        grid=grid,
        warp=warp,
        inverse_warp=inverse,
        affine=subject_affine,
        mean_displacement=float(distance[mask].mean()),
        max_displacement=float(distance.max()),
    )


def _field_of_view(brain: Mask, affine: Array) -> tuple[Mask, VoxelGrid]:
    """Crop or pad a mask to the bounding box of the brain with `MARGIN` around it."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    margin = np.ceil(MARGIN / spacing).astype(int)
    occupied = np.argwhere(brain)
    first, last = occupied.min(axis=0) - margin, occupied.max(axis=0) + margin
    mask = np.zeros(last - first + 1, dtype=bool)
    mask[tuple((occupied - first).T)] = True
    origin = affine.copy()
    origin[:3, 3] = apply_affine(affine, first)
    return mask, VoxelGrid(mask.shape, origin)


def _smooth_noise(mask: Mask, grid: VoxelGrid, seed: int) -> NDArray[np.float32]:
    """Return filtered white noise that decays to zero around the brain, shape (3, X, Y, Z)."""
    noise = np.random.default_rng(seed).standard_normal((3, *mask.shape), dtype=np.float32)
    spacing = np.asarray(grid.spacing)
    # The momentum decays outside of the brain: with this metric, a sharp edge causes folds.
    near = ndimage.distance_transform_edt(~mask, sampling=spacing) < MARGIN / 4
    fade = ndimage.gaussian_filter(near.astype(np.float32), MARGIN / 4 / spacing)
    return np.stack([ndimage.gaussian_filter(c, SMOOTHNESS / spacing) * fade for c in noise])

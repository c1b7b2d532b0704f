"""Known transforms from template to subject: a random geodesic, then a small affine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy import ndimage

from deepreg_wf.spatial import VoxelGrid

METRIC = {'alpha': 0.3, 'beta': 0.1, 'gamma': 0.03}
"""Another metric than the one that is matched with: real brains do not know it either."""

MARGIN = 20.0
"""Room around the brain in mm, in which the displacement dies away."""

SMOOTHNESS = 9.0
"""Standard deviation in mm of the Gaussian that makes the random momentum smooth."""

MIN_JACOBIAN = 0.2
"""A drawn transform compresses no volume to less than this share of itself."""

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Truth:
    """A transform from template points to subject points and its inverse.

    Points are in RAS mm. They are moved here and not by `spatial.Transform`, so that what made
    the images shares no code with the transforms that are measured on them.

    Attributes
    ----------
    grid : VoxelGrid
        On which the displacements lie, in template space.
    warp, inverse_warp : ndarray, shape (3, X, Y, Z)
        Displacements of the geodesic map and of its inverse, in voxels along the grid's axes.
    affine : ndarray, shape (4, 4)
        Applied after the geodesic map.
    mean, largest : float
        Displacement of the geodesic map in mm: mean in the brain, and the largest.
    """

    grid: VoxelGrid
    warp: Array
    inverse_warp: Array
    affine: Array
    mean: float
    largest: float

    def to_subject(self, points: Array) -> Array:
        """Map template points to subject points, shape (N, 3)."""
        return apply_affine(self.affine, self._displace(points, self.warp))

    def to_template(self, points: Array) -> Array:
        """Map subject points to template points, shape (N, 3)."""
        aligned = apply_affine(np.linalg.inv(self.affine), points)
        return self._displace(aligned, self.inverse_warp)

    def _displace(self, points: Array, field: Array) -> Array:
        voxels = self.grid.to_indices(points).T
        shift = [ndimage.map_coordinates(component, voxels, order=1) for component in field]
        return self.grid.to_mm((voxels + shift).T)


def draw_truth(
    brain: Mask, affine: Array, *, subject_affine: Array, size: float, seed: int
) -> Truth:
    """Draw a random geodesic of a given size that does not fold.

    Parameters
    ----------
    brain : ndarray of bool, shape (X, Y, Z)
        Brain mask of the template.
    affine : ndarray, shape (4, 4)
        Voxel-to-RAS of the mask; its axes are those of the displacements.
    subject_affine : ndarray, shape (4, 4)
        Follows the geodesic: aligned template RAS mm to subject RAS mm.
    size : float
        Mean displacement in the brain in mm, to first order.
    seed : int

    Returns
    -------
    Truth

    Raises
    ------
    ValueError
        If the Jacobian determinant of the geodesic map falls below `MIN_JACOBIAN`.
    """
    import torch

    from deepreg_wf.lddmm import Metric, fields, shoot

    mask, grid = _field_of_view(brain, affine)
    metric = Metric(grid.shape, grid.spacing, **METRIC)
    momentum = torch.from_numpy(_smooth_noise(mask, grid, seed))
    speed = metric.velocity(momentum).norm(dim=0)[torch.from_numpy(mask)].mean()
    geodesic = shoot(momentum * (size / speed), metric)
    smallest = float(fields.jacobian_determinant(geodesic.phi).min())
    if not smallest >= MIN_JACOBIAN:  # NaN is no better
        raise ValueError(f'seed {seed}: smallest Jacobian determinant {smallest:.2f}')
    warp, inverse = (u.double().numpy() for u in (geodesic.phi, geodesic.phi_inverse))
    distance = np.linalg.norm(warp * np.reshape(grid.spacing, (3, 1, 1, 1)), axis=0)
    return Truth(
        grid=grid,
        warp=warp,
        inverse_warp=inverse,
        affine=subject_affine,
        mean=float(distance[mask].mean()),
        largest=float(distance.max()),
    )


def _field_of_view(brain: Mask, affine: Array) -> tuple[Mask, VoxelGrid]:
    """Crop or pad a mask to the brain and `MARGIN` around it."""
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
    """Gaussian-filtered white noise that fades out around the brain, shape (3, X, Y, Z)."""
    noise = np.random.default_rng(seed).standard_normal((3, *mask.shape), dtype=np.float32)
    spacing = np.asarray(grid.spacing)
    # Faded well outside the brain: this metric folds where a momentum stops short.
    near = ndimage.distance_transform_edt(~mask, sampling=spacing) < MARGIN / 4
    fade = ndimage.gaussian_filter(near.astype(np.float32), MARGIN / 4 / spacing)
    return np.stack([ndimage.gaussian_filter(c, SMOOTHNESS / spacing) * fade for c in noise])

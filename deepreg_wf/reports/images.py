"""Scalar images with the positions of their voxels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class ScalarImage:
    """A scalar image with its voxel-to-world affine.

    Parameters
    ----------
    data : numpy.ndarray, shape (X, Y, Z)
        Values, in any storage order.
    affine : numpy.ndarray, shape (4, 4)
        Voxel indices to RAS+ millimetres; may flip, permute, shear and rotate.
    """

    data: np.ndarray
    affine: np.ndarray

    @classmethod
    def load(cls, path: str | Path) -> ScalarImage:
        """Read a NIfTI image.

        Parameters
        ----------
        path : str or Path
            Image with three dimensions, or vector image. A vector image is reduced to the length
            of its vectors.

        Returns
        -------
        ScalarImage
            Values as float32.
        """
        import nibabel as nb

        image = nb.Nifti1Image.from_filename(path)
        data = np.asarray(image.dataobj, dtype=np.float32)
        if data.ndim == 5:
            data = np.linalg.norm(data, axis=-1)[..., 0]
        return cls(data, np.asarray(image.affine))

    def sample(self, points: np.ndarray) -> np.ndarray:
        """Interpolate the image linearly at points in world coordinates.

        Parameters
        ----------
        points : numpy.ndarray, shape (3, ...)
            RAS+ millimetres.

        Returns
        -------
        numpy.ndarray, shape (...)
            Values as float32; zero outside the image.
        """
        from scipy.ndimage import map_coordinates

        inverse = np.linalg.inv(self.affine)
        voxels = np.tensordot(inverse[:3, :3], points, axes=1)
        voxels += inverse[:3, 3].reshape(3, *[1] * (points.ndim - 1))
        values: np.ndarray = map_coordinates(
            self.data, voxels, output=np.float32, order=1, mode='grid-constant', cval=0.0
        )
        return values

    def bounding_box(self, threshold: float = 0.5) -> np.ndarray:
        """Compute the box around the voxels above a threshold.

        Parameters
        ----------
        threshold : float
            Voxels with a greater value are inside.

        Returns
        -------
        numpy.ndarray, shape (2, 3)
            Lowest and highest RAS+ coordinates of the voxel centres, in millimetres. If no voxel
            is above the threshold, the box is that of the whole image.
        """
        inside = self.data > threshold
        if not inside.any():
            inside = np.ones_like(inside)
        # A coordinate changes linearly along a row of voxels, so its extremes are at the ends.
        occupied = inside.any(axis=2)
        first, last = inside.argmax(axis=2), inside.shape[2] - 1 - inside[..., ::-1].argmax(axis=2)
        rows = np.argwhere(occupied)
        voxels = np.concatenate([np.c_[rows, end[occupied]] for end in (first, last)])
        points = voxels @ self.affine[:3, :3].T + self.affine[:3, 3]
        return np.stack([points.min(axis=0), points.max(axis=0)])

"""Images as the figures see them: values that can be read anywhere in the world."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Volume:
    """A scalar image with its place in the world.

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
    def load(cls, path: str | Path) -> Volume:
        """Read a NIfTI image.

        Parameters
        ----------
        path : path
            An image with three dimensions, or a vector image, whose length is taken.

        Returns
        -------
        Volume
            As float32.
        """
        import nibabel as nb

        image = nb.Nifti1Image.from_filename(path)
        data = np.asarray(image.dataobj, dtype=np.float32)
        if data.ndim == 5:
            data = np.linalg.norm(data, axis=-1)[..., 0]
        return cls(data, image.affine)

    def sample(self, points: np.ndarray) -> np.ndarray:
        """Interpolate linearly at points of the world.

        Parameters
        ----------
        points : numpy.ndarray, shape (3, ...)
            RAS+ millimetres.

        Returns
        -------
        numpy.ndarray
            Shape of one coordinate of `points`; zero outside the image.
        """
        from scipy.ndimage import map_coordinates

        inverse = np.linalg.inv(self.affine)
        voxels = np.tensordot(inverse[:3, :3], points, axes=1)
        voxels += inverse[:3, 3].reshape(3, *[1] * (points.ndim - 1))
        values: np.ndarray = map_coordinates(
            self.data, voxels, output=np.float32, order=1, mode='grid-constant', cval=0.0
        )
        return values

    def bounds(self, threshold: float = 0.5) -> np.ndarray:
        """Box around what lies above a threshold.

        Parameters
        ----------
        threshold : float
            A voxel counts where its value is greater.

        Returns
        -------
        numpy.ndarray, shape (2, 3)
            Lowest and highest RAS+ coordinates, in millimetres; of the whole image where no
            voxel counts.
        """
        counts = self.data > threshold
        if not counts.any():
            counts = np.ones_like(counts)
        # The ends of each row of voxels: what lies between cannot be further out.
        inside = counts.any(axis=2)
        first, last = counts.argmax(axis=2), counts.shape[2] - 1 - counts[..., ::-1].argmax(axis=2)
        rows = np.argwhere(inside)
        voxels = np.concatenate([np.c_[rows, end[inside]] for end in (first, last)])
        points = voxels @ self.affine[:3, :3].T + self.affine[:3, 3]
        return np.stack([points.min(axis=0), points.max(axis=0)])

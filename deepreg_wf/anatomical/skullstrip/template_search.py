"""Search for the template's brain in a head, by masked correlation in Fourier space."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage
from scipy.spatial.transform import Rotation

from deepreg_wf.affine.brain import Brain
from deepreg_wf.affine.initialise import (
    MINIMUM_SEPARATION,
    N_CANDIDATES,
    N_ROTATIONS,
    super_fibonacci_rotations,
)
from deepreg_wf.anatomical.skullstrip.head import OUTLINE_SPACING_MM, Head
from deepreg_wf.spatial import Transform, VoxelGrid, load_image, resample
from deepreg_wf.spatial.masks import Mask, bounding_box
from deepreg_wf.templates.locate import get_template
from deepreg_wf.templates.spaces import BUNDLED

SEARCH_SPACING_MM = 8.0
"""Voxel size of the search, in mm."""

DARK_RING_MM = 16.0
"""Width of the ring around the template's brain that counts as dark: fluid and bone, in mm."""

MINIMUM_IN_VIEW = 0.7
"""Least share of the template and its ring within the field of view."""

SCALES = (0.82, 0.9, 1.0, 1.1)
"""Scales of the template that are tried: the MNI152 brain is larger than most."""

TYPICAL_SCALE = 0.9
"""Scale at which the rotations that cover all orientations are tried."""

PITCHES_DEG = (-20.0, 0.0, 20.0)
"""Rotations about the left-right axis that are tried from the header's orientation, in degrees."""

ROTATION_STEP_DEG = 13.0
"""Step of the local search around the best of all rotations, in degrees."""

AffineMatrix = NDArray[np.float64]


@lru_cache(maxsize=1)
def template_brain() -> Brain:
    """Return the brain of the bundled template."""
    with TemporaryDirectory() as folder:
        data, grid = load_image(get_template(BUNDLED, cache_dir=Path(folder)).t1w)
    return Brain.from_image(data, data > 0, grid, OUTLINE_SPACING_MM)


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Position of the template in a head.

    Placements are ordered by their scores.

    Attributes
    ----------
    score : float
        Correlation of template and head.
    rotation : Rotation
        Rotation of the template.
    affine : ndarray, shape (4, 4)
        RAS mm of the template to RAS mm of the head.
    """

    score: float
    rotation: Rotation
    affine: AffineMatrix

    def __lt__(self, other: Placement) -> bool:
        return self.score < other.score


class TemplateSearch:
    """Masked normalised cross-correlation of the rotated template with a head.

    Let f be the head with field of view v, and g the template, with a mask w of its brain and of
    the ring around it, where g = 0. For each translation u the correlation covers the voxels x
    with v(x) w(x - u) = 1 (Padfield, IEEE Transactions on Image Processing 21 (2012) 2706-2718).
    With the cross-correlation (a * b)(u) = sum_x a(x) b(x - u),

        n    = v * w
        cov  = (v f * w g) / n - (v f * w) (v * w g) / n^2
        varf = (v f^2 * w) / n - ((v f * w) / n)^2
        varg = (v * w g^2) / n - ((v * w g) / n)^2
        ncc  = cov / sqrt(varf varg)

    Each cross-correlation is one product in Fourier space, ``irfftn(rfftn(a) conj(rfftn(b)))``,
    zero-padded to the sum of both sizes; all translations are computed at once.

    Parameters
    ----------
    head : Head
        Head on voxels of `SEARCH_SPACING_MM`.
    """

    def __init__(self, head: Head) -> None:
        self.head, self.brain = head, template_brain().coarsened(SEARCH_SPACING_MM / 2)
        voxels = np.argwhere(self.brain.mask)
        self.radius = np.linalg.norm(np.ptp(voxels, axis=0)) / 2 * self.brain.spacing
        largest = 2 * int(np.ceil(self._extent(max(SCALES)) / SEARCH_SPACING_MM)) + 1
        self.size = [fft.next_fast_len(n + largest, real=True) for n in head.data.shape]
        view = head.view.astype(np.float32)
        self.spectra = [
            fft.rfftn(part, self.size) for part in (view, view * head.data, view * head.data**2)
        ]

    def find(self, rotations: Rotation, scales: Sequence[float]) -> list[Placement]:
        """Find the best translation for each rotation and scale of the template."""
        return [self._best(rotation, scale) for rotation in rotations for scale in scales]

    def _extent(self, scale: float) -> float:
        """Return the radius of the scaled template with its ring, in mm."""
        return float(self.radius * scale + DARK_RING_MM)

    def _pattern(
        self, rotation: Rotation, scale: float
    ) -> tuple[NDArray[np.float32], Mask, NDArray[np.intp]]:
        """Rotate and scale the template.

        Parameters
        ----------
        rotation : Rotation
            Rotation about the centre of the brain.
        scale : float
            Scale about the centre of the brain.

        Returns
        -------
        image : ndarray of float32, shape (I, J, K)
            Template g.
        near : ndarray of bool, shape (I, J, K)
            Mask w of the brain and its ring.
        centre : ndarray, shape (3,)
            Voxel of the centre of the brain.
        """
        half = int(np.ceil(self._extent(scale) / SEARCH_SPACING_MM))
        centred = np.diag([SEARCH_SPACING_MM] * 3 + [1.0])
        centred[:3, 3] = -half * SEARCH_SPACING_MM
        grid = VoxelGrid([2 * half + 1] * 3, centred)
        affine = np.eye(4)
        affine[:3, :3] = rotation.as_matrix().T / scale
        affine[:3, 3] = self.brain.centre
        image, share = (
            resample(part.astype(np.float32), self.brain.grid, grid, Transform(affine=affine))
            for part in (self.brain.data, self.brain.mask)
        )
        distance = ndimage.distance_transform_edt(share < 0.5) * SEARCH_SPACING_MM
        near = distance <= DARK_RING_MM
        box = bounding_box(near)
        return image[box], near[box], half - np.array([part.start for part in box])

    def _best(self, rotation: Rotation, scale: float) -> Placement:
        """Find the best translation for one rotation and scale."""
        image, near, centre = self._pattern(rotation, scale)
        scores = self._correlate(image * near, near.astype(np.float32))
        index = np.unravel_index(np.argmax(scores), scores.shape)
        # Translations are periodic: indices beyond the head are negative ones.
        shape, size = self.head.data.shape, self.size
        first = [i - n if i >= m else i for i, m, n in zip(index, shape, size, strict=True)]
        affine = np.eye(4)
        affine[:3, :3] = scale * rotation.as_matrix()
        centre_mm = self.head.grid.to_mm(np.array(first) + centre)
        affine[:3, 3] = centre_mm - affine[:3, :3] @ self.brain.centre
        return Placement(score=float(scores[index]), rotation=rotation, affine=affine)

    def _correlate(
        self, image: NDArray[np.float32], near: NDArray[np.float32]
    ) -> NDArray[np.floating]:
        """Compute the correlation for each translation; the class gives the formula.

        Parameters
        ----------
        image : ndarray of float32, shape (I, J, K)
            Template w g.
        near : ndarray of float32, shape (I, J, K)
            Mask w.

        Returns
        -------
        ndarray, shape `size`
            Correlation; -1 where too much of the template is out of view.
        """
        view, values, squares = self.spectra
        ones, first, second = (
            np.conj(fft.rfftn(part, self.size)) for part in (near, image, image**2)
        )

        def sums(product: NDArray[np.complexfloating]) -> NDArray[np.floating]:
            return np.asarray(fft.irfftn(product, self.size))

        number = np.maximum(sums(view * ones), 1e-3)
        head, pattern = sums(values * ones), sums(view * first)
        covariance = sums(values * first) / number - head * pattern / number**2
        variances = (sums(squares * ones) / number - (head / number) ** 2).clip(1e-4) * (
            sums(view * second) / number - (pattern / number) ** 2
        ).clip(1e-4)
        in_view = number >= MINIMUM_IN_VIEW * near.sum()
        return np.where(in_view, covariance / np.sqrt(variances), -1)


def candidate_placements(search: TemplateSearch) -> Iterator[Placement]:
    """Yield placements to be tried in turn.

    The first one has the header's orientation, up to a pitch. The others come from rotations that
    cover all orientations, which take a minute.
    """
    yield max(search.find(Rotation.from_euler('x', PITCHES_DEG, degrees=True), SCALES))
    for placement in rotated_placements(search):
        # The refinement enlarges a template that is too small, but does not shrink a large one.
        yield max(search.find(Rotation.concatenate([placement.rotation]), SCALES))


def rotated_placements(search: TemplateSearch) -> list[Placement]:
    """Return the best placements over all rotations, far apart from each other, best first."""
    steps = np.stack(
        np.meshgrid(*[(-ROTATION_STEP_DEG, 0.0, ROTATION_STEP_DEG)] * 3), axis=-1
    ).reshape(-1, 3)
    neighbours = Rotation.from_rotvec(np.deg2rad(steps))
    everywhere = search.find(super_fibonacci_rotations(N_ROTATIONS), [TYPICAL_SCALE])
    chosen: list[Placement] = []
    for placement in sorted(everywhere, reverse=True):
        angles = [(placement.rotation * other.rotation.inv()).magnitude() for other in chosen]
        if all(angle > MINIMUM_SEPARATION for angle in angles):
            chosen.append(placement)
        if len(chosen) == N_CANDIDATES:
            break
    refined = (
        max(search.find(neighbours * placement.rotation, [TYPICAL_SCALE])) for placement in chosen
    )
    return sorted(refined, reverse=True)

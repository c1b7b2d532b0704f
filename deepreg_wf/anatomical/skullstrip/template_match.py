"""Brain extraction by the bundled template: no network, no weights and no other program.

The template's brain is sought in the head by correlation, for every place at once (Padfield, IEEE
Transactions on Image Processing 21 (2012) 2706-2718), and aligned with it. Around the place of
its mask, the outline then follows the intensities. It is slower and coarser than networks are,
but shares none of their reasons to fail.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage
from scipy.spatial.transform import Rotation

from deepreg_wf.errors import InputError
from deepreg_wf.spatial import Transform, VoxelGrid, load_image, resample
from deepreg_wf.spatial.isotropic import low_pass, upright_grid
from deepreg_wf.spatial.masks import Mask, bounding_box, fill_holes, largest_component

if TYPE_CHECKING:
    from deepreg_wf.affine.brain import Brain

SPACING = 2.0
"""Of the grid on which the brain is outlined, in mm."""

ALIGNMENT_SPACING = 3.0
"""Of the brains that are aligned, in mm."""

SEARCH_SPACING = 8.0
"""Of the grid on which the template is sought, in mm."""

SEARCH_RING_MM = 16.0
"""Width of what is taken for dark around the template's brain: fluid and bone, in mm."""

GROUND = 0.1
"""Intensity, relative to the bright parts of the head, under which there is air."""

BRIGHTEST = 1.3
"""Intensity to which fat is cut, relative to the bright parts of the head."""

IN_VIEW = 0.7
"""Least share of the template and its ring in the field of view: half brains are not sought."""

SIZES = (0.82, 0.9, 1.0, 1.1)
"""Scales of the template that are tried: the MNI152 brain is larger than most."""

COMMON_SIZE = 0.9
"""The one that is tried with rotations all around."""

TILTS = (-20.0, 0.0, 20.0)
"""Nods of the head that are tried about the header's orientation, in degrees."""

TURN = 13.0
"""Turns by which the best of the rotations all around are improved, in degrees."""

LIKENESS = 0.6
"""Least correlation of the outlined brain with the template; see `similarity`."""

REACHES_MM = (6.0, 4.0)
"""How far around the template's mask intensities count in each alignment."""

OUTLINES = 2
"""How often the outline is drawn and the template aligned with what is in it."""

BAND_MM = (-8.0, 4.0)
"""Distances from the template's edge between which intensities decide; deeper is all brain."""

WHITE, GREY = (0.86, np.inf), (0.6, 0.8)
"""Intensities of the two tissues in the template, relative to its brightest parts."""

NEIGHBOURHOOD_MM = 20.0
"""Standard deviation of the Gaussian within which white matter is as bright as here."""

DARK, BRIGHT = 0.6, 1.3
"""Bounds of tissue: the lower relative to grey matter, the upper relative to white."""

BRIDGE_MM = 3.0
"""Radius under which a connection of tissue is cut: dura, vessels and nerves."""

SULCUS_MM = 6.0
"""Radius under which a gap is closed."""

RIM_MM = 2.0
"""What is added around tissue: the partial volume and fluid that masks of brains hold."""

Array = NDArray[np.float64]


def extract(
    data: NDArray[np.floating],
    grid: VoxelGrid,
    *,
    num_threads: int = 1,
    device: str = 'cpu',
    model: Path | None = None,
) -> Mask:
    """Find the brain in a head.

    Parameters
    ----------
    data : ndarray, shape (X, Y, Z)
        T1-weighted image, finite.
    grid : VoxelGrid
    num_threads : int
        Not needed: there is one.
    device : str
        Not needed: it is the CPU.
    model : Path, optional
        Not needed.

    Returns
    -------
    ndarray of bool, shape (X, Y, Z)

    Raises
    ------
    InputError
        If there is no brain to be found; without the name of a file.
    """
    head = _Head.from_image(data, grid)
    search = _Search(head.coarsened(SEARCH_SPACING))
    for start in _starts(search):
        likeness, mask = _fit(head, start.affine)
        if likeness >= LIKENESS:
            return resample(mask.astype(np.float32), head.grid, grid) >= 0.5
    raise _nothing_found()


def _nothing_found() -> InputError:
    return InputError(
        'nothing in it is like the brain of the template; check that it is a T1-weighted image '
        'of a whole head.'
    )


@lru_cache(maxsize=1)
def _template() -> Brain:
    """The brain of the bundled template."""
    from deepreg_wf.affine.brain import Brain
    from deepreg_wf.templates.spaces import BUNDLED
    from deepreg_wf.templates.template import get_template

    with TemporaryDirectory() as folder:
        data, grid = load_image(get_template(BUNDLED, cache_dir=Path(folder)).t1w)
    return Brain.from_image(data, data > 0, grid, SPACING)


@lru_cache(maxsize=1)
def _depth() -> NDArray[np.float32]:
    """Distance from the edge of the template's mask in mm, negative inside."""
    mask = _template().mask
    return SPACING * (_distance(mask) - _distance(~mask))


def _distance(mask: Mask) -> NDArray[np.float32]:
    """Distance from a mask in voxels; half a voxel less, to the faces of its voxels."""
    distance = ndimage.distance_transform_edt(~mask)
    return np.where(mask, 0, distance - 0.5).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class _Head:
    """A head on an upright grid.

    Attributes
    ----------
    data : ndarray of float32, shape (X, Y, Z)
        1 in its bright parts.
    view : ndarray of bool, shape (X, Y, Z)
        What the image shows.
    grid : VoxelGrid
    """

    data: NDArray[np.float32]
    view: Mask
    grid: VoxelGrid

    @classmethod
    def from_image(
        cls, data: NDArray[np.floating], grid: VoxelGrid, spacing: float = SPACING
    ) -> _Head:
        """Bring a head upright and cut off the air around it."""
        everything = np.ones(grid.shape, dtype=np.float32)
        target = upright_grid(everything > 0, grid, spacing, 0)
        values = resample(low_pass(data.astype(np.float32), grid, spacing), grid, target)
        view = resample(everything, grid, target) > 0
        low, high = (float(end) for end in np.percentile(values[view], [0.5, 99.5]))
        head = view & (values - low > GROUND * (high - low))
        if not high > low or not head.any():
            raise _nothing_found()
        top = max(float(np.percentile(values[head], 90)) - low, 1e-6)
        box = bounding_box(head)
        corner = np.eye(4)
        corner[:3, 3] = [part.start for part in box]
        cropped = VoxelGrid(head[box].shape, target.affine @ corner)
        scaled = np.where(view, (values - low) / top, 0)[box]
        return cls(data=scaled.clip(0, None).astype(np.float32), view=view[box], grid=cropped)

    def coarsened(self, spacing: float) -> _Head:
        """Return the same head on larger voxels."""
        target = upright_grid(np.ones(self.grid.shape, dtype=bool), self.grid, spacing, 0)
        values, share = (
            resample(low_pass(part.astype(np.float32), self.grid, spacing), self.grid, target)
            for part in (self.data.clip(0, BRIGHTEST), self.view)
        )
        return _Head(data=values, view=share >= 0.5, grid=target)

    def brain(self, mask: Mask) -> Brain:
        """What of the head is in a mask."""
        from deepreg_wf.affine.brain import Brain

        if not mask.any():
            raise _nothing_found()
        return Brain.from_image(self.data, mask, self.grid, ALIGNMENT_SPACING)

    def depth(self, affine: Array) -> NDArray[np.float32]:
        """Distance from the edge of the aligned template in template's mm, negative inside."""
        inverse = Transform(affine=_inverse(affine))
        depth = resample(_depth(), _template().grid, self.grid, inverse, default_value=np.inf)
        return np.where(self.view, depth, np.inf).astype(np.float32)

    def outline(self, affine: Array) -> Mask:
        """Mask of the brain where the template lies: tissue in one piece, gaps closed."""
        depth = self.depth(affine)
        core, reach = depth <= BAND_MM[0], depth <= BAND_MM[1]
        if not core.any():
            raise _nothing_found()
        box = bounding_box(reach, margin=int(SULCUS_MM / SPACING) + 1)
        core, reach = core[box], reach[box]
        tissue = core | (reach & self._tissue(affine, depth)[box])
        thick = largest_component(core | ~_grown(~tissue, BRIDGE_MM))
        # What a bridge grows back of it is shorter than the bridge.
        brain = _grown(thick, BRIDGE_MM + SPACING / 2) & tissue
        pad = int(np.ceil(2 * SULCUS_MM / SPACING))
        closed = ~_grown(~_grown(np.pad(brain, pad), SULCUS_MM), SULCUS_MM)
        whole = _grown(fill_holes(closed), RIM_MM)[(slice(pad, -pad),) * 3]
        mask = np.zeros(self.grid.shape, dtype=bool)
        mask[box] = whole & self.view[box]
        return mask

    def _tissue(self, affine: Array, depth: NDArray[np.float32]) -> Mask:
        """Where it is neither darker than grey matter nor brighter than white."""
        template = _template()
        inverse = Transform(affine=_inverse(affine))
        seen = resample(template.data, template.grid, self.grid, inverse)
        white, grey = (
            (low < seen) & (seen < high) & (depth <= BAND_MM[0] / 2) for low, high in (WHITE, GREY)
        )
        if not white.any() or not grey.any():
            raise _nothing_found()
        level = float(np.median(self.data[white]))
        # Where the template's white matter lies in something else, it is no measure.
        white &= np.abs(self.data - level) < 0.4 * level
        sigma = NEIGHBOURHOOD_MM / SPACING
        total, share = (
            ndimage.gaussian_filter(part.astype(np.float32), sigma, mode='constant')
            for part in (np.where(white, self.data, 0), white)
        )
        relative = self.data / np.maximum((total + 1e-3 * level) / (share + 1e-3), 1e-6)
        tissue = (relative > DARK * np.median(relative[grey])) & (relative < BRIGHT)
        return np.asarray(tissue)


def _inverse(affine: Array) -> Array:
    return np.asarray(np.linalg.inv(affine), dtype=np.float64)


def _grown(mask: Mask, distance_mm: float) -> Mask:
    """What is within a distance of a mask."""
    if not mask.any():
        return mask
    return np.asarray(ndimage.distance_transform_edt(~mask) * SPACING <= distance_mm)


def _fit(head: _Head, affine: Array) -> tuple[float, Mask]:
    """Likeness of what is outlined from a start to the template's brain, and its mask.

    The outline is of tissue, not a copy of the template's: without a brain there is no likeness.
    """
    from deepreg_wf.affine.gauss_newton import COARSE, FINE, refine
    from deepreg_wf.affine.similarity import similarity

    template, levels = _template(), COARSE[1:] + FINE[:1]
    try:
        for reach, first in zip(REACHES_MM, (COARSE, levels), strict=True):
            affine = refine(head.brain(head.depth(affine) <= reach), template, affine, first)
        for _ in range(OUTLINES):
            mask = head.outline(affine)
            brain = head.brain(mask)
            affine = refine(brain, template, affine, levels)
    except InputError:
        return 0.0, np.zeros(head.grid.shape, dtype=bool)
    return similarity(brain, template, affine), mask


def _starts(search: _Search) -> Iterator[_Found]:
    """Where the brain may be: the header's orientation first, as the others take a minute."""
    yield max(search.find(Rotation.from_euler('x', TILTS, degrees=True), SIZES))
    for found in _all_around(search):
        # Refining enlarges what begins too small, but not the other way round.
        yield max(search.find(Rotation.concatenate([found.turn]), SIZES))


def _all_around(search: _Search) -> list[_Found]:
    """Starts far from each other, from rotations all around; the best ones first."""
    from deepreg_wf.affine.initialise import CANDIDATES, ROTATIONS, SPREAD, even_rotations

    angles = np.stack(np.meshgrid(*[(-TURN, 0.0, TURN)] * 3), axis=-1).reshape(-1, 3)
    turns = Rotation.from_rotvec(np.deg2rad(angles))
    chosen: list[_Found] = []
    for found in sorted(search.find(even_rotations(ROTATIONS), [COMMON_SIZE]), reverse=True):
        if all((found.turn * other.turn.inv()).magnitude() > SPREAD for other in chosen):
            chosen.append(found)
        if len(chosen) == CANDIDATES:
            break
    return sorted(
        (max(search.find(turns * found.turn, [COMMON_SIZE])) for found in chosen), reverse=True
    )


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A place of the template.

    Attributes
    ----------
    score : float
        Correlation.
    turn : Rotation
    affine : ndarray, shape (4, 4)
        RAS mm of the template to RAS mm of the head.
    """

    score: float
    turn: Rotation
    affine: Array

    def __lt__(self, other: _Found) -> bool:
        return self.score < other.score


class _Search:
    """The search for the template in a head, for all places at once."""

    def __init__(self, head: _Head) -> None:
        self.head, self.brain = head, _template().coarsened(SEARCH_SPACING / 2)
        corners = np.argwhere(self.brain.mask)
        self.radius = np.linalg.norm(np.ptp(corners, axis=0)) / 2 * self.brain.spacing
        largest = 2 * int(np.ceil(self._extent(max(SIZES)) / SEARCH_SPACING)) + 1
        self.size = [fft.next_fast_len(n + largest, real=True) for n in head.data.shape]
        view = head.view.astype(np.float32)
        self.spectra = [
            fft.rfftn(part, self.size) for part in (view, view * head.data, view * head.data**2)
        ]

    def find(self, rotations: Rotation, scales: Sequence[float]) -> list[_Found]:
        """Best place for each rotation and scale of the template."""
        return [self._best(rotation, scale) for rotation in rotations for scale in scales]

    def _extent(self, scale: float) -> float:
        return float(self.radius * scale + SEARCH_RING_MM)

    def _pattern(
        self, rotation: Rotation, scale: float
    ) -> tuple[NDArray[np.float32], Mask, Array]:
        """The turned template, where it counts, and the voxel of its centre."""
        half = int(np.ceil(self._extent(scale) / SEARCH_SPACING))
        place = np.diag([SEARCH_SPACING] * 3 + [1.0])
        place[:3, 3] = -half * SEARCH_SPACING
        grid = VoxelGrid([2 * half + 1] * 3, place)
        affine = np.eye(4)
        affine[:3, :3] = rotation.as_matrix().T / scale
        affine[:3, 3] = self.brain.centre
        image, share = (
            resample(part.astype(np.float32), self.brain.grid, grid, Transform(affine=affine))
            for part in (self.brain.data, self.brain.mask)
        )
        distance = ndimage.distance_transform_edt(share < 0.5) * SEARCH_SPACING
        near = distance <= SEARCH_RING_MM
        box = bounding_box(near)
        return image[box], near[box], half - np.array([part.start for part in box])

    def _best(self, rotation: Rotation, scale: float) -> _Found:
        image, near, centre = self._pattern(rotation, scale)
        scores = self._correlate(image * near, near.astype(np.float32))
        index = np.unravel_index(np.argmax(scores), scores.shape)
        # Beyond the head come the places before it: Fourier's space is periodic.
        shape, size = self.head.data.shape, self.size
        first = [i - n if i >= m else i for i, m, n in zip(index, shape, size, strict=True)]
        affine = np.eye(4)
        affine[:3, :3] = scale * rotation.as_matrix()
        place = self.head.grid.to_mm(np.array(first) + centre)
        affine[:3, 3] = place - affine[:3, :3] @ self.brain.centre
        return _Found(score=float(scores[index]), turn=rotation, affine=affine)

    def _correlate(self, image: NDArray[np.float32], near: NDArray[np.float32]) -> Array:
        """Correlation of a pattern with what is under it and in view, for each place."""
        view, values, squares = self.spectra
        ones, first, second = (
            np.conj(fft.rfftn(part, self.size)) for part in (near, image, image**2)
        )

        def sums(product: NDArray[np.complexfloating]) -> Array:
            return np.asarray(fft.irfftn(product, self.size))

        number = np.maximum(sums(view * ones), 1e-3)
        head, pattern = sums(values * ones), sums(view * first)
        covariance = sums(values * first) / number - head * pattern / number**2
        variances = (sums(squares * ones) / number - (head / number) ** 2).clip(1e-4) * (
            sums(view * second) / number - (pattern / number) ** 2
        ).clip(1e-4)
        return np.where(number >= IN_VIEW * near.sum(), covariance / np.sqrt(variances), -1)

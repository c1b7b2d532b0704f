"""BIDS dataset of synthetic subjects, made from the bundled template by known transforms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from deepreg_wf import __version__
from deepreg_wf.demo.true_transform import TrueTransform, draw_true_transform
from deepreg_wf.spatial import VoxelGrid, save_composite
from deepreg_wf.templates.locate import get_template
from deepreg_wf.templates.spaces import BUNDLED
from deepreg_wf.utils.atomic import atomic_write, write_json, write_text

FIELD_OF_VIEW_MARGIN = 12.0
"""Distance between the brain and the border of a native image, in mm."""

INTENSITY = 1000.0
"""Intensity of the brightest voxel in a native image, before bias and noise."""

Array = NDArray[np.float64]
Vector = tuple[float, float, float]

_DIRECTIONS = {
    'R': (1, 0, 0),
    'L': (-1, 0, 0),
    'A': (0, 1, 0),
    'P': (0, -1, 0),
    'S': (0, 0, 1),
    'I': (0, 0, -1),
}


@dataclass(frozen=True, kw_only=True)
class SyntheticSubject:
    """Parameters of a synthetic subject: its difference from the template, and its scan.

    Attributes
    ----------
    label : str
        Label of the participant, without ``sub-``.
    orientation : str
        Anatomical direction of each voxel axis, such as ``RAS``.
    spacing : tuple of float
        Voxel size in mm.
    oblique : tuple of float
        Rotation of the voxel axes about the right, anterior and superior axis, in degrees.
    rotation, translation, scale : tuple of float
        Affine from template to subject: degrees, mm and factors along the same axes.
    displacement : float
        Mean displacement of the geodesic in the brain, in mm, to first order.
    bias : float
        Largest absolute logarithm of the intensity bias.
    noise : float
        Standard deviation of the noise, relative to `INTENSITY`.
    seed : int
        Seed of the geodesic, the bias and the noise.
    """

    label: str
    orientation: str = 'RAS'
    spacing: Vector = (1.0, 1.0, 1.0)
    oblique: Vector = (0.0, 0.0, 0.0)
    rotation: Vector = (0.0, 0.0, 0.0)
    translation: Vector = (0.0, 0.0, 0.0)
    scale: Vector = (1.0, 1.0, 1.0)
    displacement: float = 3.0
    bias: float = 0.2
    noise: float = 0.02
    seed: int = 0

    @property
    def affine(self) -> Array:
        """Affine from template RAS mm to subject RAS mm, shape (4, 4)."""
        matrix = np.eye(4)
        matrix[:3, :3] = _rotation(self.rotation) @ np.diag(self.scale)
        matrix[:3, 3] = self.translation
        return matrix

    @property
    def axes(self) -> Array:
        """Steps from voxel to voxel in RAS mm, one column for each voxel axis, shape (3, 3)."""
        aligned = np.array([_DIRECTIONS[letter] for letter in self.orientation], dtype=float).T
        steps: Array = _rotation(self.oblique) @ aligned @ np.diag(self.spacing)
        return steps


SUBJECTS = (
    SyntheticSubject(
        label='01',
        orientation='LAS',
        oblique=(8, -3, 5),
        rotation=(5, -2, 4),
        translation=(4, -7, 9),
        scale=(1.04, 0.97, 1.02),
        seed=1,
    ),
    SyntheticSubject(
        label='02',
        orientation='PSR',
        spacing=(1.0, 1.0, 1.5),
        rotation=(-6, 3, -2),
        translation=(-5, 8, -4),
        scale=(0.96, 1.03, 0.98),
        seed=2,
    ),
)
"""Two subjects: an oblique scan in left-anterior-superior order, and a sagittal scan."""


def write_demo_dataset(
    bids_dir: Path,
    truth_dir: Path,
    *,
    cache_dir: Path,
    subjects: Sequence[SyntheticSubject] = SUBJECTS,
) -> Iterator[tuple[SyntheticSubject, TrueTransform]]:
    """Write the dataset; each iteration writes one subject.

    Parameters
    ----------
    bids_dir : Path
        Folder of the BIDS dataset; it is made if it does not exist.
    truth_dir : Path
        Folder of the true transforms, which have the format of the derivatives.
    cache_dir : Path
        Folder of images that are derived from the bundled template.
    subjects : sequence of SyntheticSubject

    Yields
    ------
    SyntheticSubject
    TrueTransform
        Transform from template points to subject points.
    """
    template = nb.Nifti1Image.from_filename(get_template(BUNDLED, cache_dir=cache_dir).t1w)
    mask = _brain_mask(cache_dir)
    _write_description(bids_dir, subjects)
    for subject in subjects:
        truth = draw_true_transform(
            mask.get_fdata() > 0,
            mask.affine,
            subject_affine=subject.affine,
            mean_displacement=subject.displacement,
            seed=subject.seed,
        )
        anat = bids_dir / f'sub-{subject.label}' / 'anat'
        with atomic_write(anat / f'sub-{subject.label}_T1w.nii.gz') as temporary:
            nb.save(simulate_scan(template, truth, subject), temporary)
        write_true_transform(truth_dir, subject, truth)
        yield subject, truth


def brain_points(cache_dir: Path) -> Array:
    """Return the brain voxels of the bundled template at 2 mm, in RAS mm, shape (N, 3)."""
    mask = _brain_mask(cache_dir)
    points: Array = apply_affine(mask.affine, np.argwhere(mask.get_fdata() > 0))
    return points


def simulate_scan(
    template: nb.Nifti1Image, truth: TrueTransform, subject: SyntheticSubject
) -> nb.Nifti1Image:
    """Simulate a scan of the transformed template.

    Parameters
    ----------
    template : Nifti1Image
        Image of the brain; zero outside of it.
    truth : TrueTransform
        Transform from template points to subject points.
    subject : SyntheticSubject
        Parameters of the grid, the bias and the noise.

    Returns
    -------
    Nifti1Image
        Data of type int16; zero outside of the brain.
    """
    data = template.get_fdata(dtype=np.float32)
    points = apply_affine(template.affine, np.argwhere(data > 0)[::7])
    grid = native_grid(truth.to_subject(points), subject)
    image = _resample(data * (INTENSITY / data.max()), template.affine, truth, grid)
    brain = image > 0
    rng = np.random.default_rng(subject.seed)
    image *= bias_field(grid.shape, subject.bias, rng)
    image += rng.normal(scale=subject.noise * INTENSITY, size=grid.shape)
    # The scan is an extracted brain: positive in the brain and zero outside of it.
    image = np.where(brain, np.maximum(np.rint(image), 1), 0).astype(np.int16)
    scanned = nb.Nifti1Image(image, grid.affine)
    scanned.header.set_xyzt_units('mm')
    return scanned


def native_grid(points: Array, subject: SyntheticSubject) -> VoxelGrid:
    """Make a grid along the voxel axes of a subject that covers RAS points, shape (N, 3)."""
    axes = subject.axes
    along = points @ np.linalg.inv(axes).T
    margin = FIELD_OF_VIEW_MARGIN / np.asarray(subject.spacing)
    low, high = along.min(axis=0) - margin, along.max(axis=0) + margin
    affine = np.eye(4)
    affine[:3, :3] = axes
    affine[:3, 3] = axes @ low
    return VoxelGrid(np.ceil(high - low).astype(int) + 1, affine)


def bias_field(shape: Sequence[int], strength: float, rng: np.random.Generator) -> Array:
    """Draw a smooth positive field whose logarithm has the largest absolute value `strength`."""
    coarse = rng.standard_normal((4, 4, 4))
    log_bias = ndimage.zoom(coarse, np.asarray(shape) / 4, order=3)
    bias: Array = np.exp(strength * log_bias / np.abs(log_bias).max())
    return bias


def write_true_transform(truth_dir: Path, subject: SyntheticSubject, truth: TrueTransform) -> Path:
    """Write a true transform as an ITK composite that resamples the T1w onto the template."""
    truth_dir.mkdir(parents=True, exist_ok=True)
    path = truth_dir / f'sub-{subject.label}_from-T1w_to-{BUNDLED}_mode-image_xfm.h5'
    save_composite(path, affine=truth.affine, warp=truth.warp, grid=truth.grid)
    return path


def _brain_mask(cache_dir: Path) -> nb.Nifti1Image:
    template = get_template(f'{BUNDLED}:res-2', cache_dir=cache_dir)
    assert template.mask is not None, 'the bundled template has a mask'
    return nb.Nifti1Image.from_filename(template.mask)


def _resample(data: Array, affine: Array, truth: TrueTransform, grid: VoxelGrid) -> Array:
    """Resample the template onto a native grid, slice by slice to save memory."""
    image = np.empty(grid.shape)
    plane = np.indices(grid.shape[:2]).reshape(2, -1).T
    source = VoxelGrid(data.shape, affine)
    for k in range(grid.shape[2]):
        points = grid.to_mm(np.column_stack([plane, np.full(len(plane), k)]))
        voxels = source.to_indices(truth.to_template(points))
        image[..., k] = ndimage.map_coordinates(data, voxels.T, order=1).reshape(grid.shape[:2])
    return image


def _rotation(degrees: Vector) -> Array:
    """Return the matrix of rotations about the x, y and z axis, shape (3, 3)."""
    matrix: Array = Rotation.from_euler('xyz', degrees, degrees=True).as_matrix()
    return matrix


def _write_description(bids_dir: Path, subjects: Sequence[SyntheticSubject]) -> None:
    description: dict[str, Any] = {
        'Name': 'deepreg_wf demonstration: two brains made from a template',
        'BIDSVersion': '1.9.0',
        'DatasetType': 'raw',
        'GeneratedBy': [{'Name': 'deepreg_wf-demo', 'Version': __version__}],
        'ReferencesAndLinks': [
            'Fonov et al., Unbiased average age-appropriate atlases for pediatric studies, '
            'NeuroImage 54 (2011) 313-327'
        ],
    }
    write_json(bids_dir / 'dataset_description.json', description)
    write_text(bids_dir / 'README', _README)
    lines = ['participant_id\tacquisition']
    for subject in subjects:
        size = 'x'.join(f'{h:g}' for h in subject.spacing)
        oblique = ', oblique' if any(subject.oblique) else ''
        lines.append(f'sub-{subject.label}\t{subject.orientation}, {size} mm{oblique}')
    write_text(bids_dir / 'participants.tsv', '\n'.join(lines) + '\n')
    columns = {'acquisition': {'Description': 'Directions of the voxel axes and voxel size'}}
    write_json(bids_dir / 'participants.json', columns)


_README = """\
Synthetic subjects, made by deepreg_wf-demo from the ICBM 152 2009a symmetric template (copyright
1993-2009 Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological Institute, McGill
University) as it comes with nilearn. Each is the template moved by a random geodesic and a small
affine, with an intensity bias and noise added. No person was scanned.
"""

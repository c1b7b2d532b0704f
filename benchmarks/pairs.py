"""Labelled brains, affinely aligned on one grid, on which the methods are compared.

    python benchmarks/pairs.py DATASET WORK --spacing 2 1

For each subject of a BIDS dataset of extracted brains with labels: bias correction (N4 in the
brain), an affine registration to the MNI152 brain that nilearn bundles, and resampling on a grid
about the centre of that template. Results stay in WORK/aligned; what is there is not made again.
"""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
import torch
from torch import Tensor

from deepreg_wf.lddmm import normalise

EXTENT_MM = (200, 240, 200)
"""Size of the grid; the template's brain leaves 20 mm or more on every side but the lowest."""

SMOOTHING = 0.4
"""Gaussian smoothing before resampling to a coarser grid, as a share of its voxel size."""

NATIVE_MM = 1.0
"""Spacing of the brains and of the template."""

SEED = 42


def find_subjects(dataset: Path) -> dict[str, tuple[Path, Path]]:
    """Find the T1w image and labels of each subject that has both, by its name without 'sub-'."""
    found = {}
    for image in sorted(dataset.glob('sub-*/anat/*T1w.nii.gz')):
        subject = image.name.split('_')[0]
        labels = sorted(dataset.glob(f'derivatives/labels/{subject}/anat/*_dseg.nii.gz'))
        if labels:
            found[subject.removeprefix('sub-')] = image, labels[0]
    return found


def ordered_pairs(subjects: Iterable[str]) -> list[tuple[str, str]]:
    """Return all pairs (moving, fixed)."""
    return list(itertools.permutations(subjects, 2))


def image_path(work: Path, subject: str, spacing: float) -> Path:
    """Return the path of the aligned image of a subject."""
    return work / 'aligned' / f'sub-{subject}_res-{spacing:g}mm_T1w.nii.gz'


def labels_path(work: Path, subject: str, spacing: float) -> Path:
    """Return the path of the aligned labels of a subject."""
    return work / 'aligned' / f'sub-{subject}_res-{spacing:g}mm_dseg.nii.gz'


def load_image(work: Path, subject: str, spacing: float) -> Tensor:
    """Read an aligned image, (X, Y, Z), scaled to [0, 1]."""
    image = nb.load(image_path(work, subject, spacing))
    return normalise(torch.from_numpy(np.asarray(image.dataobj, dtype=np.float32)))


def load_labels(work: Path, subject: str, spacing: float) -> Tensor:
    """Read aligned labels, (X, Y, Z), int64."""
    labels = nb.load(labels_path(work, subject, spacing))
    return torch.from_numpy(np.rint(np.asarray(labels.dataobj)).astype(np.int64))


def prepare(dataset: Path, work: Path, spacings: Sequence[float]) -> list[str]:
    """Align every subject that is not aligned yet at every spacing; return the subjects."""
    subjects = find_subjects(dataset)
    if not subjects:
        raise SystemExit(f'{dataset}: no T1w image with labels under derivatives/labels')
    (work / 'aligned').mkdir(parents=True, exist_ok=True)
    for subject, (image, labels) in subjects.items():
        missing = [s for s in spacings if not labels_path(work, subject, s).exists()]
        if missing:
            print(f'aligning sub-{subject}', flush=True)
            _align(subject, image, labels, work, missing)
    return list(subjects)


def _align(subject: str, image: Path, labels: Path, work: Path, spacings: list[float]) -> None:
    import ants

    # Deterministic mode refuses AffineFast; the seed alone is heeded.
    ants.config.set_ants_deterministic(False, SEED)
    brain = _correct_bias(ants.image_read(str(image)).clone('float'))
    found = ants.registration(_template(work), brain, 'AffineFast')['fwdtransforms']
    segmentation = ants.image_read(str(labels)).clone('float')
    for spacing in spacings:
        grid = _grid(work, spacing)
        coarser = spacing > NATIVE_MM
        smooth = ants.smooth_image(brain, SMOOTHING * spacing) if coarser else brain
        aligned = ants.apply_transforms(grid, smooth, found, 'linear')
        moved = ants.apply_transforms(grid, segmentation, found, 'nearestNeighbor')
        ants.image_write(aligned, str(image_path(work, subject, spacing)))
        ants.image_write(moved, str(labels_path(work, subject, spacing)))


def _correct_bias(brain: Any) -> Any:
    import ants

    mask = ants.threshold_image(brain, 1e-6, 1e9)
    corrected = ants.n4_bias_field_correction(
        brain, mask=mask, shrink_factor=4, convergence={'iters': [20, 20, 10], 'tol': 1e-7}
    )
    return corrected * mask


def _template(work: Path) -> Any:
    """Return the brain of the MNI152 template, at 1 mm, as an image of antspyx."""
    import ants
    from nilearn.datasets import load_mni152_brain_mask, load_mni152_template

    path = work / 'aligned' / 'template.nii.gz'
    if not path.exists():
        head, mask = load_mni152_template(resolution=1), load_mni152_brain_mask(resolution=1)
        brain = (head.get_fdata() * mask.get_fdata()).astype(np.float32)
        nb.save(nb.Nifti1Image(brain, head.affine), path)
    return ants.image_read(str(path))


def _grid(work: Path, spacing: float) -> Any:
    """Return an empty image of antspyx in RAS, centred on the template."""
    import ants

    path = work / 'aligned' / f'grid-{spacing:g}mm.nii.gz'
    if not path.exists():
        template = nb.load(work / 'aligned' / 'template.nii.gz')
        shape = [round(extent / spacing) for extent in EXTENT_MM]
        affine = np.diag([spacing, spacing, spacing, 1.0])
        centre = template.affine @ [*(np.array(template.shape) - 1) / 2, 1]
        affine[:3, 3] = centre[:3] - spacing * (np.array(shape) - 1) / 2
        nb.save(nb.Nifti1Image(np.zeros(shape, np.float32), affine), path)
    return ants.image_read(str(path))


def main() -> None:
    """Align the brains of a dataset."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('dataset', type=Path)
    parser.add_argument('work', type=Path)
    parser.add_argument('--spacing', type=float, nargs='+', default=[2.0, 1.0], help='mm')
    parser.add_argument('--threads', type=int, default=1)
    args = parser.parse_args()
    # ITK looks at this once, when it is loaded.
    os.environ['ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS'] = str(args.threads)
    prepare(args.dataset, args.work, args.spacing)


if __name__ == '__main__':
    main()

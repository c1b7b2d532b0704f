"""Brain masks of heads, compared with the labels that come with them.

    python benchmarks/masks.py WORK DATASET [DATASET ...] --methods deepbet template

Each method on each head with labels (derivatives/*/sub-*/anat/*_dseg.nii.gz), in a process of its
own with one thread; prints Dice, time and memory. Masks and figures stay in WORK/masks; what is
there is not made again.

Labels mark tissue, masks what the dura holds. Labels become a mask by closing and filling: by a
ball of 4 mm, as sMRIPrep makes a mask of an aparc+aseg, which bridges sulci; and by one of 10 mm,
which bridges fissures and cisterns, too.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from deepreg_wf.anatomical.skullstrip.extract import METHODS, extract_brain
from deepreg_wf.anatomical.validate import read_t1w
from deepreg_wf.spatial import VoxelGrid, load_image, save_image
from deepreg_wf.spatial.masks import fill_holes, load_mask, volume_ml

CLOSINGS_MM = (4.0, 10.0)
"""Radii of the balls by which labels are closed; `refine_aseg` of sMRIPrep has the first."""

Mask = NDArray[np.bool_]


def find_heads(datasets: list[Path]) -> Iterator[tuple[Path, Path | None]]:
    """Find the T1w image of each subject, and its labels if there are any."""
    for dataset in datasets:
        for image in sorted(dataset.glob('sub-*/anat/*_T1w.nii.gz')):
            subject = image.name.split('_')[0]
            labels = sorted(dataset.glob(f'derivatives/*/{subject}/anat/*_dseg.nii.gz'))
            yield image, labels[0] if labels else None


def filled(labels: Mask, grid: VoxelGrid, radius: float) -> Mask:
    """Close labels by a ball of a radius in mm and fill their holes."""
    pad = int(np.ceil(radius / min(grid.spacing))) + 1
    near = ndimage.distance_transform_edt(~np.pad(labels, pad), grid.spacing) <= radius
    closed = ndimage.distance_transform_edt(near, grid.spacing) > radius
    return fill_holes(closed[(slice(pad, -pad),) * 3])


def dice(one: Mask, other: Mask) -> float:
    """Return the Dice coefficient of two masks."""
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def mask_path(work: Path, image: Path, method: str) -> Path:
    """Return the path of the mask of an image."""
    return work / 'masks' / f'{image.name.removesuffix("_T1w.nii.gz")}_desc-{method}_mask.nii.gz'


def extracted_mask(work: Path, image: Path, method: str = 'auto') -> Mask:
    """Read the mask of an image; compute it first if it is missing."""
    path = mask_path(work, image, method)
    if not path.is_file():
        measure(work, image, method)
    return load_mask(path, read_t1w(image).grid)


def measure(work: Path, image: Path, method: str) -> dict[str, Any]:
    """Extract the brain of one image and write the mask; return time, memory and problem."""
    t1w = read_t1w(image)
    mode = 'auto' if method == 'auto' else 'force'
    begin = time.perf_counter()
    found = extract_brain(t1w.data, t1w.grid, mode=mode, method=method)
    seconds = time.perf_counter() - begin
    path = mask_path(work, image, method)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(path, found.mask, t1w.grid, np.uint8)
    return {
        'seconds': seconds,
        'peak_mb': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        'volume_ml': volume_ml(found.mask, t1w.grid),
        'problem': found.error.problem if found.error else '',
    }


def score(work: Path, image: Path, labels: Path | None, method: str) -> dict[str, Any]:
    """Return the results of a method on a head, from its record or from a new process."""
    record = mask_path(work, image, method).with_suffix('').with_suffix('.json')
    if not record.is_file():
        arguments = [str(work), '--one', str(image), '--methods', method]
        environment = os.environ | {'OMP_NUM_THREADS': '1'}
        command = [sys.executable, __file__, *arguments]
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
        record.write_bytes(done.stdout)
    figures = json.loads(record.read_text())
    if labels is not None:
        values, grid = load_image(labels)
        mask = load_mask(mask_path(work, image, method), grid)
        truths = [filled(values > 0, grid, radius) for radius in CLOSINGS_MM]
        figures['dice'] = [dice(mask, truth) for truth in truths]
    return figures


def main() -> None:
    """Measure all methods on all heads and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('work', type=Path)
    parser.add_argument('datasets', type=Path, nargs='*')
    parser.add_argument('--methods', nargs='+', choices=('auto', *METHODS), default=['deepbet'])
    parser.add_argument('--one', type=Path, help='measure one image, in this process')
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.work, args.one, args.methods[0])))
        return
    closings = ' | '.join(f'Dice, closed by {radius:g} mm' for radius in CLOSINGS_MM)
    print(f'| Head | Method | {closings} | Mask (mL) | Time (s) | Memory (MiB) | Doubt |')
    print('|' + ' --- |' * (6 + len(CLOSINGS_MM)))
    for method in args.methods:
        scores = []
        for image, labels in find_heads(args.datasets):
            found = score(args.work, image, labels, method)
            scores.append(found)
            values = found.get('dice', [np.nan] * len(CLOSINGS_MM))
            print(
                f'| {image.name.split("_")[0]} | {method} '
                f'| {" | ".join(f"{value:.4f}" for value in values)} | {found["volume_ml"]:.0f} '
                f'| {found["seconds"]:.1f} | {found["peak_mb"]:.0f} | {found["problem"]} |',
                flush=True,
            )
        known = np.array([found['dice'] for found in scores if 'dice' in found])
        cells = [f'{column.mean():.4f}, least {column.min():.4f}' for column in known.T]
        print(
            f'| all | {method} | {" | ".join(cells)} | '
            f'| {statistics.median(found["seconds"] for found in scores):.1f} '
            f'| {max(found["peak_mb"] for found in scores):.0f} | |'
        )


if __name__ == '__main__':
    main()

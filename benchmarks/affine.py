"""Capture range of the affine: random initial poses, and all storage orders of an image.

    python benchmarks/affine.py WORK DATASET [DATASET ...] --starts 40 --ways auto
    python benchmarks/affine.py WORK DATASET --subjects sub-01 --orientations
    python benchmarks/affine.py WORK --table

The header of each image is changed by a known similarity: a rotation of up to 180 degrees about
any axis through the brain, a translation of up to 100 mm in any direction, a size of 0.7 to 1.4.
What is found from there is compared with what is found from the header as it is: the distance
between where the two send the voxels of the template's brain, in mm of the image. One thread;
appends to WORK/starts.jsonl, and does not do again what is there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import masks
import nibabel as nb
import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from deepreg_wf.affine.align import START_SEQUENCES, STARTS, Image, align
from deepreg_wf.affine.brain import Brain
from deepreg_wf.affine.gauss_newton import COARSE, FINE, refine
from deepreg_wf.anatomical.validate import read_t1w
from deepreg_wf.spatial import VoxelGrid, load_image
from deepreg_wf.spatial.isotropic import resample_brain
from deepreg_wf.spatial.masks import bounding_box
from deepreg_wf.templates.locate import get_template
from deepreg_wf.templates.registration_grid import registration_grid
from deepreg_wf.templates.spaces import BUNDLED

NEAR_MM = 1.0
"""Mean distance up to which a start counts as successful."""

ANGLES = (0, 20, 40, 60, 90, 180)
"""Bounds of the rotations that the table tells apart, in degrees."""

Array = NDArray[np.float64]


@cache
def load_template(work: Path) -> Image:
    """Return intensities, mask and grid of the bundled template, at 2 mm."""
    data, grid = load_image(get_template(BUNDLED, cache_dir=work).t1w)
    target = registration_grid(data > 0, grid, 2.0)
    return *resample_brain(data, data > 0, grid, target), target


def load_brain(work: Path, path: Path) -> Image:
    """Return the brain of an image, cropped to its bounding box."""
    t1w = read_t1w(path)
    mask = masks.extracted_mask(work, path)
    box = bounding_box(mask, margin=4)
    corner = np.eye(4)
    corner[:3, 3] = [part.start for part in box]
    return t1w.data[box], mask[box], VoxelGrid(mask[box].shape, t1w.grid.affine @ corner)


def random_start(number: int, centre: Array) -> tuple[Array, float]:
    """Return a random similarity about a centre, and its angle in degrees."""
    rng = np.random.default_rng(number)
    axis, way = (part / np.linalg.norm(part) for part in rng.standard_normal((2, 3)))
    angle = rng.uniform(0, 180)
    move = np.eye(4)
    move[:3, :3] = (
        np.exp(rng.uniform(*np.log([0.7, 1.4])))
        * Rotation.from_rotvec(np.deg2rad(angle) * axis).as_matrix()
    )
    move[:3, 3] = centre - move[:3, :3] @ centre + rng.uniform(0, 100) * way
    return move, float(angle)


def by_ladder(method: str, polish: bool = True) -> Callable[[Image, Image], Array]:
    """Align as the app does."""
    return lambda moving, fixed: align(moving, fixed, method=method, polish=polish).affine


def by_start(origin: str) -> Callable[[Image, Image], Array]:
    """Align from one initialisation alone, without a fallback."""

    def find(moving: Image, fixed: Image) -> Array:
        brains = Brain.from_image(*moving, 3.0), Brain.from_image(*fixed, 3.0)
        return refine(*brains, STARTS[origin](*brains), COARSE + FINE)

    return find


WAYS: dict[str, Callable[[Image, Image], Array]] = {
    **{name: by_ladder(name) for name in START_SEQUENCES},
    'icstn, no polish': by_ladder('icstn', polish=False),
    **{f'{origin} alone': by_start(origin) for origin in STARTS},
}


def distances(one: Array, other: Array, fixed: Image) -> Array:
    """Compute the distances in mm of the template's brain voxels under two affines."""
    _, mask, grid = fixed
    points = grid.to_mm(np.argwhere(mask)[::25])
    return np.linalg.norm(apply_affine(one, points) - apply_affine(other, points), axis=1)


def moved(brain: Image, move: Array) -> Image:
    """Return the same voxels under another header."""
    data, mask, grid = brain
    return data, mask, VoxelGrid(grid.shape, move @ grid.affine)


def try_starts(work: Path, path: Path, starts: int, ways: list[str]) -> None:
    """Run each method from each initial pose that has no record yet."""
    fixed, subject = load_template(work), path.name.split('_')[0]
    done = {(r['subject'], r['way'], r['start']) for r in records(work)}
    wanted = [(w, n) for n in range(starts) for w in ways if (subject, w, n) not in done]
    if not wanted:
        return
    brain = load_brain(work, path)
    centre = brain[2].to_mm(np.argwhere(brain[1]).mean(axis=0))
    truth = align(brain, fixed).affine
    for way, number in wanted:
        move, angle = random_start(number, centre)
        begin = time.perf_counter()
        affine = WAYS[way](moved(brain, move), fixed)
        seconds = time.perf_counter() - begin
        apart = distances(np.linalg.inv(move) @ affine, truth, fixed)
        record = {
            'subject': subject,
            'way': way,
            'start': number,
            'angle': angle,
            'mean_mm': float(apart.mean()),
            'seconds': seconds,
        }
        with (work / 'starts.jsonl').open('a') as lines:
            lines.write(json.dumps(record) + '\n')


def records(work: Path) -> list[dict[str, Any]]:
    """Return all records."""
    path = work / 'starts.jsonl'
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def print_table(work: Path) -> None:
    """Print a row for each method and subject, and the success rate by rotation."""
    found = records(work)
    print('| Way | Brain | Starts | Within 1 mm | Median (mm) | Worst (mm) | Time (s) |')
    print('|' + ' --- |' * 7)
    for way in WAYS:
        subjects = sorted({r['subject'] for r in found if r['way'] == way})
        for subject in [*subjects, *(['all'] if subjects else [])]:
            part = [r for r in found if r['way'] == way and subject in (r['subject'], 'all')]
            apart = np.array([r['mean_mm'] for r in part])
            print(
                f'| {way} | {subject} | {len(part)} | {(apart <= NEAR_MM).sum()} '
                f'| {np.median(apart):.2f} | {apart.max():.2f} '
                f'| {np.median([r["seconds"] for r in part]):.1f} |'
            )
    bounds = list(zip(ANGLES, ANGLES[1:], strict=False))
    print('\n| Way | ' + ' | '.join(f'{low} to {high}' for low, high in bounds) + ' |')
    print('|' + ' --- |' * (len(bounds) + 1))
    for way in WAYS:
        cells = []
        for low, high in bounds:
            part = [r for r in found if r['way'] == way and low <= r['angle'] < high]
            near = sum(r['mean_mm'] <= NEAR_MM for r in part)
            cells.append(f'{near} of {len(part)}')
        print(f'| {way} | ' + ' | '.join(cells) + ' |')


def try_orientations(work: Path, path: Path) -> None:
    """Store an image in all 48 orders; print the distance from the original's affine."""
    fixed, (data, mask, grid) = load_template(work), load_brain(work, path)
    truth = align((data, mask, grid), fixed)
    worst = 0.0
    for turn in nb.orientations.axcodes2ornt('RAS'), *_orientations():
        stored = VoxelGrid(
            nb.orientations.apply_orientation(mask, turn).shape,
            grid.affine @ nb.orientations.inv_ornt_aff(turn, grid.shape),
        )
        arrays = [np.ascontiguousarray(nb.apply_orientation(part, turn)) for part in (data, mask)]
        found = align((arrays[0], arrays[1], stored), fixed)
        worst = max(worst, float(distances(found.affine, truth.affine, fixed).max()))
    print(f'{path.name}: 48 storage orientations, at most {worst:.2g} mm apart')


def _orientations() -> list[NDArray[np.float64]]:
    from itertools import permutations, product

    return [
        np.column_stack([order, signs])
        for order in permutations(range(3))
        for signs in product((1, -1), repeat=3)
    ]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('work', type=Path)
    parser.add_argument('datasets', type=Path, nargs='*')
    parser.add_argument('--subjects', nargs='+')
    parser.add_argument('--starts', type=int, default=40)
    parser.add_argument('--ways', nargs='+', choices=WAYS, default=['auto'])
    parser.add_argument('--orientations', action='store_true')
    parser.add_argument('--table', action='store_true')
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    for path, _ in masks.find_heads(args.datasets):
        if args.subjects and path.name.split('_')[0] not in args.subjects:
            continue
        if args.orientations:
            try_orientations(args.work, path)
        elif not args.table:
            try_starts(args.work, path, args.starts, args.ways)
    if args.table:
        print_table(args.work)


if __name__ == '__main__':
    main()

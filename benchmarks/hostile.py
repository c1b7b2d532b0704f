"""Deliberately corrupted heads: which are refused, and which are processed correctly.

    python benchmarks/hostile.py WORK IMAGE --table
    python benchmarks/hostile.py WORK IMAGE --cases half phantom

Each case is made of one head, written to WORK and sent through what the app does up to the
affine: reading, brain extraction with all its methods, and the affine, each with its checks. What
has to be refused must be refused; of what has to be survived, the mask is compared with that of
the head as it is (Dice), and the affine (mean distance over the template's brain, in mm). Appends
to WORK/hostile-SUBJECT.jsonl, and does not do again what is there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import affine as starts
import masks
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from deepreg_wf.affine.align import align
from deepreg_wf.affine.plausibility import check_alignment, check_brain
from deepreg_wf.anatomical.skullstrip.extract import extract_brain
from deepreg_wf.anatomical.validate import read_t1w
from deepreg_wf.errors import InputError
from deepreg_wf.spatial import VoxelGrid, resample, save_image

Data = NDArray[np.float32]
Array = NDArray[np.float64]


@dataclass(kw_only=True)
class Head:
    """A head, stored along R, A and S.

    Attributes
    ----------
    data : ndarray of float32, shape (X, Y, Z)
        From 0 to 1000.
    mask : ndarray of bool, shape (X, Y, Z)
        Of its brain.
    grid : VoxelGrid
    """

    data: Data
    mask: NDArray[np.bool_]
    grid: VoxelGrid

    @property
    def points(self) -> Array:
        """Return voxel positions relative to the brain's centre in mm, (3, X, Y, Z)."""
        indices = (
            np.indices(self.grid.shape) - np.argwhere(self.mask).mean(axis=0)[:, None, None, None]
        )
        return indices * np.reshape(self.grid.spacing, (3, 1, 1, 1))

    @property
    def body(self) -> NDArray[np.bool_]:
        """Return a mask of the voxels that are not air."""
        return ndimage.binary_fill_holes(ndimage.gaussian_filter(self.data, 1) > 60)


def moved(head: Head, move: Array) -> VoxelGrid:
    """Return the grid under another header."""
    return VoxelGrid(head.grid.shape, move @ head.grid.affine)


def turned(*degrees: float, scale: float = 1.0, shift: tuple[float, ...] = (0, 0, 0)) -> Array:
    """Return a similarity of world coordinates."""
    move = np.eye(4)
    move[:3, :3] = scale * Rotation.from_euler('xyz', degrees, degrees=True).as_matrix()
    move[:3, 3] = shift
    return move


def cut(head: Head, axis: int, keep: Callable[[Data], Any]) -> tuple[Data, VoxelGrid]:
    """Crop the field of view."""
    indices = np.flatnonzero(keep(np.moveaxis(head.points[axis], axis, 0)[:, 0, 0]))
    part = [slice(None)] * 3
    part[axis] = slice(indices[0], indices[-1] + 1)
    corner = np.eye(4)
    corner[axis, 3] = indices[0]
    data = head.data[tuple(part)]
    return data, VoxelGrid(data.shape, head.grid.affine @ corner)


def top_of(head: Head) -> float:
    """Return the height of the brain above its centre, in mm."""
    return float(head.points[2][head.mask].max())


def noise(head: Head, seed: int = 0) -> Data:
    """Return Rician noise, as of a coil without a head."""
    parts = np.random.default_rng(seed).standard_normal((2, *head.grid.shape))
    return np.hypot(*parts).astype(np.float32)


def ball(head: Head) -> Data:
    """Return a spherical phantom with a rim."""
    radius = np.linalg.norm(head.points, axis=0)
    return np.select([radius < 65, radius < 72, radius < 80], [600, 100, 800], 0) + 5 * noise(head)


def leg(head: Head) -> Data:
    """Return a leg: bone, marrow, muscle and fat, along the field of view."""
    x, y, _ = head.points
    radius = np.hypot(x, y)
    rings = np.select([radius < 12, radius < 18, radius < 65, radius < 78], [900, 50, 450, 950], 0)
    return rings * (1 + 0.05 * ndimage.gaussian_filter(noise(head), 2)) + 5 * noise(head)


def t2w(head: Head) -> Data:
    """Return a T2-weighted contrast: bright fluid, dark white matter."""
    level = np.percentile(head.data[head.mask], 98)
    inverted = (1.15 * level - head.data).clip(0, None)
    return np.where(head.body & (head.data < 1.2 * level), inverted, head.data).astype(np.float32)


def wrapped(head: Head) -> Data:
    """Make bright voxels negative, as an overflow of 16 bits does."""
    return (head.data * 40).astype(np.int64).astype(np.int16).astype(np.float32)


def spiked(head: Head) -> Data:
    """Set a few voxels to 1e9 and a few to -1e9."""
    data = head.data.copy()
    spots = np.random.default_rng(0).integers(0, data.size, 40)
    data.ravel()[spots[:20]], data.ravel()[spots[20:]] = 1e9, -1e9
    return data


def extracted(head: Head, background: Any) -> Data:
    """Return the brain alone in a background that is not zero."""
    return np.where(head.mask, head.data, background).astype(np.float32)


def defaced(head: Head, depth: float) -> Data:
    """Remove everything in front of a slanted plane, `depth` mm into the frontal lobe."""
    _, y, z = head.points
    front = (y - 0.6 * z)[head.mask].max() - depth
    return np.where(y - 0.6 * z > front, 0, head.data).astype(np.float32)


Made = tuple[Data, VoxelGrid]
Maker = Callable[[Head], Made]


def here(change: Callable[[Head], Data]) -> Maker:
    """Return other content on the same grid."""
    return lambda head: (change(head), head.grid)


REFUSED: dict[str, Maker] = {
    'lower half of a head': lambda h: cut(h, 2, lambda z: z < 0),
    'upper half of a head': lambda h: cut(h, 2, lambda z: z > 0),
    'left half of a head': lambda h: cut(h, 0, lambda x: x < 0),
    'rear half of a head': lambda h: cut(h, 1, lambda y: y < 0),
    'upper half set to zero': here(lambda h: np.where(h.points[2] > 0, 0, h.data)),
    'left half set to zero': here(lambda h: np.where(h.points[0] < 0, 0, h.data)),
    'half an extracted brain': here(lambda h: np.where(h.points[1] < 0, extracted(h, 0), 0)),
    'a phantom': here(ball),
    'a leg': here(leg),
    'noise': here(lambda h: 20 * noise(h)),
    'smooth noise': here(
        lambda h: 5000 * ndimage.gaussian_filter(noise(h), 6 / h.grid.spacing[0])
    ),
    'inverted contrast': here(lambda h: h.data.max() - h.data),
    'inverted contrast in dark air': here(lambda h: np.where(h.body, 1000 - h.data, 0)),
    'inverted contrast, brain alone': here(lambda h: np.where(h.mask, 1200 - h.data, 0)),
    'T2w': here(t2w),
    'a mask with soft edges': here(
        lambda h: ndimage.gaussian_filter(h.mask.astype(np.float32), 1)
    ),
    'voxels of half the size': lambda h: (h.data, moved(h, turned(0, 0, 0, scale=0.5))),
    'voxels of twice the size': lambda h: (h.data, moved(h, turned(0, 0, 0, scale=2))),
    'voxels of 1 x 1 x 2 as cubes': lambda h: (
        h.data[..., ::2],
        VoxelGrid(h.data[..., ::2].shape, h.grid.affine),
    ),
    'wrapped at 16 bits': here(wrapped),
    'top cropped by 50 mm': lambda h: cut(h, 2, lambda z: z < top_of(h) - 50),
}
"""None of these may go on."""

SURVIVED: dict[str, Maker] = {
    'as it is': here(lambda h: h.data),
    'header shifted by 300 mm': lambda h: (
        h.data,
        moved(h, turned(0, 0, 0, shift=(200, -200, 100))),
    ),
    'header turned by 15 degrees': lambda h: (h.data, moved(h, turned(15, 0, 0))),
    'header turned by 45 degrees': lambda h: (h.data, moved(h, turned(0, 45, 0))),
    'header upside down': lambda h: (h.data, moved(h, turned(180, 0, 0))),
    'axes taken for each other': lambda h: (h.data, moved(h, turned(90, 0, 90))),
    'top cropped by 10 mm': lambda h: cut(h, 2, lambda z: z < top_of(h) - 10),
    'neck cropped': lambda h: cut(h, 2, lambda z: z > -70),
    'defaced': here(lambda h: defaced(h, 0)),
    'defaced into the brain by 10 mm': here(lambda h: defaced(h, 10)),
    'bright fat and eyes': here(
        lambda h: np.where(h.body & ~ndimage.binary_dilation(h.mask, iterations=3), 6, 1) * h.data
    ),
    'noise around as of MP2RAGE': here(
        lambda h: np.where(h.body, h.data, 1000 * np.random.default_rng(0).random(h.data.shape))
    ),
    'a coil at the vertex': here(lambda h: h.data * np.exp(h.points[2] / 80)),
    'noise of 15 %': here(lambda h: np.hypot(h.data, 100 * noise(h))),
    'air of -32768': here(lambda h: np.where(h.body, h.data, -32768)),
    'all of it negative': here(lambda h: h.data - 5000),
    'spikes of 10^9': here(spiked),
    'extracted, background 50': here(lambda h: extracted(h, 50)),
    'extracted, background -1000': here(lambda h: extracted(h, -1000)),
    'extracted, noisy background': here(lambda h: extracted(h, 10 * noise(h))),
    'extracted, blurred edge': here(
        lambda h: ndimage.gaussian_filter(extracted(h, 0), 2 / np.array(h.grid.spacing))
    ),
    'extracted, upside down': lambda h: (extracted(h, 0), moved(h, turned(180, 0, 0))),
    'extracted, of 1.3 times the size': lambda h: (
        extracted(h, 0),
        moved(h, turned(0, 0, 0, scale=1.1)),
    ),
}
"""All of these have the mask and the affine of the head as it is."""

CASES = REFUSED | SURVIVED


def load_head(work: Path, path: Path) -> Head:
    """Read a head and its mask, in storage order RAS."""
    t1w = read_t1w(path)
    mask = masks.extracted_mask(work, path)
    data = t1w.data * np.float32(1000 / np.percentile(t1w.data, 99.8))
    reorder = t1w.grid.to_canonical
    return Head(data=reorder(data), mask=reorder(mask), grid=t1w.grid.canonical())


def run(work: Path, name: str, head: Head, truth: Array, methods: str) -> dict[str, Any]:
    """Process one case; return the outcome."""
    data, grid = CASES[name](head)
    save_image(work / 'hostile.nii.gz', data, grid)
    fixed = starts.load_template(work)
    begin = time.perf_counter()
    record: dict[str, Any] = {'case': name, 'method': '', 'refused': ''}
    try:
        t1w = read_t1w(work / 'hostile.nii.gz')
        found = extract_brain(
            t1w.data,
            t1w.grid,
            method=methods,
            check=lambda mask: check_brain((t1w.data, mask, t1w.grid), fixed),
        )
        record |= {'method': found.method, 'remark': found.remark}
        if found.error:
            raise found.error
        affine = align((t1w.data, found.mask, t1w.grid), fixed)
        record |= {'similarity': affine.similarity, 'overlap': affine.overlap}
        check_alignment(affine)
        same = resample(head.mask.astype(np.float32), *_in_place(head, grid), t1w.grid) >= 0.5
        there = grid.affine @ _offset(head, grid) @ np.linalg.inv(head.grid.affine)
        apart = starts.distances(np.linalg.inv(there) @ affine.affine, truth, fixed)
        record |= {'dice': masks.dice(found.mask, same), 'mean_mm': float(apart.mean())}
    except InputError as error:
        record['refused'] = str(error)
    return record | {'seconds': time.perf_counter() - begin}


def _offset(head: Head, grid: VoxelGrid) -> Array:
    """Return the map from voxels of the head to voxels of a case with a cropped field of view."""
    offset = np.eye(4)
    if grid.shape != head.grid.shape:
        offset[:3, 3] = -head.grid.to_indices(grid.to_mm([0, 0, 0]))
    return offset


def _in_place(head: Head, grid: VoxelGrid) -> tuple[VoxelGrid]:
    """Return the head's grid at the position that the header of a case gives."""
    return (VoxelGrid(head.grid.shape, grid.affine @ _offset(head, grid)),)


def print_table(found: list[dict[str, Any]]) -> None:
    """Print one row for each case."""
    print('| Case | Has to be | Is | Mask by | Dice | Affine (mm) | Time (s) | Words |')
    print('|' + ' --- |' * 8)
    for r in found:
        wanted = 'refused' if r['case'] in REFUSED else 'survived'
        outcome = 'refused' if r['refused'] else 'survived'
        figures = f'{r.get("dice", np.nan):.3f} | {r.get("mean_mm", np.nan):.2f}'
        print(
            f'| {r["case"]} | {wanted} | {outcome} | {r["method"]} | {figures} '
            f'| {r["seconds"]:.0f} | {r["refused"] or r.get("remark", "")} |'
        )


def main() -> None:
    """Run the cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('work', type=Path)
    parser.add_argument('image', type=Path)
    parser.add_argument('--cases', nargs='+', choices=CASES, default=list(CASES))
    parser.add_argument('--methods', default='auto', help='a method of --skull-strip-method')
    parser.add_argument('--table', action='store_true', help='print what is there')
    args = parser.parse_args()
    log = args.work / f'hostile-{args.image.name.split("_")[0]}.jsonl'
    found = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    if not args.table:
        head = load_head(args.work, args.image)
        fixed = starts.load_template(args.work)
        truth = align((head.data, head.mask, head.grid), fixed).affine
        for name in args.cases:
            if name in {record['case'] for record in found}:
                continue
            found.append(run(args.work, name, head, truth, args.methods))
            with log.open('a') as lines:
                lines.write(json.dumps(found[-1]) + '\n')
            print(json.dumps(found[-1]), flush=True)
    print_table([record for record in found if record['case'] in args.cases])


if __name__ == '__main__':
    main()

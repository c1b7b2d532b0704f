"""Our affine and those of antspyx, against known transforms.

    python benchmarks/affine_peers.py WORK --same HEAD [HEAD ...] --through HEAD [HEAD ...]

Each brain is moved by a known affine (up to 15 degrees, 20 mm, 10 % of size in each direction,
shears), scanned on another grid with a bias and noise, and registered: with itself (`--same`), or
both it and itself with the template at 2 mm (`--through`), where the two affines that are found
must differ by the known one. Errors are mean distances over the brain in mm. Every registration
has a process of its own with one thread; reading and imports are not in its time.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import affine as starts
import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from deepreg_wf.affine.align import Image, align
from deepreg_wf.spatial import VoxelGrid, load_image, resample, save_image

METHODS = ('ours', 'ours, classical', 'ours, icstn', 'Affine', 'AffineFast')

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

SEED = 42

Array = NDArray[np.float64]


def known_affine(number: int, centre: Array) -> Array:
    """Draw an affine about a centre."""
    rng = np.random.default_rng(number)
    move = np.eye(4)
    turn = Rotation.from_rotvec(np.deg2rad(rng.uniform(-15, 15, 3))).as_matrix()
    stretch = np.diag(rng.uniform(0.9, 1.1, 3)) + np.triu(rng.uniform(-0.05, 0.05, (3, 3)), 1)
    move[:3, :3] = turn @ stretch
    move[:3, 3] = centre - move[:3, :3] @ centre + rng.uniform(-20, 20, 3)
    return move


def scan(brain: Image, move: Array) -> tuple[NDArray[np.float32], VoxelGrid]:
    """Resample a transformed brain onto its own grid, with a bias field and noise."""
    data, mask, grid = brain
    there = VoxelGrid(grid.shape, move @ grid.affine)
    points = there.to_mm(np.argwhere(mask)[::20])
    spacing = max(grid.spacing)
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = points.min(axis=0) - 10
    shape = np.ceil((np.ptp(points, axis=0) + 20) / spacing).astype(int).tolist()
    target = VoxelGrid(shape, affine)
    top = np.percentile(data[mask], 99)
    seen, inside = (
        resample(part.astype(np.float32), there, target) for part in (data / top, mask)
    )
    bias = np.exp(0.2 * np.linspace(-1, 1, shape[1]))[:, np.newaxis]
    noise = 0.03 * np.random.default_rng(0).standard_normal(shape)
    return np.where(inside >= 0.5, seen * bias + noise, 0).astype(np.float32), target


def register(method: str, moving: Path, fixed: Path) -> dict[str, Any]:
    """Register two brains by one method, in this process."""
    find = _by_ants if method.startswith('Affine') else _by_us
    seconds, affine = find(method, moving, fixed)
    # Not of getrusage, which remembers the process that started this one.
    peak = re.search(r'VmHWM:\s*(\d+)', Path('/proc/self/status').read_text())[1]
    return {'affine': affine.tolist(), 'seconds': seconds, 'peak_mb': int(peak) / 1024}


def _by_us(method: str, moving: Path, fixed: Path) -> tuple[float, Array]:
    import torch  # noqa: F401  imports take no part

    brains = [(data, data != 0, grid) for data, grid in map(load_image, (moving, fixed))]
    ladder = method.removeprefix('ours').strip(', ') or 'auto'
    begin = time.process_time()
    found = align(brains[0], brains[1], method=ladder)
    return time.process_time() - begin, found.affine


def _by_ants(method: str, moving: Path, fixed: Path) -> tuple[float, Array]:
    import ants

    ants.config.set_ants_deterministic(False, SEED)
    target, source = (ants.image_read(str(path)) for path in (fixed, moving))
    begin = time.process_time()
    done = ants.registration(target, source, method, random_seed=SEED)
    seconds = time.process_time() - begin
    found = ants.read_transform(done['fwdtransforms'][0])
    centre, numbers = np.array(found.fixed_parameters), np.array(found.parameters)
    affine = np.eye(4)
    affine[:3, :3] = numbers[:9].reshape(3, 3)
    affine[:3, 3] = numbers[9:] + centre - affine[:3, :3] @ centre
    return seconds, LPS @ affine @ LPS


def in_process(method: str, moving: Path, fixed: Path) -> dict[str, Any]:
    """Register two brains in a new process."""
    one = {'OMP_NUM_THREADS': '1', 'ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS': '1'}
    command = [sys.executable, __file__, str(moving.parent), '--one', method, moving, fixed]
    done = subprocess.run(command, env=os.environ | one, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout.splitlines()[-1])


def compare(work: Path, head: Path, number: int, method: str, through: bool) -> dict[str, Any]:
    """Measure error, time and memory of a method on one brain."""
    folder = work / 'known'
    folder.mkdir(exist_ok=True)
    data, mask, grid = brain = starts.load_brain(work, head)
    centre = grid.to_mm(np.argwhere(mask).mean(axis=0))
    truth = known_affine(number, centre)
    paths = [folder / f'{name}.nii.gz' for name in ('still', 'moved', 'template')]
    save_image(paths[0], np.where(mask, data, 0), grid)
    save_image(paths[1], *scan(brain, truth))
    template, _, template_grid = starts.load_template(work)
    save_image(paths[2], template, template_grid)
    points = grid.to_mm(np.argwhere(mask)[::200])
    if not through:
        found = in_process(method, paths[1], paths[0])
        affine = np.array(found['affine'])
    else:
        found, other = (in_process(method, path, paths[2]) for path in (paths[1], paths[0]))
        affine = np.array(found['affine']) @ np.linalg.inv(other['affine'])
    apart = apply_affine(affine, points) - apply_affine(truth, points)
    return found | {'mm': float(np.linalg.norm(apart, axis=1).mean())}


def main() -> None:
    """Compare the methods and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('work', type=Path)
    parser.add_argument('--same', type=Path, nargs='*', default=[])
    parser.add_argument('--through', type=Path, nargs='*', default=[])
    parser.add_argument('--methods', nargs='+', choices=METHODS, default=METHODS)
    parser.add_argument('--one', nargs=3, help='a method, a moving and a fixed brain')
    args = parser.parse_args()
    if args.one:
        method, moving, fixed = args.one
        print(json.dumps(register(method, Path(moving), Path(fixed))))
        return
    for kind, heads in (('same', args.same), ('through', args.through)):
        found = defaultdict(list)
        for number, head in enumerate(heads):
            for method in args.methods:
                found[method].append(compare(args.work, head, number, method, kind == 'through'))
                print(kind, head.name, method, found[method][-1], file=sys.stderr, flush=True)
        if not heads:
            continue
        print(f'\n| {kind} | Error (mm) | Worst (mm) | CPU (s) | Ratio to Affine | Memory (MiB) |')
        print('|' + ' --- |' * 6)
        slow = np.median([record['seconds'] for record in found.get('Affine', [])] or [np.nan])
        for method, records in found.items():
            errors = [record['mm'] for record in records]
            seconds = np.median([record['seconds'] for record in records])
            print(
                f'| {method} | {np.mean(errors):.3f} | {max(errors):.3f} | {seconds:.1f} '
                f'| {seconds / slow:.2f} | {max(r["peak_mb"] for r in records):.0f} |'
            )


if __name__ == '__main__':
    main()

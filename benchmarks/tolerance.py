"""Differences between the derivatives of two runs, for example with one thread and with several.

deepreg_wf BIDS ONE participant -w W1 --omp-nthreads 1
deepreg_wf BIDS TWO participant -w W2 --omp-nthreads 2
python benchmarks/tolerance.py ONE TWO
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import nibabel as nb
import numpy as np

from deepreg_wf.spatial import load_transform

EVERY = 50
"""Of the voxels of the brain, those whose place is compared."""


def main() -> None:
    """Print a row for each file that differs by a byte."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('one', type=Path)
    parser.add_argument('two', type=Path)
    options = parser.parse_args()
    for path in sorted(options.one.rglob('anat/*')):
        other = options.two / path.relative_to(options.one)
        if path.suffix == '.json' or path.read_bytes() == other.read_bytes():
            continue
        for line in compare(path, other):
            print(f'{path.name}: {line}')


def compare(one: Path, two: Path) -> Iterator[str]:
    """Return the difference of two transforms or images."""
    if one.suffix == '.h5':
        points = brain_points(one)
        here, there = (load_transform(path).map_points(points) for path in (one, two))
        apart = np.linalg.norm(here - there, axis=1)
        yield f'{apart.mean():.1e} mm on average, {apart.max():.1e} mm at most'
        return
    first, second = (nb.load(path).get_fdata() for path in (one, two))
    apart, size = np.abs(first - second), np.abs(first).max()
    share = np.count_nonzero(apart) / apart.size
    yield f'{apart.max():.1e} at most, of {size:.3g}; {100 * share:.2g} % of the voxels differ'


def brain_points(transform: Path) -> np.ndarray:
    """Return points of the brain in the space that a transform maps from, (N, 3), RAS, mm."""
    stem, _, ways = transform.name.partition('_from-')
    target = ways.partition('_to-')[2].partition('_')[0]
    space = '' if target == 'T1w' else f'_space-{target}'
    mask = nb.load(transform.with_name(f'{stem}{space}_desc-brain_mask.nii.gz'))
    return nb.affines.apply_affine(mask.affine, np.argwhere(mask.get_fdata() > 0)[::EVERY])


if __name__ == '__main__':
    main()

"""Memory and time of the group level over cohorts of growing size.

    python benchmarks/group.py WORK --subjects 50 200 1000

A cohort has the files that a run leaves of each image, on one grid: `PROTOTYPES` images and as
many momenta, drawn with the power of the metric, stand under the names of all subjects as hard
links. `deepreg_wf ... group` then runs in a process of its own. Prints a table of its
largest resident memory and its time.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nb
import numpy as np
import torch

from deepreg_wf.lddmm import DEFAULT_METRIC, Metric
from deepreg_wf.qc.criteria import CRITERIA
from deepreg_wf.spatial import VoxelGrid, save_image, save_vector
from deepreg_wf.spatial.isotropic import resample_brain
from deepreg_wf.templates.locate import get_template

PROTOTYPES = 24
"""More than the components that the modes are made of."""

MEASURE = """
import json, sys, time
from pathlib import Path
from deepreg_wf.cli.main import main
began = time.time()
if main(sys.argv[1:]):
    sys.exit('some subjects were left out')
peak = Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]
print(json.dumps({'seconds': time.time() - began, 'cpu': time.process_time(), 'kb': int(peak)}))
"""

SPACE = 'MNI152NLin2009aSym'
SIZE = 0.008
"""Of the noise that momenta are made of: maps move by some millimetres, whatever the grid."""


def main() -> None:
    """Make each cohort, run the group level, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('work', type=Path, help='folder for the cohorts')
    parser.add_argument('--subjects', type=int, nargs='+', default=[50, 200, 1000])
    parser.add_argument('--spacing', type=float, default=4.0, help='of all images, in mm')
    args = parser.parse_args()
    prototypes = make_prototypes(args.work / 'prototypes', args.spacing)
    print(f'{args.spacing:g} mm\n')
    print('| Subjects | Peak memory (MiB) | Time (s) | CPU (s) | Page (MiB) |')
    print('| --- | --- | --- | --- | --- |')
    for count in args.subjects:
        output = args.work / f'group-{count}'
        shutil.rmtree(output, ignore_errors=True)
        for number in range(count):
            link_subject(output, f'sub-{number + 1:04d}', prototypes[number % PROTOTYPES])
        took = sum_up(output)
        page = (output / 'group.html').stat().st_size / 2**20
        row = [f'{took["kb"] / 1024:.0f}', f'{took["seconds"]:.0f}', f'{took["cpu"]:.0f}']
        print(f'| {count} | {" | ".join(row)} | {page:.1f} |', flush=True)
        shutil.rmtree(output)


def make_prototypes(folder: Path, spacing: float) -> list[Path]:
    """Write the derivatives of one image several times; return the folders."""
    template = get_template(SPACE, cache_dir=folder)
    image = nb.Nifti1Image.from_filename(template.t1w)
    data, own = np.asarray(image.dataobj, np.float32), VoxelGrid(image.shape, image.affine)
    grid = own.resampled(spacing)
    brain, mask = resample_brain(data, data > 0, own, grid)
    metric = Metric(grid.shape, grid.spacing)
    rng = np.random.default_rng(0)
    return [
        write_prototype(folder / str(number), brain, mask, metric, grid, rng)
        for number in range(PROTOTYPES)
    ]


def write_prototype(
    folder: Path,
    brain: np.ndarray,
    mask: np.ndarray,
    metric: Metric,
    grid: VoxelGrid,
    rng: np.random.Generator,
) -> Path:
    """Write a noisy brain, its mask, a log-Jacobian, a momentum and quality measures."""
    folder.mkdir(parents=True, exist_ok=True)
    noisy = np.where(mask, brain * rng.normal(1, 0.05, grid.shape), 0)
    noise = torch.from_numpy(
        rng.normal(0, SIZE / metric.voxel_volume**0.5, (3, *grid.shape)).astype(np.float32)
    )
    save_image(folder / 'desc-preproc_T1w.nii.gz', noisy, grid)
    save_image(folder / 'desc-brain_mask.nii.gz', mask, grid, np.uint8)
    save_image(folder / 'desc-logjacobian_T1w.nii.gz', rng.normal(0, 0.1, grid.shape), grid)
    momentum = metric.square_root.velocity(noise * torch.from_numpy(mask))
    save_vector(folder / 'desc-momentum_T1w.nii.gz', momentum.numpy(), grid)
    facts = {'Metric': DEFAULT_METRIC, 'Direction': 'template-to-subject'}
    (folder / 'desc-momentum_T1w.json').write_text(json.dumps(facts))
    figures = {criterion.key: float(rng.uniform(0, 1)) for criterion in CRITERIA}
    (folder / 'desc-registration_qc.json').write_text(json.dumps(figures))
    return folder


def link_subject(output: Path, name: str, prototype: Path) -> None:
    """Link the files of a prototype under the name of a subject."""
    anat = output / name / 'anat'
    anat.mkdir(parents=True)
    for path in prototype.iterdir():
        os.link(path, anat / f'{name}_space-{SPACE}_{path.name}')
    (output / f'{name}.html').touch()


def sum_up(output: Path) -> dict[str, float]:
    """Run the group level in a new process; return its time and memory."""
    done = subprocess.run(
        [sys.executable, '-c', MEASURE, output, output, 'group', '--nprocs', '1'],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == '__main__':
    main()

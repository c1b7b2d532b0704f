"""Registration through the template, of unaltered and of altered brains.

    python benchmarks/template.py DATASET WORK --methods affine predict+correct refine-5 lddmm

Each brain of `pairs.py` is registered with the MNI152 brain that nilearn bundles; its labels are
brought to the template, and the labels of every two brains are compared there: a method runs once
a brain. With --alterations brains are first made what other scanners and other people give (see
`alterations.py`); labels go through the same change of shape, if there is one. What has its line
in WORK/template.jsonl is not run again.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import nibabel as nb
import numpy as np
import pairs
import torch
from alterations import ALTERATIONS, Labelled
from measure import METHODS, mean_dice
from nibabel.processing import resample_from_to
from scipy import ndimage
from torch import Tensor

from deepreg_wf.lddmm import diagnostics, fields, normalise

Row = dict[str, Any]


def template_brain(work: Path, spacing: float) -> Tensor:
    """Return the template on the grid of the aligned brains, (X, Y, Z), in [0, 1]."""
    image = nb.load(work / 'aligned' / 'template.nii.gz')
    grid = nb.load(work / 'aligned' / f'grid-{spacing:g}mm.nii.gz')
    sharpness = pairs.SMOOTHING * spacing if spacing > pairs.NATIVE_MM else 0
    smooth = nb.Nifti1Image(ndimage.gaussian_filter(image.get_fdata(), sharpness), image.affine)
    resampled = resample_from_to(smooth, (grid.shape, grid.affine), order=1)
    return normalise(torch.from_numpy(resampled.get_fdata().astype(np.float32)))


def register(method: str, template: Tensor, brain: Labelled, spacing: float) -> tuple[Tensor, Row]:
    """Register the template with a brain.

    Returns
    -------
    labels : Tensor, shape (X, Y, Z), int64
        Of the brain, on the template.
    figures : dict
        Correlation in the brain of the template, least Jacobian determinant of both maps, times.
    """
    outcome = METHODS[method](template, brain.image, spacing)
    if outcome.inverse is None:
        raise SystemExit(f'{method}: gives no map to bring labels to the template')
    back = outcome.inverse
    labels = fields.interpolate(brain.labels.float().unsqueeze(0), back, mode='nearest')[0].long()
    warped = fields.interpolate(brain.image.unsqueeze(0), back)[0]
    inside = template > 0
    least = min(float(fields.jacobian_determinant(m).min()) for m in (outcome.displacement, back))
    return labels, {
        'correlation': diagnostics.correlation(warped[inside], template[inside]),
        'min_jacobian': least,
        'seconds': outcome.cost.seconds,
        'cpu_seconds': outcome.cost.cpu_seconds,
    }


def overlaps(labels: Sequence[Tensor]) -> list[float]:
    """Return the mean Dice of every pair of brains, over the labels that both have."""
    found = []
    for one, other in itertools.combinations(labels, 2):
        both = one.unique()[torch.isin(one.unique(), other.unique())]
        found.append(mean_dice(one, other, both[both > 0]))
    return found


def measure(
    method: str, alteration: str, work: Path, subjects: Sequence[str], spacing: float
) -> Row:
    """Register all brains, and score them against each other."""
    template = template_brain(work, spacing)
    labels, rows = [], []
    for number, subject in enumerate(subjects):
        brain = Labelled(
            pairs.load_image(work, subject, spacing), pairs.load_labels(work, subject, spacing)
        )
        generator = torch.Generator().manual_seed(number)
        altered = ALTERATIONS[alteration](brain, spacing, generator)
        found, figures = register(method, template, altered, spacing)
        labels.append(found)
        rows.append(figures)
    dice = overlaps(labels)
    return {
        'method': method,
        'alteration': alteration,
        'spacing': spacing,
        'brains': len(subjects),
        'dice': mean(dice),
        'dice_worst': min(dice),
        'correlation': mean(row['correlation'] for row in rows),
        'min_jacobian': min(row['min_jacobian'] for row in rows),
        'cpu_seconds': mean(row['cpu_seconds'] for row in rows),
    }


def table(rows: Sequence[Row], methods: Sequence[str], alterations: Sequence[str]) -> str:
    """Return a Markdown table of Dice and smallest Jacobian by alteration and method."""
    cells = {(row['method'], row['alteration']): row for row in rows}
    lines = [['Brains', *methods], ['---'] * (1 + len(methods))]
    for alteration in alterations:
        found = [cells.get((method, alteration)) for method in methods]
        texts = [f'{r["dice"]:.3f} ({r["min_jacobian"]:.2f})' if r else '–' for r in found]
        lines.append([alteration, *texts])
    plain = [cells.get((method, 'none')) for method in methods]
    lines.append(['CPU s a brain', *[f'{r["cpu_seconds"]:.1f}' if r else '–' for r in plain]])
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def _read(path: Path, spacing: float) -> list[Row]:
    lines = path.read_text().splitlines() if path.exists() else []
    return [row for row in map(json.loads, lines) if row['spacing'] == spacing]


def main() -> None:
    """Run the missing measurements, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('dataset', type=Path)
    parser.add_argument('work', type=Path)
    parser.add_argument('--methods', nargs='+', choices=METHODS, required=True)
    parser.add_argument('--alterations', nargs='+', choices=ALTERATIONS, default=['none'])
    parser.add_argument('--spacing', type=float, default=2.0, help='mm')
    args = parser.parse_args()
    subjects = pairs.prepare(args.dataset, args.work, [args.spacing])
    path = args.work / 'template.jsonl'
    done = {(row['method'], row['alteration']) for row in _read(path, args.spacing)}
    for alteration, method in itertools.product(args.alterations, args.methods):
        if (method, alteration) in done:
            continue
        row = measure(method, alteration, args.work, subjects, args.spacing)
        with path.open('a') as results:
            results.write(json.dumps(row) + '\n')
        print(f'{alteration}, {method}: Dice {row["dice"]:.3f}', flush=True)
    print(table(_read(path, args.spacing), args.methods, args.alterations))


if __name__ == '__main__':
    main()

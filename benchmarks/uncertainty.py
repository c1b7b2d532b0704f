"""Rank correlation and calibration of the stated uncertainty, where the true error is known.

    python benchmarks/uncertainty.py WORK --brains 6 --samples 20

The brain of the bundled template is moved by random geodesics of another metric than the one that
networks know (those of the demonstration), given a bias field and noise, and the brain as it
was is registered to it by prediction and correction. Prints, for each, the rank correlation of the
error and the uncertainty that is stated over the voxels of the brain, and a calibration table;
draws the calibration into WORK/uncertainty.svg.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import nibabel as nb
import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from deepreg_wf.checkpoints.locate import SHIPPED
from deepreg_wf.demo.true_transform import TrueTransform, draw_true_transform
from deepreg_wf.lddmm import Metric, fields, normalise, shoot
from deepreg_wf.quicksilver import (
    Checkpoint,
    correct,
    load_checkpoint,
    predict,
    sample_uncertainty,
)
from deepreg_wf.training.augmentation import augment

SIZES_MM = (1.5, 3.0)
"""Mean displacement in the brain, smallest and largest."""

TENTHS = 10


def template_at(spacing: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the brain of the bundled template and its voxel-to-RAS affine."""
    from nilearn.datasets import load_mni152_brain_mask, load_mni152_template

    head = load_mni152_template(resolution=spacing)
    mask = load_mni152_brain_mask(resolution=spacing)
    return head.get_fdata(dtype=np.float32) * (mask.get_fdata() > 0), head.affine


def evaluate(
    networks: dict[str, Checkpoint], image: Tensor, truth: TrueTransform, samples: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute uncertainty, registration error and identity error in mm, by voxel."""
    inverse, warp = (torch.from_numpy(u).float() for u in (truth.inverse_warp, truth.warp))
    moved = fields.interpolate(image[None], inverse)[0]
    fixed = normalise(augment(moved, torch.Generator().manual_seed(seed)))
    probabilistic = networks['probabilistic']
    metric = Metric(image.shape, truth.grid.spacing, **probabilistic.spec.metric)
    spread = sample_uncertainty(probabilistic, image, fixed, metric, samples=samples, seed=seed)
    momentum = predict(networks['prediction'], image, fixed, metric)
    momentum = correct(networks['correction'], momentum, image, fixed, metric)
    size = torch.tensor(truth.grid.spacing).view(3, 1, 1, 1)
    error = (size * (shoot(momentum, metric).phi - warp)).norm(dim=0)
    before = (size * warp).norm(dim=0)
    inside = image > 0
    return tuple(part[inside].numpy() for part in (spread, error, before))


def calibration(spread: np.ndarray, error: np.ndarray) -> list[tuple[float, float]]:
    """Compute mean uncertainty and root mean square error in each decile of the uncertainty."""
    order = np.argsort(spread)
    return [
        (float(spread[part].mean()), float(np.sqrt((error[part] ** 2).mean())))
        for part in np.array_split(order, TENTHS)
    ]


def draw(curve: list[tuple[float, float]], path: Path) -> None:
    """Draw the error against the uncertainty."""
    mpl.use('agg')
    figure, ax = plt.subplots(figsize=(4.5, 4), layout='constrained')
    stated, found = zip(*curve, strict=True)
    ax.plot(stated, found, 'o-')
    ax.axline((0, 0), slope=1, color='0.7', linestyle='--')
    ax.set(
        xlabel='uncertainty stated (mm), tenth by tenth',
        ylabel='root mean square error (mm)',
        xlim=(0, None),
        ylim=(0, None),
    )
    figure.savefig(path)


def main() -> None:
    """Register the synthetic brains, print the tables and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('work', type=Path)
    parser.add_argument('--brains', type=int, default=6)
    parser.add_argument('--samples', type=int, default=20)
    parser.add_argument('--weights', type=Path, default=SHIPPED, help='folder')
    args = parser.parse_args()
    roles = ('prediction', 'correction', 'probabilistic')
    networks = {role: load_checkpoint(args.weights / f'{role}.safetensors') for role in roles}
    data, affine = template_at(2)
    spreads, errors = [], []
    print('| Brain | Error before (mm) | Error after | Uncertainty | Spearman |')
    print('| --- | --- | --- | --- | --- |')
    for seed, size in enumerate(np.linspace(*SIZES_MM, args.brains)):
        truth = draw_true_transform(
            data > 0,
            affine,
            subject_affine=np.eye(4),
            mean_displacement=float(size),
            seed=100 + seed,
        )
        image = _onto(data, affine, truth)
        spread, error, before = evaluate(networks, image, truth, args.samples, seed)
        rank = spearmanr(spread, error).statistic
        print(
            f'| {seed + 1} | {before.mean():.2f} | {error.mean():.2f} | {spread.mean():.2f} '
            f'| {rank:.2f} |',
            flush=True,
        )
        spreads.append(spread)
        errors.append(error)
    curve = calibration(np.concatenate(spreads), np.concatenate(errors))
    print('\n| Uncertainty (mm), mean of a tenth | Root mean square error (mm) |\n| --- | --- |')
    for stated, found in curve:
        print(f'| {stated:.2f} | {found:.2f} |')
    print(
        f'\nSpearman over all: {spearmanr(np.concatenate(spreads), np.concatenate(errors))[0]:.2f}'
    )
    args.work.mkdir(parents=True, exist_ok=True)
    draw(curve, args.work / 'uncertainty.svg')


def _onto(data: np.ndarray, affine: np.ndarray, truth: TrueTransform) -> Tensor:
    """Return the template on the grid of a true transform, whose voxels are the same."""
    first = np.rint(nb.affines.apply_affine(np.linalg.inv(affine), truth.grid.affine[:3, 3]))
    image = np.zeros(truth.grid.shape, np.float32)
    low = np.maximum(first, 0).astype(int)
    high = np.minimum(first + truth.grid.shape, data.shape).astype(int)
    source = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    offset = (low - first).astype(int)
    target = tuple(slice(o, o + b - a) for o, a, b in zip(offset, low, high, strict=True))
    image[target] = data[source]
    return normalise(torch.from_numpy(image))


if __name__ == '__main__':
    main()

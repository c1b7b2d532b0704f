"""Measurement of one method on one pair, in a process of its own for its peak memory.

    python benchmarks/measure.py WORK METHOD SPACING MOVING FIXED

Appends a line of JSON to WORK/results.jsonl. The brains must have been aligned (`pairs.py`).
Threads are those of OMP_NUM_THREADS and ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS, which
`matching.py` sets, and which must be set before a library is loaded.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ours
import pairs
import peers
import torch
from outcome import Outcome
from torch import Tensor

from deepreg_wf.lddmm import diagnostics, fields

OURS: dict[str, Callable[[Tensor, Tensor, float], Outcome]] = {
    'predict': ours.register_predict,
    'predict+correct': ours.register_network,
    'refine-5': ours.register_refine_5,
    'refine-20': ours.register_refine_20,
    'lddmm': ours.register_lddmm,
    'geodesic': ours.register_geodesic,
    'geodesic-ssd': ours.register_geodesic_ssd,
    'geodesic-power1': ours.register_power1,
    'geodesic-power1-ssd': ours.register_power1_ssd,
}

METHODS: dict[str, Callable[[Tensor, Tensor, float], Outcome]] = {
    'syn': peers.register_syn,
    'synonly': peers.register_synonly,
    'greedy': peers.register_greedy,
    'greedy-svf': peers.register_greedy_svf,
    'affine': ours.register_affine,
    'original': ours.register_original,
    **OURS,
}

ON_DEVICE = ('affine', 'original', *OURS)
"""Methods that run where the tensors are; the others know only the CPU."""

VOXEL = (1.0, 1.0, 1.0)

MIN_AGREEMENT = 0.999
"""Least correlation of the image warped by us and by the method; less is a misread map."""


def measure(
    method: str, work: Path, spacing: float, moving: str, fixed: str, device: str
) -> dict[str, Any]:
    """Register a pair and score the result.

    Returns
    -------
    dict
        Written as JSON; the README says what each entry is.
    """
    source, target = (pairs.load_image(work, name, spacing) for name in (moving, fixed))
    outcome = METHODS[method](source.to(device), target.to(device), spacing)
    atlas, truth = (pairs.load_labels(work, name, spacing) for name in (moving, fixed))
    displacement = outcome.displacement.cpu()
    return {
        'method': method,
        'spacing': spacing,
        'moving': moving,
        'fixed': fixed,
        'threads': torch.get_num_threads(),
        'device': device,
        'version': outcome.version,
        **_score_labels(atlas, truth, displacement),
        **_score_map(displacement, outcome.inverse, truth > 0),
        **_score_inverse(displacement, outcome.inverse, target > 0),
        'energy_drift': outcome.energy_drift,
        'agreement': _agreement(source, displacement, outcome.warped),
        **asdict(outcome.cost),
    }


def mean_dice(a: Tensor, b: Tensor, labels: Tensor) -> float:
    """Return the mean Dice overlap over labels of two label images, int64, of one shape."""
    count = int(torch.stack([a.max(), b.max(), labels.max()]).max()) + 1
    of_a, of_b, of_both = (
        torch.bincount(part.flatten(), minlength=count)[labels].double()
        for part in (a, b, a[a == b])
    )
    return float((2 * of_both / (of_a + of_b)).mean())


def _score_labels(atlas: Tensor, truth: Tensor, displacement: Tensor) -> dict[str, Any]:
    """Compute Dice before and after, over the labels that both brains have on the grid."""
    both = torch.isin(atlas.unique(), truth.unique())
    labels = atlas.unique()[both]
    labels = labels[labels > 0]
    warped = fields.interpolate(atlas.float().unsqueeze(0), displacement, mode='nearest')[0]
    return {
        'labels': len(labels),
        'dice_affine': mean_dice(atlas, truth, labels),
        'dice': mean_dice(warped.long(), truth, labels),
    }


def _score_map(displacement: Tensor, inverse: Tensor | None, brain: Tensor) -> dict[str, Any]:
    """Compute the smallest Jacobian determinant and the share of folds."""
    determinant = fields.jacobian_determinant(displacement)
    scores: dict[str, Any] = {}
    for name, part in (('', determinant), ('_labels', determinant[brain])):
        scores[f'min_jacobian{name}'] = float(part.min())
        scores[f'nonpositive{name}'] = diagnostics.nonpositive_fraction(part)
    if inverse is not None:
        back = fields.jacobian_determinant(inverse.cpu())
        scores['min_jacobian_inverse'] = float(back.min())
        scores['nonpositive_inverse'] = diagnostics.nonpositive_fraction(back)
    return scores


def _score_inverse(
    displacement: Tensor, inverse: Tensor | None, brain: Tensor
) -> dict[str, float | None]:
    """Compute the inverse error ``|phi(phi^-1(x)) - x|`` in the fixed brain, in voxels."""
    if inverse is None:
        return {'inverse_median': None, 'inverse_p99': None}
    error = diagnostics.inverse_error(inverse.cpu(), displacement, VOXEL)[brain]
    median, p99 = error.quantile(torch.tensor([0.5, 0.99])).tolist()
    return {'inverse_median': median, 'inverse_p99': p99}


def _agreement(source: Tensor, displacement: Tensor, warped: Tensor | None) -> float | None:
    """Correlate our warped image with the one that the method itself warped."""
    if warped is None:
        return None
    ours_warped = fields.interpolate(source.unsqueeze(0), displacement)[0]
    agreement = diagnostics.correlation(ours_warped, warped)
    if agreement < MIN_AGREEMENT:
        raise ValueError(f'the map was misread: its image correlates by {agreement:.4f} only')
    return agreement


def main() -> None:
    """Measure one method on one pair."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('work', type=Path)
    parser.add_argument('method', choices=METHODS)
    parser.add_argument('spacing', type=float)
    parser.add_argument('moving')
    parser.add_argument('fixed')
    parser.add_argument('--device', default='cpu')
    args = parser.parse_args()
    result = measure(args.method, args.work, args.spacing, args.moving, args.fixed, args.device)
    with (args.work / 'results.jsonl').open('a') as results:
        results.write(json.dumps(result) + '\n')


if __name__ == '__main__':
    main()

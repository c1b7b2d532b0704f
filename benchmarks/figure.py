"""Draw overlap against the least Jacobian determinant and time, method by method.

python benchmarks/figure.py WORK FIGURE.svg --spacing 2 --pairs 1-2,2-1
"""

from __future__ import annotations

import argparse
from collections.abc import Collection
from pathlib import Path
from statistics import mean, median
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matching import pair_list, read_results


def draw(groups: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draw overlap against the smallest Jacobian determinant, and against CPU time."""
    mpl.use('agg')
    figure, panels = plt.subplots(1, 2, sharey=True, figsize=(9, 4), layout='constrained')
    for method, results in sorted(groups.items()):
        overlap = mean(r['dice'] for r in results)
        least = min(min(r['min_jacobian'], r.get('min_jacobian_inverse', 1)) for r in results)
        for panel, value in zip(
            panels, (least, median(r['cpu_seconds'] for r in results)), strict=True
        ):
            panel.plot(value, overlap, 'o')
            panel.annotate(method, (value, overlap), (5, 4), textcoords='offset points')
    panels[0].axvline(0, color='0.7')
    panels[0].set(xlabel='least Jacobian determinant of any pair', ylabel='mean Dice overlap')
    panels[1].set(xlabel='median CPU time (s)', xscale='log')
    for panel in panels:
        panel.margins(x=0.3, y=0.1)
    figure.savefig(path)


def by_method(
    work: Path,
    spacing: float,
    pairs: Collection[tuple[str, str]] | None = None,
    methods: Collection[str] | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """Return the results at a spacing by method, by default of all pairs and methods."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for run, result in read_results(work).items():
        if (
            run.spacing == spacing
            and (pairs is None or (run.moving, run.fixed) in pairs)
            and (methods is None or run.method in methods)
        ):
            groups.setdefault(run.method, []).append(result)
    return groups


def main() -> None:
    """Read the results and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('work', type=Path)
    parser.add_argument('figure', type=Path)
    parser.add_argument('--spacing', type=float, default=2.0)
    parser.add_argument('--pairs', type=pair_list, help='MOVING-FIXED,...; all if none')
    args = parser.parse_args()
    draw(by_method(args.work, args.spacing, args.pairs), args.figure)


if __name__ == '__main__':
    main()

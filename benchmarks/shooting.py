"""Time and memory of shooting, relative to the machine's bandwidth and to peer methods.

    python benchmarks/shooting.py [--spacing 1] [--threads 2] [--device cuda]
    python benchmarks/shooting.py --work WORK --pair 1-2 --peers synonly greedy

Both maps by ten RK4 steps, from a smooth random momentum. Peers register a
pair that `matching.py` aligned, in the same run. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

EXTENT = (193, 229, 193)
"""Millimetres of the grid: that of the template of most studies, MNI152NLin2009c, at 1 mm."""

STEPS = 10
LARGEST = 8.0
"""Largest initial velocity, in mm."""

REPEATS = 3
BYTES = 4


def floor_bytes(voxels: int, points: int, steps: int) -> int:
    """Return the number of bytes that any method of integration must move.

    The momentum is read and both maps are written once, three components each; each of the four
    stages of a step, there and back, reads momentum and map on the lattice and writes their rates.
    """
    ends = voxels * (3 + 6)
    stages = points * 2 * 4 * steps * (6 + 6)
    return BYTES * (ends + stages)


def measure(spacing: float, device: str) -> dict[str, Any]:
    """Shoot a few times in this process; return the median time."""
    import torch
    from outcome import Stopwatch

    from deepreg_wf.lddmm import shoot
    from deepreg_wf.lddmm.lattice import Lattice

    metric, momentum = _momentum(spacing, device)
    shoot(momentum, metric, steps=1)  # what is made at first use
    times = []
    for _ in range(REPEATS):
        with Stopwatch(device) as watch:
            geodesic = shoot(momentum, metric, steps=STEPS)
        times.append(watch.cost.seconds)
    points = Lattice.around(metric).metric.shape
    bandwidth = _bandwidth(device)
    floor = floor_bytes(momentum[0].numel(), torch.Size(points).numel(), STEPS) / bandwidth
    name = torch.cuda.get_device_name(device) if device != 'cpu' else 'cpu'
    peak = watch.cost.peak_mb if watch.cost.device_mb is None else watch.cost.device_mb
    return {
        'device': name,
        'threads': torch.get_num_threads(),
        'lattice': 'x'.join(map(str, points)),
        'seconds': median(times),
        'peak_mb': peak,
        'bandwidth': bandwidth / 1e9,
        'floor': floor,
        'displacement': float(geodesic.phi.norm(dim=0).max()) * spacing,
        'drift': geodesic.energy_drift,
    }


def _momentum(spacing: float, device: str) -> tuple[Any, Any]:
    """Return a metric and a momentum whose velocity is smooth noise."""
    import torch
    import torch.nn.functional as F

    from deepreg_wf.lddmm import DEFAULT_METRIC, Metric

    shape = [round(extent / spacing) for extent in EXTENT]
    metric = Metric(shape, [spacing] * 3, device=device, **DEFAULT_METRIC)
    noise = torch.randn(1, 3, 6, 7, 6, generator=torch.Generator().manual_seed(0))
    smooth = F.interpolate(noise.to(device), size=shape, mode='trilinear')[0]
    for axis, n in enumerate(shape, start=1):
        # Still at the border: what crosses it belongs to no image.
        window = torch.hann_window(n, periodic=False, device=device)
        smooth = smooth * window.view([n if a == axis else 1 for a in range(4)])
    velocity = metric.velocity(metric.momentum(smooth))
    return metric, metric.momentum(smooth * LARGEST / velocity.norm(dim=0).max())


def _bandwidth(device: str) -> float:
    """Return the bytes per second, read and written, of a copy larger than the caches."""
    import torch
    from outcome import Stopwatch

    source = torch.ones(2**28 // BYTES, device=device)
    target = torch.empty_like(source)
    best = float('inf')
    for _ in range(REPEATS):
        with Stopwatch(device) as watch:
            target.copy_(source)
        best = min(best, watch.cost.seconds)
    return 2 * BYTES * source.numel() / best


def _in_own_process(args: argparse.Namespace) -> dict[str, Any]:
    from matching import THREAD_VARIABLES

    command = [sys.executable, __file__, '--spacing', f'{args.spacing:g}', '--json']
    done = subprocess.run(
        [*command, '--device', args.device],
        env={**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(args.threads))},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _peers(args: argparse.Namespace) -> list[tuple[str, dict[str, Any]]]:
    from matching import Run, pair_list, read_results, run_all

    if not args.peers:
        return []
    ((moving, fixed),) = pair_list(args.pair)
    runs = [Run(method, args.spacing, moving, fixed, args.threads, 'cpu') for method in args.peers]
    run_all(runs, args.work, again=True)
    results = read_results(args.work)
    return [(run.method, results[run]) for run in runs if run in results]


def _table(own: dict[str, Any], peers: list[tuple[str, dict[str, Any]]]) -> str:
    cells: Callable[..., str] = lambda *row: f'| {" | ".join(row)} |'  # noqa: E731
    rows = [
        cells('Method', 'Time (s)', 'Ours / it', 'Memory (MiB)'),
        cells(*['---'] * 4),
        cells('shooting', f'{own["seconds"]:.2f}', '1', f'{own["peak_mb"]:.0f}'),
        cells(
            'bandwidth floor', f'{own["floor"]:.3f}', f'{own["seconds"] / own["floor"]:.1f}', '–'
        ),
    ]
    for name, peer in peers:
        ratio = own['seconds'] / peer['seconds']
        rows.append(
            cells(name, f'{peer["seconds"]:.1f}', f'{ratio:.3f}', f'{peer["peak_mb"]:.0f}')
        )
    return '\n'.join(rows)


def main() -> None:
    """Run the benchmark and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--spacing', type=float, default=1.0, help='mm')
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--work', type=Path, help='folder of aligned brains, for peers')
    parser.add_argument('--pair', help='MOVING-FIXED, for peers')
    parser.add_argument('--peers', nargs='*', default=[])
    parser.add_argument('--json', action='store_true', help='our own figures only, as JSON')
    args = parser.parse_args()
    if args.json:
        print(json.dumps(measure(args.spacing, args.device)))
        return
    own = _in_own_process(args)
    print(
        f'{own["device"]}, {own["threads"]} threads, {own["bandwidth"]:.1f} GB/s; '
        f'{args.spacing:g} mm, lattice {own["lattice"]}, {STEPS} steps there and back; '
        f'moves {own["displacement"]:.1f} mm, energy drift {own["drift"]:.1e}\n'
    )
    print(_table(own, _peers(args)))


if __name__ == '__main__':
    main()

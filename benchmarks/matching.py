"""Compare registration methods on pairs of labelled brains.

    python benchmarks/matching.py DATASET WORK --spacing 2 1 --methods syn lddmm --pairs 1-2,2-1

Every method runs on every pair in a process of its own and leaves a line in WORK/results.jsonl;
what has its line is not run again. At the end a table per spacing is printed, in Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from measure import METHODS, ON_DEVICE
from pairs import ordered_pairs, prepare
from tables import tables

THREAD_VARIABLES = (
    'ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS',
    'MKL_NUM_THREADS',
    'OMP_NUM_THREADS',
    'OPENBLAS_NUM_THREADS',
)


class Run(NamedTuple):
    """One method on one pair: what identifies a result."""

    method: str
    spacing: float
    moving: str
    fixed: str
    threads: int
    device: str


def read_results(work: Path) -> dict[Run, dict[str, Any]]:
    """Read the results so far; the last one of a repeated run."""
    path = work / 'results.jsonl'
    lines = path.read_text().splitlines() if path.exists() else []
    results = (json.loads(line) for line in lines)
    return {Run(*(result[key] for key in Run._fields)): result for result in results}


def run_all(runs: Iterable[Run], work: Path, *, again: bool) -> list[Run]:
    """Run everything that has no result yet; return the failures."""
    failed = []
    for run in runs:
        # Read each time: another process may be at work on the same list.
        if not again and run in read_results(work):
            continue
        if _run(run, work):
            result = read_results(work)[run]
            print(
                f'{run.spacing:g} mm {run.method} {run.moving}-{run.fixed}: '
                f'Dice {result["dice"]:.3f}, {result["seconds"]:.1f} s',
                flush=True,
            )
        else:
            failed.append(run)
    return failed


def _run(run: Run, work: Path) -> bool:
    script = Path(__file__).with_name('measure.py')
    what = [run.method, f'{run.spacing:g}', run.moving, run.fixed, '--device', run.device]
    done = subprocess.run(
        [sys.executable, str(script), str(work), *what],
        env={**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(run.threads))},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        print(f'{run} ended with status {done.returncode}:\n{done.stderr[-2000:]}', flush=True)
    return done.returncode == 0


def _runs(args: argparse.Namespace, subjects: Iterable[str]) -> list[Run]:
    chosen = args.pairs or ordered_pairs(subjects)
    return [
        Run(method, spacing, *pair, args.threads, args.device if method in ON_DEVICE else 'cpu')
        for spacing in args.spacing
        for method in args.methods
        for pair in chosen
    ]


def pair_list(text: str) -> list[tuple[str, str]]:
    """Parse MOVING-FIXED,... of the command line."""
    chosen = []
    for part in text.split(','):
        moving, separator, fixed = part.partition('-')
        if not (moving and separator and fixed):
            raise argparse.ArgumentTypeError(f'MOVING-FIXED expected, not {part!r}')
        chosen.append((moving, fixed))
    return chosen


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('dataset', type=Path, help='BIDS dataset of extracted brains with labels')
    parser.add_argument('work', type=Path, help='folder for aligned brains and results')
    parser.add_argument('--spacing', type=float, nargs='+', default=[2.0, 1.0], help='mm')
    parser.add_argument('--methods', nargs='+', choices=METHODS, default=list(METHODS))
    parser.add_argument(
        '--pairs', type=pair_list, help='MOVING-FIXED,...; all ordered pairs if none'
    )
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--device', default='cpu', help='of our own methods, as cuda')
    parser.add_argument('--again', action='store_true', help='also run what has a result')
    parser.add_argument('--table', action='store_true', help='only print the tables')
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Run the comparison and print its tables."""
    failed = []
    if not args.table:
        # ITK looks at this once, when it is loaded.
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(args.threads)))
        subjects = prepare(args.dataset, args.work, args.spacing)
        failed = run_all(_runs(args, subjects), args.work, again=args.again)
    print(tables(chosen(args.work, args).values()))
    if failed:
        raise SystemExit(f'{len(failed)} runs failed')


def chosen(work: Path, args: argparse.Namespace) -> dict[Run, dict[str, Any]]:
    """Select the results of the given methods, pairs and spacings."""
    return {
        run: result
        for run, result in read_results(work).items()
        if run.method in args.methods
        and run.spacing in args.spacing
        and (args.pairs is None or (run.moving, run.fixed) in args.pairs)
    }


if __name__ == '__main__':
    run(parse())

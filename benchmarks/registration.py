"""Comparison of our settings, from the affine to full optimisation, with peer methods.

    python benchmarks/registration.py DATASET WORK --pairs 1000-1001,1001-1000

The methods below, on the same pairs, in one run; a method is run once on each pair, in a process
of its own (see `matching.py`, which does it and whose options these are). Prints the table, and
draws accuracy against time into WORK/registration.svg.
"""

from __future__ import annotations

import sys
from pathlib import Path

import figure
import matching

METHODS = (
    'affine',
    'predict',
    'predict+correct',
    'refine-5',
    'refine-20',
    'lddmm',
    'syn',
    'greedy',
    'greedy-svf',
)


def main() -> None:
    """Run the comparison, print its table and draw it."""
    arguments = sys.argv[1:]
    if '--methods' not in arguments:
        arguments += ['--methods', *METHODS]
    if '--spacing' not in arguments:
        arguments += ['--spacing', '2']
    args = matching.parse(arguments)
    matching.run(args)
    for spacing in args.spacing:
        path = Path(args.work, f'registration-{spacing:g}mm.svg')
        figure.draw(figure.by_method(args.work, spacing, args.pairs, args.methods), path)
        print(f'Figure: {path}')


if __name__ == '__main__':
    main()

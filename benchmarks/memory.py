"""Peak memory of each step of a run, and the memory that its node requests from the scheduler.

    deepreg_wf DATASET OUT participant -w WORK
    python benchmarks/memory.py WORK

Every step that a run has left in its work folder is done once more, with the same inputs, in a
fresh process of its own; prints the largest resident memory of each, with what Python and the
libraries take. Steps of the same name, of other images or templates, are one line.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

REPEAT = """
import json, os, resource, sys
os.environ['NIPYPE_NO_ET'] = '1'
from nipype import config, logging
from nipype.utils.filemanip import loadpkl
logging.getLogger('nipype.interface').setLevel('ERROR')
node = loadpkl(sys.argv[1])
interface = node.interface
interface.inputs.trait_set(**loadpkl(sys.argv[2]))
interface.run(cwd=os.getcwd())
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
kind = type(interface).__name__
json.dump({'kind': kind, 'asked': node.mem_gb, 'threads': node.n_procs, 'peak': peak}, sys.stdout)
"""


def main() -> None:
    """Repeat all steps and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('work', type=Path, help='work folder of a finished run')
    work = parser.parse_args().work.absolute()
    largest: dict[str, dict[str, float]] = {}
    for path in sorted(work.rglob('_node.pklz')):
        record = repeat(path.parent)
        if record is None:
            continue
        name = f'{path.parent.parent.name}.{path.parent.name}'
        if name not in largest or record['peak'] > largest[name]['peak']:
            largest[name] = record
            print('.', end='', file=sys.stderr, flush=True)
    print('\n| step | asks for (GB) | takes (GB) | threads |\n|---|---|---|---|')
    for name, record in sorted(largest.items(), key=lambda item: -item[1]['peak']):
        print(f'| {name} | {record["asked"]:.2f} | {record["peak"]:.2f} | {record["threads"]} |')


def repeat(folder: Path) -> dict[str, float] | None:
    """Return the memory of one step; None if it cannot be repeated."""
    files = [str(folder / name) for name in ('_node.pklz', '_inputs.pklz')]
    with tempfile.TemporaryDirectory() as cwd:
        done = subprocess.run(
            [sys.executable, '-c', REPEAT, *files], cwd=cwd, capture_output=True, text=True
        )
    if done.returncode:
        print(f'{folder}: {done.stderr.strip().splitlines()[-1]}', file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == '__main__':
    main()

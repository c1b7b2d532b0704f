"""Images per hour and memory of the app over a small cohort, and of antspyx beside it.

    python benchmarks/cohort.py DATASET WORK --subjects 4 --nprocs 2

Three ways through the same images with the same processors, one after the other: `cohort` is one
call of the app for all, `single` one call for each with all processors for it, `syn` is antspyx as
its users call it: N4, then `SyN` with its defaults, an affine first, to the template at 1 mm, the
grid of the app's images. Nothing is kept from an earlier run. Memory is the highest sum of the
proportional set sizes (PSS) of all processes, looked at every two seconds: what processes share
counts once.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

EVERY = 2.0
"""Seconds from one look at the memory to the next; a look takes a tenth of a second."""

SYN = """
import sys
import ants
template, *images, out = sys.argv[1:]
fixed = ants.image_read(template)
for number, path in enumerate(images):
    image = ants.image_read(path)
    even = ants.n4_bias_field_correction(image, mask=ants.get_mask(image))
    found = ants.registration(fixed, even, 'SyN', outprefix=f'{out}/{number}-')
    ants.image_write(found['warpedmovout'], f'{out}/{number}.nii.gz')
"""


@dataclass(frozen=True)
class Cost:
    """Time and memory of one method over some images.

    Attributes
    ----------
    way : str
    subjects : int
    seconds, cpu_seconds : float
        Of all processes, to the last look at each.
    peak_mb : float
        MiB.
    """

    way: str
    subjects: int
    seconds: float
    cpu_seconds: float
    peak_mb: float


def main() -> None:
    """Run all methods and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('dataset', type=Path, help='BIDS dataset')
    parser.add_argument('work', type=Path, help='folder for results')
    parser.add_argument('--subjects', type=int, default=4)
    parser.add_argument('--syn-subjects', type=int, default=1, help='it takes minutes for each')
    parser.add_argument('--nprocs', type=int, default=2)
    parser.add_argument('--ways', nargs='+', choices=WAYS, default=list(WAYS))
    args = parser.parse_args()
    images = sorted(args.dataset.glob('sub-*/anat/*_T1w.nii.gz'))[: args.subjects]
    for way in args.ways:
        folder = args.work / way
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        cost = WAYS[way](args, images, folder)
        with (args.work / 'cohort.jsonl').open('a') as file:
            print(json.dumps(asdict(cost)), file=file)
    print(table(args.work / 'cohort.jsonl'))


def cohort(args: argparse.Namespace, images: Sequence[Path], folder: Path) -> Cost:
    """Process all images in one call."""
    return measure('cohort', len(images), [app(args, images, folder)], args.nprocs)


def single(args: argparse.Namespace, images: Sequence[Path], folder: Path) -> Cost:
    """Process each image in a call of its own."""
    calls = [app(args, [image], folder) for image in images]
    return measure('single', len(images), calls, args.nprocs)


def syn(args: argparse.Namespace, images: Sequence[Path], folder: Path) -> Cost:
    """Register all images by antspyx."""
    from deepreg_wf.templates.locate import get_template

    template = get_template('MNI152NLin2009aSym', cache_dir=folder).t1w
    chosen = images[: args.syn_subjects]
    call = [sys.executable, '-c', SYN, *map(str, (template, *chosen, folder))]
    return measure('syn', len(chosen), [call], args.nprocs)


WAYS = {'cohort': cohort, 'single': single, 'syn': syn}


def app(args: argparse.Namespace, images: Sequence[Path], folder: Path) -> list[str]:
    """Return the command line of a call of the app."""
    labels = sorted({image.name.split('_')[0].removeprefix('sub-') for image in images})
    words = [sys.executable, '-m', 'deepreg_wf', args.dataset, folder / 'out', 'participant']
    words += ['-w', folder / 'work', '--nprocs', args.nprocs, '--participant-label', *labels]
    return [str(word) for word in words]


def measure(way: str, subjects: int, calls: Sequence[Sequence[str]], threads: int) -> Cost:
    """Run commands one after the other and monitor their time and memory."""
    environment = os.environ | {'ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS': str(threads)}
    began, peak = time.time(), 0.0
    used: dict[tuple[int, float], float] = {}
    for call in calls:
        process = psutil.Popen(call, env=environment)
        while process.poll() is None:
            peak = max(peak, look(process, used))
            time.sleep(EVERY)
        if process.returncode:
            sys.exit(f'{way}: {subprocess.list2cmdline(call)} failed')
    return Cost(way, subjects, time.time() - began, sum(used.values()), peak)


def look(process: psutil.Process, used: dict[tuple[int, float], float]) -> float:
    """Return the memory of a process and its descendants in MiB; add their CPU time to `used`."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        for each in [process, *process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                total += each.memory_full_info().pss
                used[each.pid, each.create_time()] = sum(each.cpu_times()[:2])
    return total / 2**20


def table(path: Path) -> str:
    """Return the last result of each method as Markdown."""
    last = {}
    for line in path.read_text().splitlines():
        cost = Cost(**json.loads(line))
        last[cost.way] = cost
    hourly = {way: 3600 * cost.subjects / cost.seconds for way, cost in last.items()}
    lines = [
        '| Way | Subjects | Subjects per hour | / cohort | CPU (s) per subject | Peak PSS (MiB) |',
        '| --- | --- | --- | --- | --- | --- |',
    ]
    for way, cost in last.items():
        share = f'{hourly[way] / hourly["cohort"]:.2f}' if 'cohort' in hourly else '–'
        cells = (way, str(cost.subjects), f'{hourly[way]:.0f}', share)
        rest = (f'{cost.cpu_seconds / cost.subjects:.0f}', f'{cost.peak_mb:.0f}')
        lines.append(f'| {" | ".join((*cells, *rest))} |')
    return '\n'.join(lines)


if __name__ == '__main__':
    main()

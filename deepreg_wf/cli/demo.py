"""The demonstration: two synthetic subjects, the main job on them, and how near it comes."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deepreg_wf import __version__
from deepreg_wf.app.exit_status import ALL_DONE, SOME_FAILED
from deepreg_wf.cli.errors import handle_errors
from deepreg_wf.cli.main import main as run
from deepreg_wf.cli.parser import parse_settings
from deepreg_wf.errors import InputError

if TYPE_CHECKING:
    from deepreg_wf.demo import Subject, Truth

_CONTENT = {'bids', 'derivatives', 'truth', 'work'}
_EPILOG = 'Further options go to deepreg_wf as they are; see deepreg_wf --help.'


@handle_errors('deepreg_wf-demo', on_interrupt='interrupted; the same call continues from here.')
def main(argv: Sequence[str] | None = None) -> int:
    """Write the embedded dataset, register it and print the error of the result.

    Parameters
    ----------
    argv : sequence of str, optional
        Words after the name of the program; those of ``sys.argv`` by default.

    Returns
    -------
    int
        Exit status of the main job; 2 where the call or the output folder is unusable.
    """
    options, further = _parser().parse_known_args(argv)
    out = options.output_dir
    call = [str(out / 'bids'), str(out / 'derivatives'), 'participant']
    call += ['--work-dir', str(out / 'work'), *further]
    parse_settings(call)
    _prepare(out)
    truths = _write_dataset(out)
    print(f'Registering them: {shlex.join(["deepreg_wf", *call])}', flush=True)
    status = run(call)
    if status in (ALL_DONE, SOME_FAILED):
        _print_errors(out, truths)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='deepreg_wf-demo',
        description='Make two synthetic brains by known transforms, register them to the template '
        'and print how far the recovered transforms are from the known ones.',
        epilog=_EPILOG,
        allow_abbrev=False,
    )
    parser.add_argument('output_dir', type=Path, help='new folder, or that of an earlier demo')
    parser.add_argument('--version', action='version', version=f'%(prog)s {__version__}')
    return parser


def _prepare(out: Path) -> None:
    """Make the output folder, unless it is there with something else in it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        content = {path.name for path in out.iterdir()}
    except OSError as error:
        raise InputError(
            f'{out}: not a usable folder ({error.strerror}); give another.'
        ) from error
    if not content <= _CONTENT:
        raise InputError(f'{out}: the folder holds something else; give a new one.')


def _write_dataset(out: Path) -> dict[str, Truth]:
    from deepreg_wf.demo import SUBJECTS, write_demo_dataset

    print(f'Making {len(SUBJECTS)} synthetic subjects in {out / "bids"}', flush=True)
    truths = {}
    for subject, truth in write_demo_dataset(
        out / 'bids', out / 'truth', cache_dir=out / 'work' / 'templates'
    ):
        truths[subject.label] = truth
        print(_summary(subject, truth), flush=True)
    return truths


def _summary(subject: Subject, truth: Truth) -> str:
    size = ' x '.join(f'{h:g}' for h in subject.spacing)
    oblique = ', oblique' if any(subject.oblique) else ''
    return (
        f'  sub-{subject.label}: {subject.orientation}{oblique}, {size} mm; moved by an affine '
        f'and a geodesic of {truth.mean:.1f} mm on average in the brain, '
        f'{truth.largest:.1f} mm at most'
    )


def _print_errors(out: Path, truths: Mapping[str, Truth]) -> None:
    from deepreg_wf.demo import brain_points, registration_errors
    from deepreg_wf.templates.spaces import BUNDLED

    points = brain_points(out / 'work' / 'templates')
    print('\nDistance of brain points from their true place, mean / 95th percentile in mm')
    print(f'{"":8}{"header":>14}{"affine":>14}{"registration":>14}')
    for label, truth in truths.items():
        anat = out / 'derivatives' / f'sub-{label}' / 'anat'
        transform = anat / f'sub-{label}_from-T1w_to-{BUNDLED}_mode-image_xfm.h5'
        if not transform.is_file():
            print(f'sub-{label}  no transform: see {out / "derivatives"}')
            continue
        errors = registration_errors(transform, truth, points).values()
        print(f'sub-{label:4}' + ''.join(f'{e.mean:8.2f} /{e.p95:5.2f}' for e in errors))
    for label in truths:
        report = out / 'derivatives' / f'sub-{label}.html'
        if report.is_file():
            print(f'Report: {os.path.relpath(report)}')

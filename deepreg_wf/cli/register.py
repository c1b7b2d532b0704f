"""The command ``deepreg_wf-register``: two images in, transforms between them out."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from deepreg_wf import __version__
from deepreg_wf.app.inputs import make_writable
from deepreg_wf.app.summary import ALL_DONE, SOME_FAILED
from deepreg_wf.cli.main import INTERRUPTED, USAGE_ERROR
from deepreg_wf.cli.parser import Parser
from deepreg_wf.engine.execute import configure, execute
from deepreg_wf.engine.failures import Failure, first_of_each
from deepreg_wf.engine.logs import Streams, libraries_to
from deepreg_wf.engine.progress import Glossary, open_display
from deepreg_wf.engine.resources import plan_resources, share_processors
from deepreg_wf.errors import InputError
from deepreg_wf.settings import (
    MOMENTUM_METHODS,
    SKULL_STRIP_MODES,
    Anatomical,
    Execution,
    Registration,
)

_EPILOG = """\
Written: PREFIX and Warped.nii.gz (the moving image on the grid of the fixed one),
InverseWarped.nii.gz, Composite.h5 and InverseComposite.h5 (transforms of ITK), LogJacobian.nii.gz,
Momentum.nii.gz and Quality.json.

exit status: 0, done; 1, failed; 2, the call or an image cannot be used; 130, interrupted.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Register one image to another.

    Parameters
    ----------
    argv : sequence of str, optional
        Words after the name of the program; those of ``sys.argv`` by default.

    Returns
    -------
    int
        Exit status: 0, done; 1, failed; 2, the call or an image cannot be used; 130, interrupted.
    """
    options = build_parser().parse_args(argv)
    share_processors()
    try:
        return _register(options)
    except InputError as error:
        print(f'deepreg_wf-register: {error}', file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print('deepreg_wf-register: interrupted.', file=sys.stderr)
        return INTERRUPTED


def build_parser() -> Parser:
    """Build the parser of ``deepreg_wf-register``."""
    parser = Parser(
        prog='deepreg_wf-register',
        description='Register one T1-weighted image to another, without a dataset.',
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add('--moving', metavar='FILE', type=Path, required=True, help='image that is deformed')
    add('--fixed', metavar='FILE', type=Path, required=True, help='image that it is to match')
    add('--output-prefix', metavar='PREFIX', required=True, help='begins the names of the results')
    add('--moving-mask', metavar='FILE', type=Path, help='its brain (default: is found)')
    add('--fixed-mask', metavar='FILE', type=Path, help='its brain (default: is found)')
    add('--skull-strip', choices=SKULL_STRIP_MODES, default='auto', help='as for deepreg_wf')
    add(
        '--momentum', choices=MOMENTUM_METHODS, default='predict+correct', help='as for deepreg_wf'
    )
    add('--refine', metavar='N', type=int, default=5, help='as for deepreg_wf (default: 5)')
    add('--registration-resolution', metavar='MM', type=float, default=2.0, help='(default: 2)')
    add('--weights', metavar='DIR', type=Path, help='as for deepreg_wf')
    add('--device', metavar='{auto,cpu,cuda,cuda:N}', default='auto', help='(default: auto)')
    add('--nprocs', metavar='N', type=int, help='processors used at once (default: all)')
    add('-w', '--work-dir', metavar='DIR', type=Path, help='kept; by default a temporary folder')
    add('--version', action='version', version=f'%(prog)s {__version__}')
    return parser


def _register(options: argparse.Namespace) -> int:
    for file in (options.moving, options.fixed, options.moving_mask, options.fixed_mask):
        if file is not None and not file.is_file():
            raise InputError(f'{file}: no such file; check the path.')
    # A prefix that ends in a slash is a folder.
    make_writable(Path(f'{options.output_prefix}x').absolute().parent)
    with tempfile.TemporaryDirectory(prefix='deepreg_wf-') as temporary:
        work_dir = (options.work_dir or Path(temporary)).absolute()
        make_writable(work_dir)
        with libraries_to(work_dir / 'libraries.txt') as streams:
            failures = _run(options, work_dir, streams)
            for failure in first_of_each(failures):
                print(failure.sentence, file=streams.err)
            if not failures:
                print(f'Written: {options.output_prefix}*', file=streams.out)
                return ALL_DONE
    return USAGE_ERROR if all(f.is_input_error for f in failures) else SOME_FAILED


def _run(options: argparse.Namespace, work_dir: Path, streams: Streams) -> list[Failure]:
    execution = Execution(
        work_dir=work_dir,
        device=options.device,
        nprocs=options.nprocs,
        stop_on_first_crash=True,  # one image without the other is of no use
    )
    resources = plan_resources(execution, images=1)
    crash_dir = work_dir / 'crashes'
    for old in crash_dir.glob('crash-*'):
        old.unlink()
    configure(resources, execution, crash_dir=crash_dir)
    from deepreg_wf.workflows.pair import FIXED, MOVING, init_pair_wf

    absolute = {
        name: None if getattr(options, name) is None else getattr(options, name).absolute()
        for name in ('moving', 'fixed', 'moving_mask', 'fixed_mask')
    }
    workflow = init_pair_wf(
        **absolute,
        prefix=f'{Path(f"{options.output_prefix}x").absolute()}'[:-1],
        anatomical=Anatomical(skull_strip=options.skull_strip),
        registration=Registration(
            momentum=options.momentum,
            refine=options.refine,
            weights=options.weights,
            direction='subject-to-template',
            registration_resolution=options.registration_resolution,
        ),
        device=resources.device,
        omp_nthreads=resources.omp_nthreads,
    )
    workflow.base_dir = str(work_dir)
    names = {MOVING: options.moving.name, FIXED: options.fixed.name}
    glossary = Glossary.of(workflow, names)
    with open_display(streams, glossary, plain=False) as display:
        return execute(
            workflow,
            resources=resources,
            display=display,
            glossary=glossary,
            crash_dirs=[crash_dir],
        )

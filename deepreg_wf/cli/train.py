"""The command ``deepreg_wf-train``: from a cohort to trained networks."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from deepreg_wf import __version__
from deepreg_wf.app.exit_status import ALL_DONE
from deepreg_wf.cli.errors import handle_errors
from deepreg_wf.cli.parser import Parser
from deepreg_wf.engine.resources import available_processors, resolve_device, share_processors
from deepreg_wf.errors import InputError
from deepreg_wf.settings import DEFAULT_SPACE

if TYPE_CHECKING:
    from deepreg_wf.training import Cohort, TrainingSettings

COHORT_FILE = 'cohort.safetensors'

AFFINE_STEPS = 8_000
"""Half an hour of one core."""

_HELP = {
    'features': 'channels f of the first layer of the networks',
    'spacing': 'size in mm of the blocks that the networks see',
    'detail': 'voxels in mm that correction sees the gradient of the energy at',
    'rounds': 'how often correction is trained on where it has led to',
    'repeats': 'how often it is applied in the end',
    'prediction_brains': 'brains that the prediction network imitates teachers on',
    'prediction_pairs': 'pairs that it then registers end to end',
    'correction_brains': 'the same of the correction network; 0: none is trained',
    'correction_pairs': 'the same of the correction network',
    'probabilistic_brains': 'the same of the probabilistic network; 0: none is trained',
    'between': 'matched pairs of two subjects, beside those with the template',
    'geodesics': 'random known geodesics',
    'variants': 'how many times each pair is shown, with other contrast, bias field and noise',
    'rate': 'largest learning rate',
    'batch': 'brains a step',
    'seed': 'of all that is random',
}
_EPILOG = """\
The same call again goes on where the last one ended. What a folder holds of an earlier stage
(cohort.safetensors, teachers, states of the networks) is not made again; a plan that differs
starts its network anew. Once there is a cohort.safetensors, torch, numpy and safetensors are all
that has to be installed, so that it can be trained on another machine.
"""


@handle_errors('deepreg_wf-train', on_interrupt='interrupted; the same call continues from here.')
def main(argv: Sequence[str] | None = None) -> int:
    """Train networks on a cohort.

    Parameters
    ----------
    argv : sequence of str, optional
        Words after the name of the program; those of ``sys.argv`` by default.

    Returns
    -------
    int
        0, trained; 2, the call or the cohort is unusable; 130, interrupted.
    """
    options = build_parser().parse_args(argv)
    share_processors()
    device = resolve_device(options.device)
    cohort = _find_cohort(options, device)
    _train(options, cohort, device)
    return ALL_DONE


def build_parser() -> Parser:
    """Build the parser of ``deepreg_wf-train``."""
    parser = Parser(
        prog='deepreg_wf-train',
        description='Train the networks that predict momenta on a cohort of brains.',
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        'cohort', type=Path, help='BIDS dataset, or the cohort.safetensors made of one'
    )
    parser.add_argument('output_dir', type=Path, help='folder of the networks; made if missing')
    parser.add_argument('--version', action='version', version=f'%(prog)s {__version__}')
    _add_cohort(parser)
    _add_training(parser)
    group = parser.add_argument_group('resources')
    group.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    group.add_argument(
        '--nprocs', metavar='N', type=int, help='processors in use at once (default: all)'
    )
    return parser


def _add_cohort(parser: Parser) -> None:
    group = parser.add_argument_group('cohort')
    group.add_argument('--participant-label', nargs='+', metavar='LABEL', default=())
    group.add_argument(
        '--validation-label',
        nargs='+',
        metavar='LABEL',
        help='participants to validate with, never trained on (default: every sixth)',
    )
    group.add_argument(
        '--template', metavar='SPACE_OR_PATH', default=DEFAULT_SPACE, help='what to align with'
    )
    group.add_argument(
        '--resolution', metavar='MM', type=float, default=2.0, help='voxels of the aligned brains'
    )
    group.add_argument('--licence', default='', help='of the networks, for their model card')


def _add_training(parser: Parser) -> None:
    group = parser.add_argument_group('training')
    for name, text in _HELP.items():
        group.add_argument(
            f'--{name.replace("_", "-")}',
            metavar='N',
            type=float if name in ('spacing', 'detail', 'rate') else int,
            help=text,
        )
    group.add_argument(
        '--affine-steps',
        metavar='N',
        type=int,
        default=AFFINE_STEPS,
        help='of the network that aligns brains, eight brains each; 0: none is trained '
        '(default: %(default)s)',
    )
    group.add_argument(
        '--hints',
        action=argparse.BooleanOptionalAction,
        help='show the networks what an optimiser would see (default)',
    )


def _find_cohort(options: argparse.Namespace, device: str) -> Cohort:
    """Read the cohort that the call names, or make it of a dataset."""
    from deepreg_wf.training import CohortError, load_cohort

    path = options.cohort
    if path.is_dir():
        path = options.output_dir / COHORT_FILE
        if not path.exists():
            from deepreg_wf.app.cohort import make_cohort

            make_cohort(options, path, device)
    try:
        return load_cohort(path)
    except CohortError as error:
        raise InputError(f'{error}.') from error


def _train(options: argparse.Namespace, cohort: Cohort, device: str) -> None:
    import torch

    from deepreg_wf.reports.training import draw_training
    from deepreg_wf.training import train
    from deepreg_wf.training.localisation import train_affine

    torch.set_num_threads(options.nprocs or available_processors())
    settings = _settings(options)

    def say(line: str) -> None:
        print(f'{time.strftime("%H:%M:%S")} {line}', flush=True)

    train(
        cohort,
        options.output_dir,
        settings,
        device=device,
        licence=options.licence,
        say=say,
    )
    picture = draw_training(options.output_dir)
    if options.affine_steps:
        train_affine(
            cohort,
            options.output_dir,
            steps=options.affine_steps,
            seed=settings.seed,
            device=device,
            licence=options.licence,
            say=say,
        )
    print(f'Networks: {options.output_dir}; how it went: {picture or "README.md"}')


def _settings(options: argparse.Namespace) -> TrainingSettings:
    from deepreg_wf.training import TrainingSettings

    given = {
        field.name: getattr(options, field.name)
        for field in fields(TrainingSettings)
        if getattr(options, field.name) is not None
    }
    return TrainingSettings(**given)

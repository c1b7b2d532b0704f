"""Command ``deepreg_wf-train``: train the networks on a cohort."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, NamedTuple

from deepreg_wf import __version__
from deepreg_wf.app.exit_status import ALL_DONE
from deepreg_wf.cli.errors import handle_errors
from deepreg_wf.cli.parser import Parser
from deepreg_wf.cli.values import (
    integer_from,
    nonempty,
    nonempty_path,
    participant_label,
    positive_integer,
    positive_number,
)
from deepreg_wf.engine.resources import (
    available_processors,
    limit_thread_spinning,
    resolve_device,
)
from deepreg_wf.settings import DEFAULT_SPACE

if TYPE_CHECKING:
    from deepreg_wf.training import Cohort, TrainingSettings

COHORT_FILE = 'cohort.safetensors'
"""Name of the cohort in the output folder."""

AFFINE_STEPS = 8_000
"""Default steps of the affine network: half an hour on one core."""


class _Option(NamedTuple):
    """Command-line option of a field of `TrainingSettings`."""

    field: str
    type: Callable[[str], float]
    help: str


_OPTIONS = {
    '--features': _Option(
        'features', positive_integer, 'channels f of the first layer of the networks'
    ),
    '--spacing': _Option(
        'spacing', positive_number, 'spacing in mm of the coarse grid on which the networks work'
    ),
    '--detail': _Option(
        'energy_spacing',
        positive_number,
        'voxel size in mm at which the energy gradient is computed',
    ),
    '--rounds': _Option(
        'rounds',
        positive_integer,
        'rounds of the correction training, each on the results of the last one',
    ),
    '--repeats': _Option(
        'n_iterations', positive_integer, 'updates by the correction network in use'
    ),
    '--prediction-brains': _Option(
        'prediction_brains',
        integer_from(0),
        'examples of the supervised training of the prediction network',
    ),
    '--prediction-pairs': _Option(
        'prediction_pairs', integer_from(0), 'pairs of the end-to-end training that follows'
    ),
    '--correction-brains': _Option(
        'correction_brains',
        integer_from(0),
        'examples of the correction network; 0: do not train it',
    ),
    '--correction-pairs': _Option(
        'correction_pairs', integer_from(0), 'end-to-end pairs of the correction network'
    ),
    '--probabilistic-brains': _Option(
        'probabilistic_brains',
        integer_from(0),
        'examples of the probabilistic network; 0: do not train it',
    ),
    '--between': _Option(
        'n_between',
        integer_from(0),
        'matched pairs of two subjects, in addition to those with the template',
    ),
    '--geodesics': _Option(
        'n_geodesics', integer_from(0), 'synthetic pairs from random geodesics'
    ),
    '--variants': _Option(
        'n_variants',
        integer_from(0),
        'copies of each pair with other contrast, bias field and noise',
    ),
    '--rate': _Option('learning_rate', positive_number, 'largest learning rate'),
    '--batch': _Option('batch_size', positive_integer, 'brains in a step'),
    '--seed': _Option('seed', integer_from(0), 'seed of all random numbers'),
}
"""Options of the training settings; one that is not given leaves the default of its field."""

_EPILOG = """\
The same call resumes an interrupted training. Results of an earlier call in the output folder
(cohort.safetensors, teachers, states of the networks) are reused; a network whose schedule has
changed is trained anew. Training from a cohort.safetensors needs no other packages than torch,
numpy and safetensors, so that it can be done on another machine.
"""


@handle_errors('deepreg_wf-train', on_interrupt='interrupted; the same call continues from here.')
def main(argv: Sequence[str] | None = None) -> int:
    """Train networks on a cohort.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments after the name of the program; those of ``sys.argv`` by default.

    Returns
    -------
    int
        0, trained; 2, the call or the cohort is unusable; 130, interrupted.
    """
    options = build_parser().parse_args(argv)
    limit_thread_spinning()
    device = resolve_device(options.device)
    cohort = _find_cohort(options, device)
    _train(options, cohort, device)
    return ALL_DONE


def build_parser() -> Parser:
    """Build the parser of ``deepreg_wf-train``.

    Returns
    -------
    Parser
    """
    parser = Parser(
        prog='deepreg_wf-train',
        description='Train the networks that predict momenta on a cohort of brains.',
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        'cohort', type=nonempty_path, help='BIDS dataset, or the cohort.safetensors made from one'
    )
    parser.add_argument(
        'output_dir', type=nonempty_path, help='folder of the networks; created if missing'
    )
    parser.add_argument('--version', action='version', version=f'%(prog)s {__version__}')
    _add_cohort(parser)
    _add_training(parser)
    group = parser.add_argument_group('resources')
    group.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    group.add_argument(
        '--nprocs',
        metavar='N',
        type=positive_integer,
        help='processors in use at once (default: all)',
    )
    return parser


def _add_cohort(parser: Parser) -> None:
    group = parser.add_argument_group('cohort')
    group.add_argument(
        '--participant-label',
        nargs='+',
        metavar='LABEL',
        type=participant_label,
        default=(),
        help='participants to use (default: all)',
    )
    group.add_argument(
        '--validation-label',
        nargs='+',
        metavar='LABEL',
        type=participant_label,
        help='participants to validate with, never trained on (default: every sixth)',
    )
    group.add_argument(
        '--template',
        metavar='SPACE_OR_PATH',
        type=nonempty,
        default=DEFAULT_SPACE,
        help='template to align the brains with',
    )
    group.add_argument(
        '--resolution',
        metavar='MM',
        type=positive_number,
        default=2.0,
        help='voxel size of the aligned brains',
    )
    group.add_argument('--licence', default='', help='licence of the networks, for the model card')


def _add_training(parser: Parser) -> None:
    group = parser.add_argument_group('training')
    for name, option in _OPTIONS.items():
        group.add_argument(
            name, dest=option.field, metavar='N', type=option.type, help=option.help
        )
    group.add_argument(
        '--affine-steps',
        metavar='N',
        type=integer_from(0),
        default=AFFINE_STEPS,
        help='steps of eight brains of the network that aligns brains; 0: do not train it '
        '(default: %(default)s)',
    )
    group.add_argument(
        '--hints',
        dest='gradient_channels',
        action=argparse.BooleanOptionalAction,
        help='give the energy gradient to the networks (default)',
    )


def _find_cohort(options: argparse.Namespace, device: str) -> Cohort:
    """Read the cohort of the call, or make it from a dataset."""
    from deepreg_wf.training import load_cohort

    path = options.cohort
    if path.is_dir():
        path = options.output_dir / COHORT_FILE
        if not path.exists():
            from deepreg_wf.app.cohort import CohortSettings, make_cohort

            settings = CohortSettings(
                bids_dir=options.cohort,
                participant_label=tuple(options.participant_label),
                validation_label=tuple(options.validation_label or ()),
                template=options.template,
                resolution=options.resolution,
                device=device,
                nprocs=options.nprocs,
            )
            make_cohort(settings, path)
    return load_cohort(path)


def _train(options: argparse.Namespace, cohort: Cohort, device: str) -> None:
    import torch

    from deepreg_wf.reports.training import draw_training
    from deepreg_wf.training import train
    from deepreg_wf.training.localisation import train_affine

    torch.set_num_threads(options.nprocs or available_processors())
    settings = _training_settings(options)

    def log(line: str) -> None:
        print(f'{time.strftime("%H:%M:%S")} {line}', flush=True)

    train(
        cohort,
        options.output_dir,
        settings,
        device=device,
        licence=options.licence,
        log=log,
    )
    figure = draw_training(options.output_dir)
    if options.affine_steps:
        train_affine(
            cohort,
            options.output_dir,
            steps=options.affine_steps,
            seed=settings.seed,
            device=device,
            licence=options.licence,
            log=log,
        )
    summary = figure or options.output_dir / 'README.md'
    print(f'The networks are in {options.output_dir}; {summary} summarises the training.')


def _training_settings(options: argparse.Namespace) -> TrainingSettings:
    from deepreg_wf.training import TrainingSettings

    given = {
        field.name: getattr(options, field.name)
        for field in fields(TrainingSettings)
        if getattr(options, field.name) is not None
    }
    return TrainingSettings(**given)

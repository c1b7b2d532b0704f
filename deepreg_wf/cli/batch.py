"""The command ``deepreg_wf-batch``: a cohort as an array of jobs of SLURM."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence

from deepreg_wf import __version__
from deepreg_wf.app.batch.resources import CPUS, MINUTES
from deepreg_wf.app.batch.run import BatchOptions, print_status, run_batch
from deepreg_wf.app.batch.script import ScriptOptions
from deepreg_wf.cli.errors import handle_errors
from deepreg_wf.cli.parser import Parser, parse_settings
from deepreg_wf.cli.values import gpus, minutes, nonempty_path, positive_integer

_EPILOG = f"""\
All other options are those of deepreg_wf and go to each task. A task requests --nprocs processors
(default: {CPUS}) and --mem-mb MiB of memory, and has a folder of its own in --work-dir.

exit status: 0; with --status 1 if participants have failed; 2, the call cannot be used; 130,
interrupted.
"""


@handle_errors('deepreg_wf-batch')
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments after the program name; those of this process by default.

    Returns
    -------
    int
        Exit status.
    """
    options, further = build_parser().parse_known_args(argv)
    settings = parse_settings(
        [str(options.bids_dir), str(options.output_dir), 'participant', *further]
    )
    if options.status:
        return print_status(settings)
    return run_batch(
        settings,
        BatchOptions(
            script=ScriptOptions(
                command=options.command,
                setup=tuple(options.setup),
                sbatch_options=tuple(options.scheduler_option),
                max_running=options.at_once,
            ),
            submit=options.submit,
            resume=options.resume,
            group=options.group,
            minutes=options.time,
            gpus=options.gpus or '',
        ),
    )


def build_parser() -> Parser:
    """Build the parser of the options that ``deepreg_wf`` does not have."""
    parser = Parser(
        prog='deepreg_wf-batch',
        usage='%(prog)s bids_dir output_dir [options] [options of deepreg_wf]',
        description='Write an array of SLURM jobs, one participant per task, submit it, and '
        'report the state of the cohort.',
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument('bids_dir', type=nonempty_path, help='root of the BIDS dataset')
    parser.add_argument('output_dir', type=nonempty_path, help='folder of the derivatives')
    parser.add_argument('--version', action='version', version=f'%(prog)s {__version__}')
    modes = parser.add_argument_group('action').add_mutually_exclusive_group()
    modes.add_argument(
        '--submit', action='store_true', help='submit the jobs (default: only write them)'
    )
    modes.add_argument(
        '--status', action='store_true', help='write nothing; print the state of the cohort'
    )
    group = parser.add_argument_group('participants')
    group.add_argument(
        '--resume',
        action='store_true',
        help='leave out participants that are done, running or waiting',
    )
    group.add_argument(
        '--group',
        action='store_true',
        help='run the group level when all tasks have ended',
    )
    _add_jobs(parser)
    return parser


def _add_jobs(parser: Parser) -> None:
    group = parser.add_argument_group('jobs')
    group.add_argument(
        '--time',
        metavar='MINUTES|H:MM:SS',
        type=minutes,
        help=f'time limit of a task (default: {MINUTES} minutes)',
    )
    group.add_argument(
        '--gpus',
        metavar='[TYPE:]N',
        type=gpus,
        help='GPUs of a task (default: none, unless --device is cuda)',
    )
    group.add_argument(
        '--at-once',
        metavar='N',
        type=positive_integer,
        help='tasks that may run at the same time (default: no limit)',
    )
    group.add_argument(
        '--scheduler-option',
        metavar='OPTION',
        action='append',
        default=[],
        help='another option for sbatch, such as --scheduler-option=--partition=long; can be '
        'repeated',
    )
    group.add_argument(
        '--setup',
        metavar='LINE',
        action='append',
        default=[],
        help='line of the shell to run first, such as "module load apptainer"; can be repeated',
    )
    group.add_argument(
        '--command',
        metavar='LINE',
        default=shlex.join([sys.executable, '-m', 'deepreg_wf']),
        help='command that runs deepreg_wf, such as a container (default: this installation)',
    )

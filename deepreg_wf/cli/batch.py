"""Read the words of ``deepreg_wf-batch`` and do what they ask."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from deepreg_wf import __version__
from deepreg_wf.app.batch.resources import Needs, estimate_needs
from deepreg_wf.app.batch.schedulers import SCHEDULERS, submission, submit
from deepreg_wf.app.batch.script import Wishes, new_stamp, write_batches, write_group
from deepreg_wf.app.batch.state import cohort_states, summary
from deepreg_wf.app.inputs import check_folders, make_writable, participants_with_image
from deepreg_wf.app.summary import ALL_DONE, SOME_FAILED, UNUSABLE
from deepreg_wf.cli.main import give_up
from deepreg_wf.cli.parser import Parser, parse_settings
from deepreg_wf.errors import InputError
from deepreg_wf.settings import Settings

_EPILOG = """\
All other options are those of deepreg_wf and go to each task: --nprocs (2 by default) and --mem-mb
are what a task asks for, --participant-label chooses, --work-dir gets a folder for each.
exit status: 0; with --status 1 if some failed; 2, the call is unusable.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv
        Words after the name of the program; those of this process by default.

    Returns
    -------
    int
        Exit status.

    """
    options, words = build_parser().parse_known_args(argv)
    try:
        return _run(options, words)
    except InputError as error:
        print(f'deepreg_wf-batch: {error}', file=sys.stderr)
    except OSError as error:
        return give_up('deepreg_wf-batch', error)
    return UNUSABLE


def build_parser() -> Parser:
    """Build the parser of the options that `deepreg_wf` does not have."""
    parser = Parser(
        prog='deepreg_wf-batch',
        usage='%(prog)s bids_dir output_dir [options] [options of deepreg_wf]',
        description='Write an array of jobs, one participant a task, submit it, and tell how far '
        'it is.',
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument('bids_dir', type=Path, help='root of the BIDS dataset')
    parser.add_argument('output_dir', type=Path, help='folder of the derivatives')
    parser.add_argument('--version', action='version', version=f'%(prog)s {__version__}')
    modes = parser.add_argument_group('what to do').add_mutually_exclusive_group()
    modes.add_argument(
        '--submit', action='store_true', help='submit the array; without it only write it'
    )
    modes.add_argument(
        '--status', action='store_true', help='write nothing, and tell how far the cohort is'
    )
    group = parser.add_argument_group('which participants')
    group.add_argument(
        '--resume',
        action='store_true',
        help='leave out those that are done, running or waiting',
    )
    group.add_argument(
        '--group',
        action='store_true',
        help='have the group level run once all tasks have ended',
    )
    _add_jobs(parser)
    return parser


def _add_jobs(parser: Parser) -> None:
    group = parser.add_argument_group('jobs')
    group.add_argument('--scheduler', choices=SCHEDULERS, default='slurm', help='(default: slurm)')
    group.add_argument(
        '--time',
        metavar='MINUTES|H:MM:SS',
        type=_minutes,
        help='time of a task (default: from what others took)',
    )
    group.add_argument(
        '--gpus',
        metavar='[TYPE:]N',
        default='',
        help='GPUs of a task; without them it computes on processors',
    )
    group.add_argument(
        '--at-once', metavar='N', type=_count, help='tasks that may run at the same time'
    )
    group.add_argument(
        '--scheduler-option',
        metavar='WORD',
        action='append',
        default=[],
        help='more for the scheduler, such as --scheduler-option=--partition=long; repeatable',
    )
    group.add_argument(
        '--setup',
        metavar='LINE',
        action='append',
        default=[],
        help='line of the shell to run first, such as "module load apptainer"; repeatable',
    )
    group.add_argument(
        '--command',
        metavar='LINE',
        default=shlex.join([sys.executable, '-m', 'deepreg_wf']),
        help='what to call deepreg_wf by, such as a container (default: this installation)',
    )


def _run(options: argparse.Namespace, words: Sequence[str]) -> int:
    settings = parse_settings(
        [str(options.bids_dir), str(options.output_dir), 'participant', *words]
    )
    check_folders(settings)
    labels, without = participants_with_image(settings.selection)
    states = cohort_states(settings.output.output_dir, labels, options.scheduler)
    if options.status:
        print('\n'.join(summary(states)))
        return SOME_FAILED if any(s.name == 'failed' for s in states.values()) else ALL_DONE
    queued = [label for label in labels if states[label].name in ('running', 'waiting')]
    if options.resume:
        labels = [label for label in labels if states[label].name in ('failed', 'to do')]
    elif queued:
        raise InputError(
            f'{settings.output.output_dir}: {len(queued)} tasks for it are in the queue; '
            'wait for their end, cancel them, or leave them to it with --resume.'
        )
    if without:
        print(f'Without an image: {", ".join(without)}')
    if not labels:
        print('All are done, or in the queue.')
        return ALL_DONE
    _write(options, labels, settings)
    return ALL_DONE


def _write(options: argparse.Namespace, labels: Sequence[str], settings: Settings) -> None:
    """Write the jobs; submit them, or tell how to."""
    output_dir, device = settings.output.output_dir, settings.execution.device
    gpus = options.gpus or ('1' if device.startswith('cuda') else '')
    needs = estimate_needs(settings, minutes=options.time, gpus=gpus)
    wishes = Wishes(
        scheduler=options.scheduler,
        command=options.command,
        setup=tuple(options.setup),
        options=tuple(options.scheduler_option),
        at_once=options.at_once,
    )
    make_writable(output_dir)
    stamp = new_stamp(output_dir)
    batches = list(write_batches(stamp, labels, _of_a_task(settings, needs), needs, wishes))
    print(f'{len(labels)} tasks: {needs.sentence}')
    group = write_group(batches[-1], settings, needs, wishes) if options.group else None
    jobs = [_submit_or_tell(options, batch.folder / 'array.sh') for batch in batches]
    if group is not None:
        _submit_or_tell(options, group, after=jobs)
    if options.submit:
        print(f'Logs: {batches[-1].folder}')


def _submit_or_tell(options: argparse.Namespace, script: Path, after: Sequence[str] = ()) -> str:
    """Number of the job, or what stands for it in the command that is told."""
    if options.submit:
        job = submit(options.scheduler, script, after)
        print(f'Job {job}: {script}')
        return job
    command = submission(options.scheduler, script.name, after)
    print(f'To submit: (cd {shlex.quote(str(script.parent))} && {command})')
    return 'JOB'


def _of_a_task(settings: Settings, needs: Needs) -> Settings:
    """Settings of one task: no more than what it asks for."""
    if settings.selection.bids_database_dir is not None:
        raise InputError(
            'bids_database_dir: tasks would write it at the same time; leave it out, for a task '
            'looks at one participant alone.'
        )
    if settings.execution.use_plugin is not None:
        raise InputError('use_plugin: a task does all its steps itself; leave it out.')
    changes = {'nprocs': needs.cpus, 'mem_mb': round(0.8 * needs.memory_mb)}
    if not needs.gpus:
        changes |= {'device': 'cpu'}
    return settings.replace('execution', **changes)


def _minutes(word: str) -> int:
    """Minutes, of a number of them or of H:MM:SS."""
    if match := re.fullmatch(r'(\d+):([0-5]\d):([0-5]\d)', word):
        hours, minutes, seconds = map(int, match.groups())
        return 60 * hours + minutes + (seconds > 0)
    return _count(word)


def _count(word: str) -> int:
    if not word.isdigit() or int(word) < 1:
        raise argparse.ArgumentTypeError(f'{word!r} is not a whole number from 1 on')
    return int(word)

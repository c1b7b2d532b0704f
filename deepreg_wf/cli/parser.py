"""The options: one builder function for each group of arguments."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from .. import __version__
from ..errors import InputError
from ..settings import (
    AFFINE_METHODS,
    ANALYSIS_LEVELS,
    DEFAULT_SPACE,
    DIRECTIONS,
    LEVELS,
    MOMENTUM_METHODS,
    SKULL_STRIP_METHODS,
    SKULL_STRIP_MODES,
    Settings,
    default_of,
    read_options,
)

_EPILOG = """\
exit status: 0, all subjects are done; 1, some failed (failed.tsv says which and why, the others
are complete); 2, the call, or all of its input, is unusable; 130, interrupted.
The same call again goes on where the last run ended.
"""


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one sentence."""

    def error(self, message: str) -> NoReturn:
        """Print the message and leave with exit status 2.

        Parameters
        ----------
        message
            What is wrong with the call.

        """
        self.exit(2, f'{self.prog}: {message}; see {self.prog} --help.\n')


def parse_settings(argv: Sequence[str]) -> Settings:
    """Build the settings from the words of the command line.

    Parameters
    ----------
    argv
        Words after the name of the program; ``--some_option`` is taken as ``--some-option``.

    Returns
    -------
    Settings
        Checked: defaults, overridden by ``--config-file``, overridden by the options.

    Raises
    ------
    InputError
        If a value is unusable.
    SystemExit
        If the words are not those of the parser, or ask for help or the version.

    """
    words = [_dashed(word) for word in argv]
    repeats = any(word.partition('=')[0] == '--config-file' for word in words)
    given = vars(build_parser(positionals='?' if repeats else None).parse_args(words))
    options = {name: value for name, value in given.items() if value is not None}
    options.pop('notrack', None)
    config = options.pop('config_file', None)
    return Settings.from_options(options, base=_read_config(config) if config else None)


def build_parser(*, positionals: str | None = None) -> Parser:
    """Put the groups of arguments together; options that are not given come out as None.

    Parameters
    ----------
    positionals
        ``nargs`` of the positional arguments; ``?`` where a settings file may have them.

    Returns
    -------
    Parser
        Knows every option of ``deepreg_wf``.

    """
    parser = Parser(
        prog='deepreg_wf',
        usage='%(prog)s bids_dir output_dir {participant,group} [options]',
        description='Register T1-weighted brains of a BIDS dataset to a template, by geodesics.',
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_positionals(parser, positionals)
    for add in (
        _add_selection,
        _add_anatomical,
        _add_registration,
        _add_output,
        _add_resources,
        _add_workflow,
        _add_other,
    ):
        add(parser)
    return parser


def _add_positionals(parser: Parser, nargs: str | None) -> None:
    parser.add_argument(
        'bids_dir', nargs=nargs, type=Path, help='root of the BIDS dataset; it is only read'
    )
    parser.add_argument(
        'output_dir', nargs=nargs, type=Path, help='folder of the derivatives; made if missing'
    )
    parser.add_argument(
        'analysis_level',
        nargs=nargs,
        choices=ANALYSIS_LEVELS,
        help='participant: register each image; group: sum up what is in output_dir',
    )


def _add_selection(parser: Parser) -> None:
    group = parser.add_argument_group('which images')
    group.add_argument(
        '--participant-label',
        nargs='+',
        metavar='LABEL',
        type=lambda label: label.removeprefix('sub-'),
        help='participants, with or without sub- (default: all)',
    )
    group.add_argument(
        '--session-label',
        nargs='+',
        metavar='LABEL',
        type=lambda label: label.removeprefix('ses-'),
        help='sessions, with or without ses- (default: all)',
    )
    group.add_argument(
        '--bids-filter-file',
        metavar='FILE',
        type=Path,
        help='JSON file with pybids filters for the images, under the key "t1w"',
    )
    group.add_argument(
        '--bids-database-dir',
        metavar='DIR',
        type=Path,
        help='folder of a pybids database of the dataset; made if missing, for big datasets',
    )
    group.add_argument(
        '-d',
        '--derivatives',
        nargs='+',
        metavar='NAME=PATH',
        type=_absolute,
        help='folders of derivatives, such as those of sMRIPrep and fMRIPrep, whose brain masks '
        'and preprocessed T1w images are taken instead of computed',
    )
    group.add_argument(
        '--skip-bids-validation',
        action='store_true',
        default=None,
        help='do not check the description of the dataset and the names of its images',
    )


def _add_anatomical(parser: Parser) -> None:
    group = parser.add_argument_group('brain extraction')
    _add_choice(
        group,
        '--skull-strip',
        SKULL_STRIP_MODES,
        'auto: keep a brain that is already extracted; force: strip all; skip: strip none',
    )
    _add_choice(
        group,
        '--skull-strip-method',
        SKULL_STRIP_METHODS,
        'program that strips; auto: one after the other, until a mask can be one of a brain',
    )
    group.add_argument(
        '--skull-strip-model',
        metavar='FILE',
        type=Path,
        help='weights of a program that brings none: synthstrip.1.pt',
    )


def _add_registration(parser: Parser) -> None:
    group = parser.add_argument_group('registration')
    _add_choice(
        group,
        '--affine-method',
        AFFINE_METHODS,
        'where the affine starts from; auto: the orientation of the header and the one that a '
        'network sees; classical: without the network; icstn: the network',
    )
    group.add_argument(
        '--no-affine-polish',
        dest='affine_polish',
        action='store_false',
        default=None,
        help='take the affine of the network as it is, which is quicker and rougher',
    )
    _add_choice(
        group,
        '--momentum',
        MOMENTUM_METHODS,
        'where the initial momentum comes from: a network, a second one that corrects it, or '
        'LDDMM matching',
    )
    group.add_argument(
        '--refine',
        metavar='N',
        type=int,
        help='iterations of matching at each resolution after the networks; 0: networks alone '
        f'(default: {default_of("refine")})',
    )
    group.add_argument(
        '--uncertainty',
        metavar='SAMPLES',
        type=int,
        help='draw so many momenta and write how far their transforms differ, in mm '
        '(default: none)',
    )
    group.add_argument(
        '--weights',
        metavar='DIR',
        type=Path,
        help='folder of networks that deepreg_wf-train made (default: those that come along)',
    )
    _add_choice(group, '--direction', DIRECTIONS, 'which image moves; both transforms are written')
    group.add_argument(
        '--registration-resolution',
        metavar='MM',
        type=float,
        help='spacing of the grid of the momentum, in mm '
        f'(default: {default_of("registration_resolution"):g})',
    )


def _add_output(parser: Parser) -> None:
    group = parser.add_argument_group('output')
    _add_template(group.add_mutually_exclusive_group())
    group.add_argument(
        '--allow-download',
        action='store_true',
        default=None,
        help='let TemplateFlow fetch output spaces that are not on this machine; nothing else '
        'is ever downloaded',
    )
    _add_choice(
        group,
        '--level',
        LEVELS,
        'minimal: the preprocessed image, its mask, transforms, momentum and figures of merit; '
        'full: what can be made of them, too',
    )
    group.add_argument(
        '--reports-only',
        action='store_true',
        default=None,
        help='write the reports of the last runs anew, and compute nothing',
    )
    group.add_argument(
        '--boilerplate-only',
        action='store_true',
        default=None,
        help='write the text on the methods (logs/CITATION.md), and compute nothing',
    )


def _add_template(group: Any) -> None:
    group.add_argument(
        '--output-spaces',
        nargs='+',
        metavar='SPACE[:cohort-X][:res-Y]',
        help=f'templates to register to; {DEFAULT_SPACE} comes along, at :res-1 and :res-2, '
        'others are taken from the TemplateFlow home '
        f'(default: {DEFAULT_SPACE}, at 1 mm)',
    )
    group.add_argument(
        '--template',
        metavar='PATH',
        type=Path,
        help='T1w image of your own to register to: of the brain only, or named *_T1w with '
        '*_desc-brain_mask beside it',
    )


def _add_resources(parser: Parser) -> None:
    group = parser.add_argument_group('resources')
    group.add_argument(
        '--device', metavar='{auto,cpu,cuda,cuda:N}', help='where tensors live (default: auto)'
    )
    group.add_argument(
        '--nprocs', metavar='N', type=int, help='processors in use at once (default: all)'
    )
    group.add_argument(
        '--omp-nthreads',
        metavar='N',
        type=int,
        help='threads of one step (default: processors over images, 8 at most)',
    )
    group.add_argument(
        '--n-gpu-procs',
        metavar='N',
        type=int,
        help=f'steps that use the GPU at once (default: {default_of("n_gpu_procs")})',
    )
    group.add_argument(
        '--batch-size',
        metavar='N',
        type=int,
        help='patches that go through a network at once, at most; fewer where memory runs out '
        f'(default: {default_of("batch_size")})',
    )
    group.add_argument(
        '--mem-mb', metavar='MIB', type=int, help='memory in use at once (default: nearly all)'
    )
    group.add_argument(
        '--use-plugin',
        metavar='FILE',
        type=Path,
        help='YAML file with the "plugin" and "plugin_args" of Nipype, in place of the above',
    )


def _add_workflow(parser: Parser) -> None:
    group = parser.add_argument_group('running')
    group.add_argument(
        '-w', '--work-dir', metavar='DIR', type=Path, help='intermediate files (default: work)'
    )
    group.add_argument('--config-file', metavar='FILE', type=Path, help=_CONFIG_HELP)
    group.add_argument(
        '--random-seed',
        metavar='N',
        type=int,
        help=f'seed of whatever is random (default: {default_of("random_seed")})',
    )
    for name, text in _FLAGS.items():
        group.add_argument(name, action='store_true', default=None, help=text)


def _add_other(parser: Parser) -> None:
    group = parser.add_argument_group('other')
    group.add_argument(
        '--notrack',
        action='store_true',
        default=None,
        help='accepted for the sake of scripts: nothing is ever tracked',
    )
    group.add_argument('--version', action='version', version=f'deepreg_wf {__version__}')
    group.add_argument(
        '-v',
        dest='verbose',
        action='count',
        help='show what the libraries say; -vv: all of it',
    )


_CONFIG_HELP = (
    'settings of an earlier run (log/*/deepreg_wf.toml) to repeat; options override them, and '
    'the positional arguments may be left out'
)
_FLAGS = {
    '--clean-workdir': 'remove what earlier runs left in the work folder, and start anew',
    '--stop-on-first-crash': 'end the run with the first step that fails',
    '--resource-monitor': 'record memory and CPU use of each step, into the work folder',
    '--write-graph': 'draw the graph of the workflow, into the work folder',
    '--sloppy': 'low quality, for tests',
    '--deterministic': 'the same bits in every run: one thread a step, on the CPU',
}


def _add_choice(group: Any, name: str, choices: tuple[str, ...], text: str) -> None:
    default = default_of(name.removeprefix('--').replace('-', '_'))
    group.add_argument(name, choices=choices, help=f'{text} (default: {default})')


def _absolute(word: str) -> str:
    """``NAME=PATH`` that means the same wherever the settings are read back."""
    name, equals, place = word.rpartition('=')
    return f'{name}{equals}{Path(place).expanduser().absolute()}'


def _dashed(word: str) -> str:
    name, equals, value = word.partition('=')
    return f'{name.replace("_", "-")}{equals}{value}' if name.startswith('--') else word


def _read_config(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f'{path}: the settings file cannot be read; give a file that deepreg_wf wrote.'
        ) from error
    return read_options(text, source=str(path))

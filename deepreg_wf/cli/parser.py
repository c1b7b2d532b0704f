"""The options: one builder function for each group of arguments."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from deepreg_wf import __version__
from deepreg_wf.errors import InputError
from deepreg_wf.settings import (
    AFFINE_METHODS,
    ANALYSIS_LEVELS,
    DEFAULT_SPACE,
    DIRECTIONS,
    LEVELS,
    MOMENTUM_METHODS,
    SKULL_STRIP_MODES,
    Settings,
    default_of,
    read_options,
)

_EPILOG = """\
exit status:
  0  all images are done
  1  some failed; failed.tsv in the output folder says which and why, the others are complete
  2  the call, or all of its input, cannot be used
  130  interrupted
The same call again continues where the last run ended.

examples:
  deepreg_wf bids out participant --participant-label 01 02 -w work --nprocs 8
  deepreg_wf bids out participant --output-spaces MNI152NLin2009cAsym:res-1:res-2
  deepreg_wf bids out group
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
        description='Register the T1-weighted images of a BIDS dataset to a template by geodesic '
        'shooting.',
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
        help='participant: register each image; group: summarise what is in output_dir',
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
        help='JSON file of pybids filters, as for fMRIPrep; those under the key "t1w" are used',
    )
    group.add_argument(
        '--bids-database-dir',
        metavar='DIR',
        type=Path,
        help='folder of a pybids database of the dataset, which makes large datasets quicker to '
        'read; made if missing',
    )
    group.add_argument(
        '-d',
        '--derivatives',
        nargs='+',
        metavar='NAME=PATH',
        type=_absolute,
        help='folders of derivatives, such as those of sMRIPrep and fMRIPrep; their brain masks '
        'and preprocessed T1w images are used instead of being computed',
    )
    group.add_argument(
        '--skip-bids-validation',
        action='store_true',
        default=None,
        help='do not check dataset_description.json and the names of the images',
    )


def _add_anatomical(parser: Parser) -> None:
    group = parser.add_argument_group('brain extraction')
    _add_choice(
        group,
        '--skull-strip',
        SKULL_STRIP_MODES,
        'auto: strip unless the image shows a brain only; force: strip every image; skip: none',
        '--skull-strip-t1w',
    )
    # Without choices: to list them takes the methods' imports, which --help is not to wait for.
    group.add_argument(
        '--skull-strip-method',
        metavar='METHOD',
        help='program that strips: deepbet, hdbet, synthstrip, template or one of your own; '
        'auto: try one after the other until a mask is plausible (default: auto)',
    )
    group.add_argument(
        '--skull-strip-model',
        metavar='FILE',
        type=Path,
        help='weights for a program that comes without them (synthstrip.1.pt)',
    )


def _add_registration(parser: Parser) -> None:
    group = parser.add_argument_group('registration')
    _add_choice(
        group,
        '--affine-method',
        AFFINE_METHODS,
        'what the affine starts from; classical: the orientation in the header; icstn: the '
        'orientation that a network sees; auto: the better of both',
    )
    group.add_argument(
        '--no-affine-polish',
        dest='affine_polish',
        action='store_false',
        default=None,
        help='use the affine of the network as it is: quicker and less accurate',
    )
    _add_choice(
        group,
        '--momentum',
        MOMENTUM_METHODS,
        'how the initial momentum is found: by a network, by a second one that corrects the '
        'first, or by LDDMM matching alone',
    )
    group.add_argument(
        '--refine',
        metavar='N',
        type=int,
        help='iterations of LDDMM matching at each resolution after the networks; 0: none '
        f'(default: {default_of("refine")})',
    )
    group.add_argument(
        '--uncertainty',
        metavar='SAMPLES',
        type=int,
        help='draw this many momenta and write how far their transforms differ, in mm '
        '(default: 0, none)',
    )
    group.add_argument(
        '--weights',
        metavar='DIR',
        type=Path,
        help='folder of networks made by deepreg_wf-train (default: those of the package)',
    )
    _add_choice(
        group, '--direction', DIRECTIONS, 'which image is deformed; both transforms are written'
    )
    group.add_argument(
        '--registration-resolution',
        metavar='MM',
        type=float,
        help='voxel size of the grid that images are registered on, in mm '
        f'(default: {default_of("registration_resolution"):g})',
    )


def _add_output(parser: Parser) -> None:
    group = parser.add_argument_group('output')
    _add_template(group.add_mutually_exclusive_group())
    group.add_argument(
        '--allow-download',
        action='store_true',
        default=None,
        help='let TemplateFlow download output spaces that are not on this machine; nothing else '
        'is ever downloaded',
    )
    _add_choice(
        group,
        '--level',
        LEVELS,
        'minimal: preprocessed image, mask, transforms, momentum and quality figures; full: also '
        'what can be computed from them',
    )
    group.add_argument(
        '--reports-only',
        action='store_true',
        default=None,
        help='write the reports of earlier runs again, without computing anything',
    )
    group.add_argument(
        '--boilerplate-only',
        action='store_true',
        default=None,
        help='write the methods text (logs/CITATION.md), without computing anything',
    )


def _add_template(group: Any) -> None:
    group.add_argument(
        '--output-spaces',
        nargs='+',
        metavar='SPACE[:cohort-X][:res-Y]',
        help=f'templates to register to; {DEFAULT_SPACE} is part of the package, at :res-1 and '
        ':res-2, others are looked for in the TemplateFlow home '
        f'(default: {DEFAULT_SPACE}, at 1 mm)',
    )
    group.add_argument(
        '--template',
        metavar='PATH',
        type=Path,
        help='your own T1w image to register to: of the brain only, or named *_T1w with '
        '*_desc-brain_mask beside it',
    )


def _add_resources(parser: Parser) -> None:
    group = parser.add_argument_group('resources')
    group.add_argument(
        '--device',
        metavar='{auto,cpu,cuda,cuda:N}',
        help='what the networks and the shooting run on; auto: a GPU if there is one '
        '(default: auto)',
    )
    group.add_argument(
        '--nprocs',
        '--nthreads',
        '--n-cpus',
        metavar='N',
        type=int,
        help='processors used at once (default: all)',
    )
    group.add_argument(
        '--omp-nthreads',
        metavar='N',
        type=int,
        help='threads of one step (default: processors divided by images, 8 at most)',
    )
    group.add_argument(
        '--n-gpu-procs',
        metavar='N',
        type=int,
        help=f'steps that use the GPU at the same time (default: {default_of("n_gpu_procs")})',
    )
    group.add_argument(
        '--batch-size',
        metavar='N',
        type=int,
        help='patches that go through a network at once, at most; fewer where memory runs out '
        f'(default: {default_of("batch_size")})',
    )
    group.add_argument(
        '--mem-mb',
        '--mem',
        metavar='MIB',
        type=_mebibytes,
        help='memory used at once, in MiB or as in 16G (default: nine tenths of all)',
    )
    group.add_argument(
        '--use-plugin',
        '--nipype-plugin-file',
        metavar='FILE',
        type=Path,
        help='YAML file with the "plugin" and "plugin_args" of Nipype, to run on a cluster',
    )


def _add_workflow(parser: Parser) -> None:
    group = parser.add_argument_group('running')
    group.add_argument(
        '-w',
        '--work-dir',
        metavar='DIR',
        type=Path,
        help='folder of intermediate files (default: work)',
    )
    group.add_argument('--config-file', metavar='FILE', type=Path, help=_CONFIG_HELP)
    group.add_argument(
        '--random-seed',
        metavar='N',
        type=int,
        help='seed of the momenta that are drawn for --uncertainty '
        f'(default: {default_of("random_seed")})',
    )
    for name, text in _FLAGS.items():
        group.add_argument(name, action='store_true', default=None, help=text)


def _add_other(parser: Parser) -> None:
    group = parser.add_argument_group('other')
    group.add_argument(
        '--notrack',
        action='store_true',
        default=None,
        help='accepted for compatibility: nothing is ever tracked',
    )
    group.add_argument('--version', action='version', version=f'deepreg_wf {__version__}')
    group.add_argument(
        '-v',
        '--verbose',
        dest='verbose',
        action='count',
        help='show the messages of the libraries; -vv: all of them',
    )


_CONFIG_HELP = (
    'settings file of an earlier run (sub-*/log/*/deepreg_wf.toml) to repeat; options override '
    'it, and the positional arguments may be left out'
)
_FLAGS = {
    '--clean-workdir': 'remove what earlier runs left in the work folder, and start afresh',
    '--stop-on-first-crash': 'end the run at the first step that fails',
    '--resource-monitor': 'record the memory and CPU use of each step, in the work folder',
    '--write-graph': 'draw the graph of the workflow, in the work folder',
    '--sloppy': 'low quality, for tests only',
    '--deterministic': 'the same bits in every run: one thread for each step, on the CPU',
}


def _add_choice(group: Any, name: str, choices: tuple[str, ...], text: str, *aliases: str) -> None:
    default = default_of(name.removeprefix('--').replace('-', '_'))
    group.add_argument(name, *aliases, choices=choices, help=f'{text} (default: {default})')


def _mebibytes(word: str) -> int:
    """Memory in MiB; with a unit, as in 16G, in that."""
    number, unit = word.rstrip('BbKkMmGgTt'), word.lstrip('0123456789').upper()
    powers = {'': 0, 'M': 0, 'MB': 0, 'G': 1, 'GB': 1, 'T': 2, 'TB': 2}
    if unit not in powers:
        raise argparse.ArgumentTypeError(f'{word!r} is no amount of memory, such as 8000 or 16G')
    return int(number) * 1024 ** powers[unit]


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

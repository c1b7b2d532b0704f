"""The arguments of ``deepreg_wf``: one function for each group."""

from __future__ import annotations

import argparse

from deepreg_wf import __version__
from deepreg_wf.cli.values import (
    mebibytes,
    named_folder,
    nonempty_path,
    number,
    participant_label,
    session_label,
    whole_number,
)
from deepreg_wf.settings import (
    AFFINE_METHODS,
    ANALYSIS_LEVELS,
    DEFAULT_SPACE,
    DIRECTIONS,
    LEVELS,
    MOMENTUM_METHODS,
    SKULL_STRIP_MODES,
    default_of,
)

_CONFIG_HELP = (
    'settings file of an earlier run (sub-*/log/*/deepreg_wf.toml) to repeat; options override '
    'it, and the positional arguments may be left out'
)
_FLAGS = {
    '--clean-workdir': 'first remove the results of earlier runs from the work folder',
    '--stop-on-first-crash': 'end the run at the first step that fails',
    '--resource-monitor': 'record the memory and CPU use of each step, in the work folder',
    '--write-graph': 'draw the graph of the workflow, in the work folder',
    '--sloppy': 'low quality, for tests only',
    '--deterministic': 'make results the same to the bit: one thread per step, on the CPU',
}


def add_positionals(parser: argparse.ArgumentParser, nargs: str | None) -> None:
    """Add the positional arguments."""
    parser.add_argument(
        'bids_dir',
        nargs=nargs,
        type=nonempty_path,
        help='root of the BIDS dataset; it is only read',
    )
    parser.add_argument(
        'output_dir',
        nargs=nargs,
        type=nonempty_path,
        help='folder of the derivatives; made if missing',
    )
    parser.add_argument(
        'analysis_level',
        nargs=nargs,
        choices=ANALYSIS_LEVELS,
        help='participant: register each image; group: summarise what is in output_dir',
    )


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Add the options that select images."""
    group = parser.add_argument_group('images')
    group.add_argument(
        '--participant-label',
        nargs='+',
        metavar='LABEL',
        type=participant_label,
        help='participants, with or without sub- (default: all)',
    )
    group.add_argument(
        '--session-label',
        nargs='+',
        metavar='LABEL',
        type=session_label,
        help='sessions, with or without ses- (default: all)',
    )
    group.add_argument(
        '--bids-filter-file',
        metavar='FILE',
        type=nonempty_path,
        help='JSON file of pybids filters, as for fMRIPrep; those under the key "t1w" are used',
    )
    group.add_argument(
        '--bids-database-dir',
        metavar='DIR',
        type=nonempty_path,
        help='folder of a pybids database of the dataset, which makes large datasets quicker to '
        'read; made if missing',
    )
    group.add_argument(
        '-d',
        '--derivatives',
        nargs='+',
        metavar='NAME=PATH',
        type=named_folder,
        help='folders of derivatives, such as those of sMRIPrep and fMRIPrep, whose brain masks '
        'and preprocessed T1w images are used instead of being computed',
    )
    group.add_argument(
        '--skip-bids-validation',
        action='store_true',
        default=None,
        help='do not check dataset_description.json and the names of the images',
    )


def add_anatomical(parser: argparse.ArgumentParser) -> None:
    """Add the options of the brain extraction."""
    group = parser.add_argument_group('brain extraction')
    _add_choice(
        group,
        '--skull-strip',
        SKULL_STRIP_MODES,
        'auto: strip unless the brain is already extracted; force: strip every image; '
        'skip: strip none',
        '--skull-strip-t1w',
    )
    # No choices: to list the methods, they would have to be imported, which is slow.
    group.add_argument(
        '--skull-strip-method',
        metavar='METHOD',
        help='method of brain extraction: deepbet, hdbet, synthstrip or template; '
        'auto: the first of them that gives a plausible mask (default: auto)',
    )
    group.add_argument(
        '--skull-strip-model',
        metavar='FILE',
        type=nonempty_path,
        help='weights of a method that is installed without them (synthstrip.1.pt)',
    )


def add_registration(parser: argparse.ArgumentParser) -> None:
    """Add the options of the registration."""
    group = parser.add_argument_group('registration')
    _add_choice(
        group,
        '--affine-method',
        AFFINE_METHODS,
        'initialisation of the affine; classical: the orientation in the header; icstn: the '
        'orientation that a network estimates; auto: the better of both',
    )
    group.add_argument(
        '--no-affine-polish',
        dest='affine_polish',
        action='store_false',
        default=None,
        help='do not refine the affine of the network: faster and less accurate',
    )
    _add_choice(
        group,
        '--momentum',
        MOMENTUM_METHODS,
        'method for the initial momentum; predict: a network; predict+correct: a second network '
        'corrects the prediction; optimise: LDDMM matching without networks',
    )
    group.add_argument(
        '--refine',
        metavar='N',
        type=whole_number,
        help='iterations of LDDMM matching at each resolution after the networks; 0: none '
        f'(default: {default_of("refine")})',
    )
    group.add_argument(
        '--uncertainty',
        metavar='SAMPLES',
        type=whole_number,
        help='number of momenta to draw; how far their transforms differ, in mm, is written as an '
        'image (default: 0, none)',
    )
    group.add_argument(
        '--weights',
        metavar='DIR',
        type=nonempty_path,
        help='folder of networks made by deepreg_wf-train (default: those of the package)',
    )
    _add_choice(
        group, '--direction', DIRECTIONS, 'which image is deformed; both transforms are written'
    )
    group.add_argument(
        '--registration-resolution',
        metavar='MM',
        type=number,
        help='voxel size of the registration grid, in mm '
        f'(default: {default_of("registration_resolution"):g})',
    )


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add the options of the results."""
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
        'minimal: preprocessed image, mask, transforms, momentum and quality measures; full: also '
        'the derivatives that can be computed from these',
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


def _add_template(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        '--output-spaces',
        nargs='+',
        metavar='SPACE[:cohort-X][:res-Y]',
        help=f'templates to register to; {DEFAULT_SPACE} is part of the package, at :res-1 and '
        ':res-2, others are read from the TemplateFlow home '
        f'(default: {DEFAULT_SPACE}, at 1 mm)',
    )
    group.add_argument(
        '--template',
        metavar='PATH',
        type=nonempty_path,
        help='your own template: a T1w image of an extracted brain, or one named *_T1w with '
        '*_desc-brain_mask beside it',
    )


def add_resources(parser: argparse.ArgumentParser) -> None:
    """Add the options that limit the resources of a run."""
    group = parser.add_argument_group('resources')
    group.add_argument(
        '--device',
        metavar='{auto,cpu,cuda,cuda:N}',
        help='device of the networks and of shooting; auto: a GPU if there is one (default: auto)',
    )
    group.add_argument(
        '--nprocs',
        '--nthreads',
        '--n-cpus',
        metavar='N',
        type=whole_number,
        help='processors used at once (default: all)',
    )
    group.add_argument(
        '--omp-nthreads',
        metavar='N',
        type=whole_number,
        help='threads of one step (default: processors divided by images, 8 at most)',
    )
    group.add_argument(
        '--n-gpu-procs',
        metavar='N',
        type=whole_number,
        help=f'steps that use the GPU at the same time (default: {default_of("n_gpu_procs")})',
    )
    group.add_argument(
        '--batch-size',
        metavar='N',
        type=whole_number,
        help='largest number of patches in a batch; reduced if memory runs out '
        f'(default: {default_of("batch_size")})',
    )
    group.add_argument(
        '--mem-mb',
        '--mem',
        metavar='MIB',
        type=mebibytes,
        help='memory that the steps may use together, in MiB or with a unit, such as 16G '
        '(default: nine tenths of the memory of the machine)',
    )
    group.add_argument(
        '--use-plugin',
        '--nipype-plugin-file',
        metavar='FILE',
        type=nonempty_path,
        help='YAML file with the "plugin" and "plugin_args" of Nipype, to run on a cluster',
    )


def add_workflow(parser: argparse.ArgumentParser) -> None:
    """Add the options of the run itself."""
    group = parser.add_argument_group('execution')
    group.add_argument(
        '-w',
        '--work-dir',
        metavar='DIR',
        type=nonempty_path,
        help='folder of intermediate files (default: work)',
    )
    group.add_argument('--config-file', metavar='FILE', type=nonempty_path, help=_CONFIG_HELP)
    group.add_argument(
        '--random-seed',
        metavar='N',
        type=whole_number,
        help=f'seed of the momenta drawn for --uncertainty (default: {default_of("random_seed")})',
    )
    for name, text in _FLAGS.items():
        group.add_argument(name, action='store_true', default=None, help=text)


def add_other(parser: argparse.ArgumentParser) -> None:
    """Add the remaining options."""
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
        help='show the messages of the libraries; -vv: debug messages, too',
    )


def _add_choice(
    group: argparse._ActionsContainer,
    name: str,
    choices: tuple[str, ...],
    text: str,
    *aliases: str,
) -> None:
    default = default_of(name.removeprefix('--').replace('-', '_'))
    group.add_argument(name, *aliases, choices=choices, help=f'{text} (default: {default})')

"""Groups of settings: one frozen dataclass for each table of the settings file."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from deepreg_wf.errors import InputError
from deepreg_wf.settings.validation import check_ranges

ANALYSIS_LEVELS = ('participant', 'group')
SKULL_STRIP_MODES = ('auto', 'force', 'skip')
SKULL_STRIP_METHODS = ('auto', 'deepbet', 'hdbet', 'synthstrip', 'template')
AFFINE_METHODS = ('auto', 'classical', 'icstn')
MOMENTUM_METHODS = ('predict', 'predict+correct', 'optimise')
DIRECTIONS = ('template-to-subject', 'subject-to-template')
LEVELS = ('minimal', 'full')
DEFAULT_SPACE = 'MNI152NLin2009aSym'

_DEVICE = re.compile(r'auto|cpu|cuda(:[0-9]{1,3})?')
_MAXIMUM_COUNT = 2**15
"""Largest number of processors, threads and the like: more than any machine has."""

T = TypeVar('T')


def _choice(default: str, choices: Collection[str]) -> str:
    """Define a field that has one of several values."""
    return field(default=default, metadata={'choices': choices})


def _number(default: T, *, low: float, high: float = float('inf')) -> T:
    """Define a field that holds a number from `low` to `high`."""
    return field(default=default, metadata={'low': low, 'high': high})


def check_device(device: str) -> None:
    """Check the name of a device.

    Parameters
    ----------
    device : str
        ``'auto'``, ``'cpu'``, ``'cuda'`` or ``'cuda:N'``.

    Raises
    ------
    InputError
        If it is another.
    """
    if _DEVICE.fullmatch(device) is None:
        raise InputError(
            f'device: {device!r} is unknown', advice='choose auto, cpu, cuda or cuda:N'
        )


MATCHED_GEODESICS = 2
"""Geodesics of a registration by matching; see `deepreg_wf.lddmm.default_links`."""


class _Group:
    """Base of the groups, which checks the choices and ranges of the fields."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class Selection(_Group):
    """Images that are read.

    Parameters
    ----------
    bids_dir : Path
        Root of the BIDS dataset.
    analysis_level : {'participant', 'group'}
        ``'participant'`` registers each image; ``'group'`` summarises all registrations.
    participant_label, session_label : tuple of str
        Labels without ``sub-`` and ``ses-``; an empty tuple selects all.
    bids_filter_file : Path, optional
        JSON file with pybids filters under the key ``t1w``.
    bids_database_dir : Path, optional
        Folder of a pybids database, which is created if it does not exist.
    derivatives : tuple of str
        ``NAME=PATH`` of folders whose masks and preprocessed images are used.
    skip_bids_validation : bool
        Read the dataset without validating it.
    """

    bids_dir: Path
    analysis_level: str = _choice('participant', ANALYSIS_LEVELS)
    participant_label: tuple[str, ...] = ()
    session_label: tuple[str, ...] = ()
    bids_filter_file: Path | None = None
    bids_database_dir: Path | None = None
    derivatives: tuple[str, ...] = ()
    skip_bids_validation: bool = False


@dataclass(frozen=True, kw_only=True)
class Anatomical(_Group):
    """Brain extraction.

    Parameters
    ----------
    skull_strip : {'auto', 'force', 'skip'}
        ``'auto'`` keeps a brain that is already extracted, ``'force'`` strips every image,
        ``'skip'`` none.
    skull_strip_method : str
        Program that strips. ``'auto'`` tries one after the other, until a mask is plausible.
    skull_strip_model : Path, optional
        Weights of a program that comes without any, such as ``synthstrip.1.pt``.
    """

    skull_strip: str = _choice('auto', SKULL_STRIP_MODES)
    skull_strip_method: str = _choice('auto', SKULL_STRIP_METHODS)
    skull_strip_model: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Registration(_Group):
    """Affine and deformable registration.

    Parameters
    ----------
    affine_method : {'auto', 'classical', 'icstn'}
        Initialisation of the affine: ``'classical'`` uses the orientation in the header,
        ``'icstn'`` the one that a network estimates, ``'auto'`` the better of the two.
    affine_polish : bool
        Refine the affine that the network estimates.
    momentum : {'predict+correct', 'predict', 'optimise'}
        Source of the initial momentum: networks, or LDDMM matching.
    refine : int
        Iterations of matching at each resolution that refine a predicted momentum; 0 for none.
        Optimisation always runs to convergence.
    uncertainty : int
        Number of momenta drawn from the probabilistic network to estimate the uncertainty of the
        transform; 0 for none.
    weights : Path, optional
        Folder of trained networks; those of the package by default, also for the affine where
        the folder has no ``affine.safetensors``.
    direction : {'template-to-subject', 'subject-to-template'}
        Which image the momentum moves onto which.
    registration_resolution : float
        Spacing of the grid on which the momentum lives, in mm.
    """

    affine_method: str = _choice('auto', AFFINE_METHODS)
    affine_polish: bool = True
    momentum: str = _choice('predict+correct', MOMENTUM_METHODS)
    refine: int = _number(5, low=0, high=1000)
    uncertainty: int = _number(0, low=0, high=1000)
    weights: Path | None = None
    direction: str = _choice('template-to-subject', DIRECTIONS)
    registration_resolution: float = _number(2.0, low=0.5, high=8.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.uncertainty == 1:
            raise InputError(
                'uncertainty: 1 sample has no spread', advice='give 2 or more, or 0 for none'
            )

    @property
    def uses_matching(self) -> bool:
        """Use of matching to optimise or refine the momentum."""
        return self.momentum == 'optimise' or self.refine > 0

    @property
    def momenta(self) -> tuple[str, ...]:
        """Names of the momenta of the chain of geodesics: ``momentum``, ``momentum2``, ..."""
        later = range(2, 1 + MATCHED_GEODESICS) if self.uses_matching else ()
        return ('momentum', *(f'momentum{number}' for number in later))


@dataclass(frozen=True, kw_only=True)
class Output(_Group):
    """Files that are written, and their spaces.

    Parameters
    ----------
    output_dir : Path
        Folder of the derivatives.
    output_spaces : tuple of str
        ``SPACE[:cohort-X][:res-Y]``; empty if there is a `template`.
    template : Path, optional
        A template image that is in no collection.
    allow_download : bool
        Let TemplateFlow download templates that are not on this machine.
    level : {'minimal', 'full'}
        ``'minimal'`` leaves out what can be computed from the other derivatives.
    reports_only, boilerplate_only : bool
        Write only the reports, or only the description of the methods; compute nothing.
    """

    output_dir: Path
    output_spaces: tuple[str, ...] = (DEFAULT_SPACE,)
    template: Path | None = None
    allow_download: bool = False
    level: str = _choice('full', LEVELS)
    reports_only: bool = False
    boilerplate_only: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        twice = [spec for spec in self.output_spaces if self.output_spaces.count(spec) > 1]
        if twice:
            raise InputError(
                f'output_spaces: {twice[0]} is asked for twice', advice='give it once'
            )
        if self.reports_only and self.boilerplate_only:
            raise InputError(
                'reports_only: it cannot be combined with boilerplate_only',
                advice='choose one of them',
            )


@dataclass(frozen=True, kw_only=True)
class Execution(_Group):
    """Resources and behaviour of the run.

    Only `random_seed` and `sloppy` change the results.

    Parameters
    ----------
    work_dir : Path
        Folder of intermediate files, from which an interrupted run continues.
    device : str
        ``'auto'``, ``'cpu'``, ``'cuda'`` or ``'cuda:N'``.
    nprocs : int, optional
        Processors used at the same time; all of them by default.
    omp_nthreads : int, optional
        Threads of one step; by default the processors are shared among the images.
    n_gpu_procs : int
        Steps that may use the GPU at the same time.
    batch_size : int
        Maximum number of patches that go through a network at once.
    mem_mb : int, optional
        Memory of all steps together, in MiB.
    use_plugin : Path, optional
        YAML file with the settings of a Nipype plugin.
    clean_workdir : bool
        Remove the intermediate files of earlier runs first.
    stop_on_first_crash : bool
        End the run at the first step that fails.
    resource_monitor, write_graph : bool
        Record memory and CPU use; draw the graph of the workflow.
    random_seed : int
        Seed of all random numbers.
    sloppy : bool
        Compute fast and at low quality, for tests.
    deterministic : bool
        Give the same bits in every run: one thread a step, on the CPU, overriding other settings.
    verbose : int
        0: steps; 1: also the messages of the libraries; 2: also debugging messages.
    """

    work_dir: Path
    device: str = 'auto'
    nprocs: int | None = _number(None, low=1, high=_MAXIMUM_COUNT)
    omp_nthreads: int | None = _number(None, low=1, high=_MAXIMUM_COUNT)
    n_gpu_procs: int = _number(1, low=1, high=_MAXIMUM_COUNT)
    batch_size: int = _number(32, low=1, high=_MAXIMUM_COUNT)
    mem_mb: int | None = _number(None, low=1, high=2**31 - 1)
    use_plugin: Path | None = None
    clean_workdir: bool = False
    stop_on_first_crash: bool = False
    resource_monitor: bool = False
    write_graph: bool = False
    random_seed: int = _number(0, low=0, high=2**31 - 1)
    sloppy: bool = False
    deterministic: bool = False
    verbose: int = _number(0, low=0, high=100)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_device(self.device)
        if self.deterministic and self.device.startswith('cuda'):
            raise InputError(
                'deterministic: results are bitwise the same only on the CPU',
                advice='leave out the device or set it to cpu',
            )


GROUPS: dict[str, type] = {
    'selection': Selection,
    'output': Output,
    'execution': Execution,
    'anatomical': Anatomical,
    'registration': Registration,
}
"""Each group by the name of its table, in the order of the settings file."""

"""What a run was asked to do: built once by the command line, kept as TOML beside the results."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from deepreg_wf import __version__
from deepreg_wf.errors import InputError

ANALYSIS_LEVELS = ('participant', 'group')
SKULL_STRIP_MODES = ('auto', 'force', 'skip')
SKULL_STRIP_METHODS = ('auto', 'deepbet', 'hdbet', 'synthstrip', 'template')
AFFINE_METHODS = ('auto', 'classical', 'icstn')
MOMENTUM_METHODS = ('predict', 'predict+correct', 'optimise')
DIRECTIONS = ('template-to-subject', 'subject-to-template')
LEVELS = ('minimal', 'full')
DEFAULT_SPACE = 'MNI152NLin2009aSym'
_FACTS = 'run'

T = TypeVar('T')


def _choice(default: str, choices: Collection[str]) -> Any:
    return field(default=default, metadata={'choices': choices})


def _number(default: Any, *, low: float, high: float = float('inf')) -> Any:
    return field(default=default, metadata={'low': low, 'high': high})


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which images are read.

    Parameters
    ----------
    bids_dir
        Root of the BIDS dataset.
    analysis_level
        ``participant``: each image; ``group``: what was made of all, together.
    participant_label, session_label
        Labels without ``sub-`` and ``ses-``; none means all.
    bids_filter_file
        JSON file with pybids filters under the key ``t1w``.
    bids_database_dir
        Folder of a pybids database, made where there is none.
    derivatives
        ``NAME=PATH`` of folders whose masks and preprocessed images are taken.
    skip_bids_validation
        Take the dataset as it is.

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
class Anatomical:
    """How the brain is taken out of the image.

    Parameters
    ----------
    skull_strip
        ``auto`` keeps a brain that is already extracted, ``force`` strips every image,
        ``skip`` none.
    skull_strip_method
        Which program strips; ``auto`` tries one after the other, until a mask can be one of a
        brain.
    skull_strip_model
        Weights of a program that brings none: ``synthstrip.1.pt``.

    """

    skull_strip: str = _choice('auto', SKULL_STRIP_MODES)
    skull_strip_method: str = _choice('auto', SKULL_STRIP_METHODS)
    skull_strip_model: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Registration:
    """How the brain is registered.

    Parameters
    ----------
    affine_method
        Where the affine starts from: ``auto`` compares the orientation of the header and the one
        that a network sees, ``classical`` uses no network, ``icstn`` believes it.
    affine_polish
        Refine the affine that the network finds.
    momentum
        Where the initial momentum comes from.
    refine
        Iterations of matching at each resolution that refine a predicted momentum; one that is
        optimised has all it needs.
    uncertainty
        Momenta drawn from the probabilistic network to tell how sure the transform is; 0: none.
    weights
        Folder of trained networks; those of the package by default.
    direction
        Which image moves.
    registration_resolution
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
        if self.uncertainty == 1:
            raise InputError('uncertainty: 1 sample has no spread; give 2 or more, or 0 for none.')


@dataclass(frozen=True, kw_only=True)
class Output:
    """What is written, and in which space.

    Parameters
    ----------
    output_dir
        Folder of the derivatives.
    output_spaces
        ``SPACE[:cohort-X][:res-Y]``; none where there is a ``template``.
    template
        A lab's own template image.
    allow_download
        Have TemplateFlow fetch templates that are not on this machine.
    level
        ``minimal``: what everything else can be made of; ``full``: that, too.
    reports_only, boilerplate_only
        Only write the pages, or the text on the methods; nothing is computed.

    """

    output_dir: Path
    output_spaces: tuple[str, ...] = (DEFAULT_SPACE,)
    template: Path | None = None
    allow_download: bool = False
    level: str = _choice('full', LEVELS)
    reports_only: bool = False
    boilerplate_only: bool = False

    def __post_init__(self) -> None:
        twice = [spec for spec in self.output_spaces if self.output_spaces.count(spec) > 1]
        if twice:
            raise InputError(f'output_spaces: {twice[0]} is asked for twice; give it once.')
        if self.reports_only and self.boilerplate_only:
            raise InputError('reports_only: not together with boilerplate_only; choose one.')


@dataclass(frozen=True, kw_only=True)
class Execution:
    """What the run may use, and how it behaves.

    Only ``random_seed`` and ``sloppy`` change what is computed.

    Parameters
    ----------
    device
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    nprocs
        Processors in use at once; all that there are by default.
    omp_nthreads
        Threads of one step; by default what the images leave to each.
    n_gpu_procs
        Steps that may use the GPU at once.
    batch_size
        Patches that go through a network at once, at most.
    mem_mb
        Memory that the steps may use together, in MiB.
    use_plugin
        YAML file with the settings of a Nipype plugin.
    work_dir
        Folder of intermediate files, from which a run goes on after an interruption.
    clean_workdir
        Start without what earlier runs left there.
    stop_on_first_crash
        End the run with the first step that fails.
    resource_monitor, write_graph
        Record memory and CPU use; draw the graph of the workflow.
    random_seed
        Seed of whatever is random.
    sloppy
        Low quality, for tests.
    deterministic
        The same bits from run to run: one thread a step, on the CPU, whatever else is asked for.
    verbose
        0: steps; 1: what the libraries say; 2: all of it.

    """

    work_dir: Path
    device: str = 'auto'
    nprocs: int | None = _number(None, low=1)
    omp_nthreads: int | None = _number(None, low=1)
    n_gpu_procs: int = _number(1, low=1)
    batch_size: int = _number(32, low=1)
    mem_mb: int | None = _number(None, low=1)
    use_plugin: Path | None = None
    clean_workdir: bool = False
    stop_on_first_crash: bool = False
    resource_monitor: bool = False
    write_graph: bool = False
    random_seed: int = _number(0, low=0, high=2**31 - 1)
    sloppy: bool = False
    deterministic: bool = False
    verbose: int = _number(0, low=0)

    def __post_init__(self) -> None:
        name, _, index = self.device.partition(':')
        if self.device not in ('auto', 'cpu', 'cuda') and not (name == 'cuda' and index.isdigit()):
            raise InputError(
                f'device: {self.device!r} is unknown; choose auto, cpu, cuda or cuda:N.'
            )
        if self.deterministic and name == 'cuda':
            raise InputError(
                'deterministic: results are bitwise the same only on the CPU; '
                'leave out the device or set it to cpu.'
            )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that was asked of a run.

    Examples
    --------
    >>> settings = Settings.from_options({'bids_dir': '/data', 'output_dir': '/out'})
    >>> settings.registration.momentum
    'predict+correct'
    >>> Settings.from_toml(settings.to_toml()) == settings
    True

    """

    selection: Selection
    output: Output
    execution: Execution
    anatomical: Anatomical = Anatomical()
    registration: Registration = Registration()

    def __post_init__(self) -> None:
        for group in fields(self):
            _check_ranges(getattr(self, group.name))
        if bool(self.output.output_spaces) == (self.output.template is not None):
            raise InputError(
                'output_spaces: give spaces or a template image, and not both; '
                'for the other, run again.'
            )

    @classmethod
    def from_options(
        cls, options: Mapping[str, Any], *, base: Mapping[str, Any] | None = None
    ) -> Settings:
        """Build settings from a flat mapping, such as parsed options.

        Parameters
        ----------
        options
            Values by the name of their field; whatever is absent has its default.
        base
            Values that ``options`` override, as `read_options` gives them.

        Returns
        -------
        Settings
            Checked.

        Raises
        ------
        InputError
            If a name is unknown, or a value is missing or of the wrong kind.

        """
        merged = {**_without_rival(base or {}, options), **options}
        if merged.get('template') is not None:
            merged.setdefault('output_spaces', ())
        merged.setdefault('work_dir', Path('work'))
        groups: dict[str, dict[str, Any]] = {name: {} for name in _groups()}
        for name, value in merged.items():
            groups[_group_of(name)][name] = value
        return cls(**{name: _build(_groups()[name], given) for name, given in groups.items()})

    @classmethod
    def from_toml(cls, text: str, *, source: str = 'settings') -> Settings:
        """Read what `to_toml` wrote; `source` is the name of the file, for messages."""
        return cls.from_options(read_options(text, source=source))

    def to_toml(self, **run: Any) -> str:
        """Write all settings as TOML; what is None is left out.

        Parameters
        ----------
        **run
            Facts about the run, such as its command line or the software by name; they are passed
            over when read back.

        Returns
        -------
        str
            One table for each group, and one for the run.

        """
        import tomli_w

        tables: dict[str, Any] = {_FACTS: {'version': __version__, **run}}
        tables |= {
            group.name: {
                name: [*value] if isinstance(value, tuple) else _plain(value)
                for name, value in _items(getattr(self, group.name))
                if value is not None
            }
            for group in fields(self)
        }
        return tomli_w.dumps(tables)

    def replace(self, group: str, **changes: Any) -> Settings:
        """Copy with other values in one group."""
        return replace(self, **{group: replace(getattr(self, group), **changes)})


def read_options(text: str, *, source: str) -> dict[str, Any]:
    """Flatten the tables of a settings file.

    Parameters
    ----------
    text
        TOML.
    source
        Name of the file, for messages.

    Returns
    -------
    dict
        Values by the name of their field.

    Raises
    ------
    InputError
        If it is not TOML, or has a table or a key that no setting has.

    """
    options: dict[str, Any] = {}
    for table, values in _parse(text, source).items():
        if table == _FACTS:
            continue
        if table not in _groups() or not isinstance(values, dict):
            raise InputError(
                f'{source}: unknown table or key {table!r}; it has the tables '
                f'{", ".join(_groups())}.'
            )
        known = [field.name for field in fields(_groups()[table])]
        for name, value in values.items():
            if name not in known:
                raise InputError(
                    f'{source}: unknown key {name!r} in [{table}]; known are {", ".join(known)}.'
                )
            options[name] = value
    return options


def default_of(name: str) -> Any:
    """Default of a setting, for the help of the command line.

    Parameters
    ----------
    name
        Name of the field.

    Returns
    -------
    Any
        Its default.

    """
    return _field(name).default


def limits_of(name: str) -> tuple[float, float]:
    """Range of a number among the settings.

    Parameters
    ----------
    name
        Name of the field.

    Returns
    -------
    tuple of float
        The least and the largest that is allowed; the latter may be infinite.

    """
    limits = _field(name).metadata
    return limits['low'], limits['high']


def _field(name: str) -> Field[Any]:
    group = _groups()[_group_of(name)]
    return next(field for field in fields(group) if field.name == name)


def _parse(text: str, source: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(
            f'{source}: not a TOML file ({error}); mend it or leave it out.'
        ) from error


@lru_cache
def _groups() -> dict[str, type]:
    return {name: hint for name, hint in get_type_hints(Settings).items() if is_dataclass(hint)}


def _group_of(name: str) -> str:
    for group, cls in _groups().items():
        if name in (field.name for field in fields(cls)):
            return group
    raise InputError(f'{name}: unknown setting; see deepreg_wf --help.')


def _without_rival(base: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """A template given now puts aside the space of the file, and the other way round."""
    rivals = {'template': 'output_spaces', 'output_spaces': 'template'}
    gone = {rivals[name] for name in options if name in rivals}
    return {name: value for name, value in base.items() if name not in gone}


def _build(cls: type[T], given: Mapping[str, Any]) -> T:
    hints = get_type_hints(cls)
    values = {name: _coerce(name, value, hints[name]) for name, value in given.items()}
    missing = [
        item.name
        for item in fields(cls)  # type: ignore[arg-type]
        if item.default is MISSING and item.name not in values
    ]
    if missing:
        raise InputError(f'{missing[0]}: not given; see deepreg_wf --help.')
    return cls(**values)


def _coerce(name: str, value: Any, hint: Any) -> Any:
    """Value as the type that the field has."""
    options = [kind for kind in get_args(hint) if kind is not NoneType]
    if get_origin(hint) is tuple:
        if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
            return tuple(value)
    elif NoneType in get_args(hint):
        return None if value is None else _coerce(name, value, options[0])
    elif hint is Path and isinstance(value, (str, Path)):
        return Path(value).expanduser().absolute()
    elif hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    elif type(value) is hint:
        return value
    raise InputError(f'{name}: {value!r} is not {_KINDS[get_origin(hint) or hint]}; mend it.')


_KINDS = {
    tuple: 'a list of words',
    Path: 'a path',
    float: 'a number',
    int: 'a whole number',
    bool: 'true or false',
    str: 'a word',
}


def _check_ranges(group: Any) -> None:
    for item in fields(group):
        value, limits = getattr(group, item.name), item.metadata
        if 'choices' in limits and value not in limits['choices']:
            raise InputError(
                f'{item.name}: {value!r} is unknown; choose {" or ".join(limits["choices"])}.'
            )
        if 'low' in limits and value is not None and not limits['low'] <= value <= limits['high']:
            raise InputError(f'{item.name}: {value} is out of range; {_range_in_words(limits)}.')


def _range_in_words(limits: Mapping[str, float]) -> str:
    if limits['high'] == float('inf'):
        return f'give {limits["low"]:g} or more'
    return f'give a value from {limits["low"]:g} to {limits["high"]:g}'


def _items(group: Any) -> list[tuple[str, Any]]:
    return [(item.name, getattr(group, item.name)) for item in fields(group)]


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value

"""All settings of a run in one object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, dataclass, fields, replace
from pathlib import Path
from typing import Any

from deepreg_wf import __version__
from deepreg_wf.errors import InputError
from deepreg_wf.settings.groups import (
    GROUPS,
    Anatomical,
    Execution,
    Output,
    Registration,
    Selection,
)
from deepreg_wf.settings.toml import read_options, write_options
from deepreg_wf.settings.validation import build_group


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of a run.

    Parameters
    ----------
    selection : Selection
        Images that are read.
    output : Output
        Files that are written.
    execution : Execution
        Resources and behaviour of the run.
    anatomical : Anatomical
        Brain extraction.
    registration : Registration
        Affine and deformable registration.

    Raises
    ------
    InputError
        If a value is out of its range, or settings contradict each other.

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
        if bool(self.output.output_spaces) == (self.output.template is not None):
            raise InputError(
                'output_spaces: give spaces or a template image, and not both',
                advice='for the other, run again',
            )

    @classmethod
    def from_options(
        cls, options: Mapping[str, Any], *, base: Mapping[str, Any] | None = None
    ) -> Settings:
        """Build settings from a flat mapping, such as parsed options.

        Parameters
        ----------
        options : mapping of str to object
            Values by the name of their field; absent fields have their defaults.
        base : mapping of str to object, optional
            Values that `options` override, as `read_options` returns them.

        Returns
        -------
        Settings

        Raises
        ------
        InputError
            If a name is unknown, or a value is missing, of the wrong type or out of its range.
        """
        merged = {**_without_overridden_space(base or {}, options), **options}
        if merged.get('template') is not None:
            merged.setdefault('output_spaces', ())
        merged.setdefault('work_dir', Path('work'))
        given: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
        for name, value in merged.items():
            given[_group_of(name)][name] = value
        return cls(**{group: build_group(GROUPS[group], given[group]) for group in GROUPS})

    @classmethod
    def from_toml(cls, text: str, *, source: str = 'settings') -> Settings:
        """Read settings that `to_toml` wrote.

        Parameters
        ----------
        text : str
            TOML.
        source : str
            Name of the file, for messages.

        Returns
        -------
        Settings

        Raises
        ------
        InputError
            If the text is not TOML, or a setting is unknown or unusable.
        """
        return cls.from_options(read_options(text, source=source))

    def to_toml(self, **run: Any) -> str:
        """Write all settings as TOML, without those that are None.

        Parameters
        ----------
        **run
            Facts about the run, such as its command line; they are ignored on reading.

        Returns
        -------
        str
            One table for the run, and one for each group.
        """
        groups = {name: getattr(self, name) for name in GROUPS}
        return write_options(groups, {'version': __version__, **run})

    def replace(self, group: str, **changes: Any) -> Settings:
        """Return a copy with other values in one group.

        Parameters
        ----------
        group : str
            Name of the group, such as ``'execution'``.
        **changes
            New values by the name of their field.

        Returns
        -------
        Settings
        """
        return replace(self, **{group: replace(getattr(self, group), **changes)})


def default_of(name: str) -> Any:
    """Return the default of a setting.

    Parameters
    ----------
    name : str
        Name of the field.

    Returns
    -------
    object

    Raises
    ------
    InputError
        If there is no such setting.
    """
    return _field(name).default


def limits_of(name: str) -> tuple[float, float]:
    """Return the range of a setting that is a number.

    Parameters
    ----------
    name : str
        Name of the field.

    Returns
    -------
    low, high : float
        Smallest and largest value that is allowed; the largest may be infinite.
    """
    limits = _field(name).metadata
    return limits['low'], limits['high']


def _field(name: str) -> Field[Any]:
    group = GROUPS[_group_of(name)]
    return next(item for item in fields(group) if item.name == name)


def _group_of(name: str) -> str:
    """Return the name of the group that has a field of this name."""
    for group, cls in GROUPS.items():
        if name in (item.name for item in fields(cls)):
            return group
    raise InputError(f'{name}: unknown setting', advice='see deepreg_wf --help')


def _without_overridden_space(
    base: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Drop the output spaces of `base` if `options` give a template, and the other way round."""
    rivals = {'template': 'output_spaces', 'output_spaces': 'template'}
    dropped = {rivals[name] for name in options if name in rivals}
    return {name: value for name, value in base.items() if name not in dropped}

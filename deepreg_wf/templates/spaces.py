"""The words for output spaces, as fMRIPrep has them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from deepreg_wf.errors import InputError

BUNDLED = 'MNI152NLin2009aSym'
"""The template that needs no download."""

_SPEC = re.compile(r'[A-Za-z0-9]+(:(cohort|res)-\w+)*')
_NATIVE = ('anat', 'T1w')


@dataclass(frozen=True, kw_only=True)
class SpaceSpec:
    """What ``SPACE[:cohort-X][:res-Y]`` asks for."""

    space: str
    cohort: str | None = None
    resolution: str | None = None

    @classmethod
    def from_string(cls, spec: str) -> SpaceSpec:
        """Read the words of the command line.

        Parameters
        ----------
        spec
            ``SPACE[:cohort-X][:res-Y]``, as fMRIPrep spells it.

        Returns
        -------
        SpaceSpec
            Its parts.

        Raises
        ------
        InputError
            If it is spelled otherwise.

        """
        first, *more = cls.several(spec)
        if more:
            raise InputError(f'{spec}: names several templates; give one.')
        return first

    @classmethod
    def several(cls, spec: str) -> tuple[SpaceSpec, ...]:
        """Read words that may name several cohorts and resolutions, in any order.

        Parameters
        ----------
        spec
            ``SPACE[:cohort-X ...][:res-Y ...]``, as fMRIPrep spells it.

        Returns
        -------
        tuple of SpaceSpec
            Each cohort at each resolution.

        Raises
        ------
        InputError
            If it is spelled otherwise.

        """
        if spec in _NATIVE:
            raise InputError(
                f'{spec}: not a template; the preprocessed image is written in its own space '
                'anyway, so leave it out.'
            )
        if _SPEC.fullmatch(spec) is None:
            raise InputError(
                f'{spec}: not an output space; write SPACE[:cohort-X][:res-Y], '
                f'for example {BUNDLED}:res-2.'
            )
        space, *words = spec.split(':')
        labels: dict[str, list[str | None]] = {'cohort': [], 'res': []}
        for word in words:
            name, _, label = word.partition('-')
            labels[name].append(label)
        return tuple(
            cls(space=space, cohort=cohort, resolution=resolution)
            for cohort in labels['cohort'] or [None]
            for resolution in labels['res'] or [None]
        )

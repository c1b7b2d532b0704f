"""Specifications of output spaces, as in fMRIPrep."""

from __future__ import annotations

import re
from dataclasses import dataclass

from deepreg_wf.errors import InputError

BUNDLED = 'MNI152NLin2009aSym'
"""Name of the template that needs no download."""

_SPEC = re.compile(r'[A-Za-z0-9]+(:(cohort|res)-\w+)*')
_NATIVE = ('anat', 'T1w')
_OTHER_NATIVE = ('func', 'run', 'bold', 'boldref', 'sbref', 'asl', 'aslref', 'dwi', 'T2w')
_SURFACE = re.compile(r'(fsaverage\d*|fsnative|fsLR|fs_LR|onavg)(:.*)?|.*:den-\d+k', re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class SpaceSpec:
    """Parsed specification ``SPACE[:cohort-X][:res-Y]`` of an output space.

    Attributes
    ----------
    space : str
        Name of the template.
    cohort, resolution : str, optional
        Labels of its cohort and resolution.
    """

    space: str
    cohort: str | None = None
    resolution: str | None = None

    @classmethod
    def from_string(cls, spec: str) -> SpaceSpec:
        """Parse the specification of one template.

        Parameters
        ----------
        spec : str
            ``SPACE[:cohort-X][:res-Y]``, as in fMRIPrep.

        Returns
        -------
        SpaceSpec

        Raises
        ------
        InputError
            If the spelling is wrong, or there are several cohorts or resolutions.
        """
        first, *more = cls.all_from_string(spec)
        if more:
            raise InputError(f'{spec}: names several templates', advice='give one')
        return first

    @classmethod
    def all_from_string(cls, spec: str) -> tuple[SpaceSpec, ...]:
        """Parse a specification that may have several cohorts and resolutions, in any order.

        Parameters
        ----------
        spec : str
            ``SPACE[:cohort-X ...][:res-Y ...]``, as in fMRIPrep.

        Returns
        -------
        tuple of SpaceSpec
            Each cohort at each resolution.

        Raises
        ------
        InputError
            If the spelling is wrong, or it is not the space of a template image.
        """
        if spec in _NATIVE:
            raise InputError(
                f'{spec}: not a template',
                advice='the preprocessed image is always written in its own space, so leave it '
                'out',
            )
        if _SURFACE.fullmatch(spec):
            raise InputError(
                f'{spec}: surface spaces are not supported',
                advice=f'give a template that is an image, such as {BUNDLED}',
            )
        if spec.partition(':')[0] in _OTHER_NATIVE:
            raise InputError(
                f'{spec}: not a template',
                advice=f'only T1-weighted images are processed; give a template such as {BUNDLED}',
            )
        if _SPEC.fullmatch(spec) is None:
            raise InputError(
                f'{spec}: not an output space',
                advice=f'write SPACE[:cohort-X][:res-Y], for example {BUNDLED}:res-2',
            )
        space, *parts = spec.split(':')
        labels: dict[str, list[str | None]] = {'cohort': [], 'res': []}
        for part in parts:
            name, _, label = part.partition('-')
            labels[name].append(label)
        return tuple(
            cls(space=space, cohort=cohort, resolution=resolution)
            for cohort in labels['cohort'] or [None]
            for resolution in labels['res'] or [None]
        )

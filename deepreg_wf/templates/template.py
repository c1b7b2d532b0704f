"""Templates: the images to which brains are registered."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Template:
    """Image files and name of a template.

    Attributes
    ----------
    space : str
        Label of the ``space-``, ``from-`` and ``to-`` entities.
    t1w : Path
        T1-weighted image; without a mask, the image is of the extracted brain.
    mask : Path, optional
        Brain mask on the grid of `t1w`.
    gm, wm : Path, optional
        Probability maps of grey and white matter, in [0, 1], on the grid of `t1w`.
    cohort, resolution : str, optional
        Labels that were requested by ``:cohort-X`` and ``:res-Y``.
    uri : str
        Address of the image, for ``SpatialReference`` in sidecars.
    other_resolutions : tuple of Template
        The same template at other resolutions. Images are registered to this template, and
        resampled onto the grids of those as well.
    """

    space: str
    t1w: Path
    mask: Path | None = None
    gm: Path | None = None
    wm: Path | None = None
    cohort: str | None = None
    resolution: str | None = None
    uri: str = ''
    other_resolutions: tuple[Template, ...] = ()

    @property
    def name(self) -> str:
        """Name with its labels: ``SPACE:cohort-X:res-Y:res-Z``."""
        labels = [f'cohort-{self.cohort}'] if self.cohort else []
        templates = (self, *self.other_resolutions)
        labels += [f'res-{template.resolution}' for template in templates if template.resolution]
        return ':'.join([self.space, *labels])


def merge_resolutions(templates: Iterable[Template]) -> tuple[Template, ...]:
    """Merge templates that differ only in their resolution.

    Parameters
    ----------
    templates : iterable of Template
        Templates in the order in which they were requested.

    Returns
    -------
    tuple of Template
        The first of each group, with the others as its `other_resolutions`.
    """
    groups: dict[tuple[str, str | None], list[Template]] = {}
    for template in templates:
        groups.setdefault((template.space, template.cohort), []).append(template)
    return tuple(
        replace(first, other_resolutions=tuple(others)) for first, *others in groups.values()
    )

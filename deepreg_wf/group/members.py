"""Who belongs to a group: the registrations that a folder of derivatives holds."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_QC = '_desc-registration_qc.json'
_NAME = re.compile(
    r'(?P<image>.+?)_space-(?P<space>[A-Za-z0-9]+)(_cohort-(?P<cohort>[A-Za-z0-9]+))?'
)


@dataclass(frozen=True, kw_only=True)
class Member:
    """One registration of one image.

    Attributes
    ----------
    image : str
        Name of the image without its suffix, such as ``sub-01_ses-pre``.
    space : str
        Template, with its cohort after a plus sign if it has one.
    figures : mapping of str to float or None
        What its QC file holds.
    stem : Path
        What the names of all its files on the registration grid begin with.
    """

    image: str
    space: str
    figures: Mapping[str, float | None]
    stem: Path

    @property
    def participant(self) -> str:
        """Label, without ``sub-``."""
        return self.image.split('_')[0].removeprefix('sub-')

    def map(self, desc: str) -> Path | None:
        """File of a map on the registration grid, if there is one."""
        path = self.stem.with_name(f'{self.stem.name}_desc-{desc}_T1w.nii.gz')
        return path if path.is_file() else None

    def on_output_grid(self, name: str) -> Path | None:
        """File that ends in a name, on the output grid, of whatever resolution that has."""
        found = sorted(self.stem.parent.glob(f'{self.stem.name}_res-*_{name}'))
        plain = self.stem.with_name(f'{self.stem.name}_{name}')
        return plain if plain.is_file() else (found[0] if found else None)


@dataclass(frozen=True, kw_only=True)
class Members:
    """All that there is in a folder of derivatives.

    Attributes
    ----------
    by_space : mapping of str to tuple of Member
        In the order of their names.
    without : tuple of str
        Labels of participants that have a folder and no registration in it.
    unreadable : mapping of Path to str
        QC files that cannot be read, and why.
    """

    by_space: Mapping[str, tuple[Member, ...]]
    without: tuple[str, ...] = ()
    unreadable: Mapping[Path, str] = field(default_factory=dict)


def find_members(output_dir: Path) -> Members:
    """Find the registrations by their QC files; no other file is opened.

    Parameters
    ----------
    output_dir : Path
        Folder of the derivatives.

    Returns
    -------
    Members
    """
    by_space: dict[str, tuple[Member, ...]] = {}
    without, unreadable = [], {}
    for folder in sorted(output_dir.glob('sub-*')):
        files = sorted(folder.glob(f'**/anat/*{_QC}')) if folder.is_dir() else []
        if folder.is_dir() and not files:
            without.append(folder.name.removeprefix('sub-'))
        for path in files:
            try:
                member = _read(path)
            except (OSError, ValueError) as error:
                unreadable[path] = str(error).splitlines()[0]
                continue
            by_space[member.space] = (*by_space.get(member.space, ()), member)
    return Members(by_space=by_space, without=tuple(without), unreadable=unreadable)


def _read(path: Path) -> Member:
    stem = path.with_name(path.name.removesuffix(_QC))
    match = _NAME.fullmatch(stem.name)
    figures = json.loads(path.read_text(encoding='utf-8'))
    if match is None or not isinstance(figures, dict):
        raise ValueError('not the figures of a registration')
    space = f'{match["space"]}+{match["cohort"]}' if match['cohort'] else match['space']
    return Member(image=match['image'], space=space, figures=figures, stem=stem)

"""Records of the registrations that a folder of derivatives holds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deepreg_wf.errors import InputError
from deepreg_wf.qc.measures import read_measures

_QC_ENDING = '_desc-registration_qc.json'
_STEM = re.compile(
    r'(?P<image>sub-[A-Za-z0-9]+(_[a-z]+-[A-Za-z0-9]+)*?)'
    r'_space-(?P<space>[A-Za-z0-9]+)(_cohort-(?P<cohort>[A-Za-z0-9]+))?'
)


@dataclass(frozen=True, kw_only=True)
class RegistrationRecord:
    """Registration of one image to one template.

    Attributes
    ----------
    image : str
        Name of the image without its suffix, such as ``sub-01_ses-pre``.
    space : str
        Name of the template; a cohort follows after a plus sign.
    measures : mapping of str to float or None
        Content of the QC file.
    stem : Path
        Common beginning of the paths of all files on the registration grid.
    """

    image: str
    space: str
    measures: Mapping[str, float | None]
    stem: Path

    @property
    def participant(self) -> str:
        """Label of the participant, without ``sub-``."""
        return self.image.split('_')[0].removeprefix('sub-')

    def map_file(self, desc: str) -> Path | None:
        """Return the file of a map on the registration grid; None if there is none."""
        path = self.stem.with_name(f'{self.stem.name}_desc-{desc}_T1w.nii.gz')
        return path if path.is_file() else None

    def output_grid_file(self, ending: str) -> Path | None:
        """Return the file with this ending on an output grid; None if there is none.

        A file without a resolution in its name comes first.
        """
        plain = self.stem.with_name(f'{self.stem.name}_{ending}')
        if plain.is_file():
            return plain
        return min(self.stem.parent.glob(f'{self.stem.name}_res-*_{ending}'), default=None)


@dataclass(frozen=True, kw_only=True)
class GroupRecords:
    """Records of all registrations in a folder of derivatives.

    Attributes
    ----------
    by_space : mapping of str to tuple of RegistrationRecord
        Records of each template, in the order of their names.
    unregistered : tuple of str
        Labels of participants that have a folder without a registration.
    unreadable : mapping of Path to str
        QC files that cannot be used, with the reason.
    """

    by_space: Mapping[str, tuple[RegistrationRecord, ...]]
    unregistered: tuple[str, ...] = ()
    unreadable: Mapping[Path, str] = field(default_factory=dict)


def find_records(output_dir: Path) -> GroupRecords:
    """Find the registrations by their QC files; no other file is opened.

    Parameters
    ----------
    output_dir : Path
        Folder of the derivatives.

    Returns
    -------
    GroupRecords
    """
    by_space: dict[str, tuple[RegistrationRecord, ...]] = {}
    unregistered, unreadable = [], {}
    for folder in sorted(output_dir.glob('sub-*')):
        files = sorted(folder.glob(f'**/anat/*{_QC_ENDING}')) if folder.is_dir() else []
        if folder.is_dir() and not files:
            unregistered.append(folder.name.removeprefix('sub-'))
        for path in files:
            try:
                record = _read_record(path)
            except InputError as error:
                unreadable[path] = error.problem
                continue
            by_space[record.space] = (*by_space.get(record.space, ()), record)
    return GroupRecords(by_space=by_space, unregistered=tuple(unregistered), unreadable=unreadable)


def _read_record(path: Path) -> RegistrationRecord:
    """Read a QC file; its name says which registration it is of."""
    stem = path.with_name(path.name.removesuffix(_QC_ENDING))
    match = _STEM.fullmatch(stem.name)
    if match is None:
        raise InputError('its name is not that of a registration', path=path)
    measures = read_measures(path)
    space = f'{match["space"]}+{match["cohort"]}' if match['cohort'] else match['space']
    return RegistrationRecord(image=match['image'], space=space, measures=measures, stem=stem)

"""What the registrations to one template say together: mean images, average brain, modes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepreg_wf.bids.entities import write_json, write_text
from deepreg_wf.errors import InputError
from deepreg_wf.group.averages import Field, Moments, check_same, evened
from deepreg_wf.group.members import Member
from deepreg_wf.group.modes import Mode, Momenta
from deepreg_wf.lddmm import Metric, shoot
from deepreg_wf.spatial import (
    Transform,
    VoxelGrid,
    load_image,
    load_vector,
    resample,
    save_image,
    save_vector,
)

FOLDER = 'group'
"""Where the images of a group are, in the folder of the derivatives."""

SHOWN = 3
"""Modes that are written as images."""

EXTREME = 2.0
"""Standard deviations from the mean at which a mode is shown."""

TO_SUBJECT = 'template-to-subject'

Complain = Callable[[Member, str], None]
"""Takes a member that is left out, and why."""


@dataclass(kw_only=True)
class Atlas:
    """The files of one space, and what the page tells of them.

    Attributes
    ----------
    space : str
    images : dict of str to Path
        By what they show: those of `DESCRIPTIONS`.
    members : int
        Registrations in the mean images.
    shares : list of float
        Of the variance that each mode explains; empty where there are no momenta to compare.
    scores : dict of str to list of float
        Place of each image along the modes, in standard deviations.
    """

    space: str
    images: dict[str, Path] = field(default_factory=dict)
    members: int = 0
    shares: list[float] = field(default_factory=list)
    scores: dict[str, list[float]] = field(default_factory=dict)


_T1W = 'desc-preproc_T1w.nii.gz'

DESCRIPTIONS = {
    'mean': 'Mean of the T1-weighted images in the space of the template, each divided by the '
    'median of its brain.',
    'mask': 'Share of the brain masks that hold a voxel.',
    'meanlogjacobian': 'Mean of the log-Jacobian determinants.',
    'sdlogjacobian': 'Standard deviation of the log-Jacobian determinants over images.',
    'meanmomentum': 'Mean of the initial momenta; components along the axes of the voxel grid.',
    'average': 'Average brain: the mean image, carried along the geodesic of the mean momentum.',
    'mode{}': 'Principal mode of the momenta in the metric of the registration, one standard '
    'deviation; components along the axes of the voxel grid.',
    'mode{}minus': 'The mean image, carried to two standard deviations below the average.',
    'mode{}plus': 'The mean image, carried to two standard deviations above the average.',
}
"""What each image is; {} stands for the number of a mode."""


def _say_nothing(line: str) -> None:
    """Keep a step to oneself."""


def build_atlas(
    output_dir: Path,
    space: str,
    members: Sequence[Member],
    complain: Complain,
    tell: Callable[[str], None] = _say_nothing,
) -> Atlas:
    """Read all members of a space, one at a time, and write what they say together.

    Parameters
    ----------
    output_dir : Path
        Folder of the derivatives; the images go to its folder `FOLDER`.
    space : str
    members : sequence of Member
        All of that space.
    complain : callable
        Called for a member whose files are missing or do not fit; it is left out.
    tell : callable
        Called with each step that takes a while.

    Returns
    -------
    Atlas
        Without images where no member has one in template space, as at ``--level minimal``.
    """
    atlas = Atlas(space=space)
    if not any(member.on_output_grid(_T1W) for member in members):
        tell(f'{space}: no images in template space (--level minimal), so no averages')
        return atlas
    tell(f'{space}: averaging {len(members)} images')
    writer = _Writer(output_dir, atlas)
    means = _Means()
    kept = [member for member in members if _try(means.add, member, complain)]
    atlas.members = len(kept)
    if kept:
        means.write(writer)
    geodesics = _Geodesics.of(kept, complain)
    if geodesics is not None:
        geodesics.write(writer, means, tell)
    return atlas


def _try(add: Callable[[Member], None], member: Member, complain: Complain) -> bool:
    try:
        add(member)
    except InputError as error:
        complain(member, str(error))
        return False
    return True


@dataclass
class _Writer:
    """Names and writes the images of an atlas."""

    output_dir: Path
    atlas: Atlas

    def path(self, desc: str, extension: str = '.nii.gz', suffix: str = 'T1w') -> Path:
        folder = self.output_dir / FOLDER
        folder.mkdir(exist_ok=True)
        space = self.atlas.space.replace('+', '_cohort-')
        return folder / f'group_space-{space}_desc-{desc}_{suffix}{extension}'

    def image(self, desc: str, data: Any, grid: VoxelGrid) -> None:
        self._write(save_image, desc, data, grid)

    def vector(self, desc: str, data: Any, grid: VoxelGrid) -> None:
        self._write(save_vector, desc, data, grid)

    def _write(self, save: Callable[..., None], desc: str, data: Any, grid: VoxelGrid) -> None:
        path = self.path(desc)
        save(path, data, grid)
        kind = ''.join('{}' if letter.isdigit() else letter for letter in desc)
        sidecar = {'Description': DESCRIPTIONS[kind], 'Images': self.atlas.members}
        write_json(path.with_name(path.name.removesuffix('.nii.gz') + '.json'), sidecar)
        self.atlas.images[desc] = path


class _Means:
    """Running means of what lies in the space of the template, by what it is."""

    def __init__(self) -> None:
        self._moments: dict[str, Moments] = {}

    def add(self, member: Member) -> None:
        """Take a member in, with all of its images or none."""
        image = _needed(member, member.on_output_grid(_T1W), 'T1w image')
        mask = _needed(member, member.on_output_grid('desc-brain_mask.nii.gz'), 'brain mask')
        jacobian = _needed(member, member.map('logjacobian'), 'log-Jacobian')
        read = {
            't1w': (image, *evened(image, mask)),
            'mask': (mask, *load_image(mask)),
            'log_jacobian': (jacobian, *load_image(jacobian)),
        }
        for name, (path, _, grid) in read.items():
            check_same(grid, self._moments.setdefault(name, Moments(grid)).grid, path)
        for name, (_, data, _) in read.items():
            self._moments[name].add(data)

    def image(self) -> tuple[Field, VoxelGrid]:
        """The mean T1-weighted image."""
        return self._moments['t1w'].mean, self._moments['t1w'].grid

    def write(self, writer: _Writer) -> None:
        jacobian, mask = self._moments['log_jacobian'], self._moments['mask']
        writer.image('mean', *self.image())
        writer.image('mask', mask.mean, mask.grid)
        writer.image('meanlogjacobian', jacobian.mean, jacobian.grid)
        if writer.atlas.members > 1:
            writer.image('sdlogjacobian', jacobian.deviation, jacobian.grid)


@dataclass
class _Geodesics:
    """Momenta that start at the template, hence can be averaged."""

    members: list[Member]
    grid: VoxelGrid
    metric: Metric
    momenta: Momenta

    @classmethod
    def of(cls, members: Sequence[Member], complain: Complain) -> _Geodesics | None:
        """Read the momenta of members that have one from the template to the subject."""
        described = [(member, _geodesic_of(member)) for member in members]
        known = [(member, facts) for member, facts in described if facts is not None]
        if not known:
            return None
        first, facts = known[0]
        _, grid = load_vector(_momentum_of(first))
        metric = Metric(grid.shape, grid.spacing, **facts)
        alike = [member for member, other in known if other == facts]
        made = cls([], grid, metric, Momenta(metric))
        made.members += [member for member in alike if _try(made._add, member, complain)]
        return made if made.members else None

    def _add(self, member: Member) -> None:
        self.momenta.add(self._read(member))

    def _read(self, member: Member) -> Tensor:
        path = _momentum_of(member)
        momentum, grid = load_vector(path)
        check_same(grid, self.grid, path)
        return torch.from_numpy(momentum)

    def write(self, writer: _Writer, means: _Means, tell: Callable[[str], None]) -> None:
        """Write the mean momentum, the average brain, the modes and the scores."""
        mean, modes = self.momenta.mean, self.momenta.modes()
        tell(f'{writer.atlas.space}: average brain, and {len(modes[:SHOWN])} modes')
        writer.vector('meanmomentum', mean.numpy(), self.grid)
        writer.image('average', *self._carry(means, mean))
        for number, mode in enumerate(modes[:SHOWN], start=1):
            writer.vector(f'mode{number}', mode.momentum.numpy(), self.grid)
            for name, sign in (('minus', -EXTREME), ('plus', EXTREME)):
                place = mean + sign * mode.momentum
                writer.image(f'mode{number}{name}', *self._carry(means, place))
        writer.atlas.shares = [mode.share for mode in modes]
        if modes:
            self._write_scores(writer, modes)

    def _carry(self, means: _Means, momentum: Tensor) -> tuple[Any, VoxelGrid]:
        """The mean image at the end of a geodesic."""
        inverse = shoot(momentum, self.metric).phi_inverse.numpy()
        image, grid = means.image()
        return resample(image, grid, grid, Transform(warp=inverse, grid=self.grid)), grid

    def _write_scores(self, writer: _Writer, modes: Sequence[Mode]) -> None:
        # A second reading is cheaper than keeping all momenta in memory.
        scores = {m.image: self.momenta.scores(self._read(m)) for m in self.members}
        head = '\t'.join(['image', *(f'mode{number + 1}' for number in range(len(modes)))])
        rows = ['\t'.join([name, *(f'{s:.4f}' for s in row)]) for name, row in scores.items()]
        write_text(writer.path('modes', '.tsv', suffix='scores'), '\n'.join([head, *rows]) + '\n')
        writer.atlas.scores = scores


def _geodesic_of(member: Member) -> dict[str, Any] | None:
    """Metric of the momentum of a member; None where there is none from the template."""
    path = member.map('momentum')
    sidecar = path and path.with_name(path.name.removesuffix('.nii.gz') + '.json')
    if sidecar is None or not sidecar.is_file():
        return None
    facts = json.loads(sidecar.read_text(encoding='utf-8'))
    return facts.get('Metric') if facts.get('Direction') == TO_SUBJECT else None


def _momentum_of(member: Member) -> Path:
    return _needed(member, member.map('momentum'), 'momentum')


def _needed(member: Member, path: Path | None, what: str) -> Path:
    if path is None:
        raise InputError(
            f'{member.stem}: its {what} is missing; run this image again at --level full.'
        )
    return path

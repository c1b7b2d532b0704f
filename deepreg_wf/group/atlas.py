"""Atlas of the registrations to one template: mean images, average brain and principal modes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepreg_wf.errors import InputError
from deepreg_wf.group.averages import (
    Image,
    RunningMoments,
    check_same_grid,
    load_median_scaled,
)
from deepreg_wf.group.modes import MomentumStatistics, PrincipalMode
from deepreg_wf.group.records import RegistrationRecord
from deepreg_wf.lddmm import DEFAULT_METRIC, Metric, shoot
from deepreg_wf.spatial import (
    Transform,
    VoxelGrid,
    load_image,
    load_vector,
    resample,
    save_image,
    save_vector,
)
from deepreg_wf.utils.atomic import write_json, write_text
from deepreg_wf.utils.json_file import read_json_object

IMAGE_FOLDER = 'group'
"""Folder of the images of a group, in the folder of the derivatives."""

N_MODE_IMAGES = 3
"""Number of modes that are written as images."""

MODE_EXTENT = 2.0
"""Distance from the mean at which a mode is shown, in standard deviations."""

TEMPLATE_TO_SUBJECT = 'template-to-subject'
"""Direction of momenta that start at the template, in their sidecars."""

_MAX_PARAMETER = 1e6
"""Bound of plausible parameters of a metric."""

OnError = Callable[[RegistrationRecord, str], None]
"""Function that takes a record that is left out, and the reason."""


@dataclass(kw_only=True)
class Atlas:
    """Images and statistics of the registrations to one template.

    Attributes
    ----------
    space : str
        Name of the template.
    images : dict of str to Path
        Images by their content; the keys are those of `DESCRIPTIONS`.
    n_images : int
        Number of registrations in the mean images.
    explained_variance_ratio : list of float
        Fraction of the variance that each mode explains; empty if there are no momenta.
    scores : dict of str to list of float
        Coordinates of each image along the modes, in standard deviations.
    """

    space: str
    images: dict[str, Path] = field(default_factory=dict)
    n_images: int = 0
    explained_variance_ratio: list[float] = field(default_factory=list)
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
"""Descriptions of the images; {} stands for the number of a mode. They are written to sidecars,
so they must not change without a reason."""


def _ignore(line: str) -> None:
    """Ignore a line of the log."""


def build_atlas(
    output_dir: Path,
    space: str,
    records: Sequence[RegistrationRecord],
    on_error: OnError,
    log: Callable[[str], None] = _ignore,
) -> Atlas:
    """Build the atlas of one template; registrations are read one at a time.

    Parameters
    ----------
    output_dir : Path
        Folder of the derivatives; the images are written to its folder `IMAGE_FOLDER`.
    space : str
        Name of the template.
    records : sequence of RegistrationRecord
        All registrations to this template.
    on_error : callable
        Called for a registration whose files are missing or do not fit; it is left out.
    log : callable
        Called with a line before each long step.

    Returns
    -------
    Atlas
        Without images if no registration has images in template space, as at
        ``--level minimal``.
    """
    atlas = Atlas(space=space)
    if not any(record.output_grid_file(_T1W) for record in records):
        log(f'{space}: no images in template space (--level minimal), so no averages')
        return atlas
    log(f'{space}: averaging {len(records)} images')
    writer = _AtlasWriter(output_dir, atlas)
    means = _MeanImages()
    added = [record for record in records if _try_add(means.add, record, on_error)]
    atlas.n_images = len(added)
    if added:
        means.write(writer)
    shapes = _ShapeStatistics.from_records(added, on_error)
    if shapes is not None:
        shapes.write(writer, means, log)
    return atlas


def _try_add(
    add: Callable[[RegistrationRecord], None], record: RegistrationRecord, on_error: OnError
) -> bool:
    """Add a record; report an error and return False if its files cannot be used."""
    try:
        add(record)
    except InputError as error:
        on_error(record, str(error))
        return False
    return True


@dataclass
class _AtlasWriter:
    """Writer of the images of an atlas, under their names."""

    output_dir: Path
    atlas: Atlas

    def path(self, desc: str, extension: str = '.nii.gz', suffix: str = 'T1w') -> Path:
        folder = self.output_dir / IMAGE_FOLDER
        folder.mkdir(exist_ok=True)
        space = self.atlas.space.replace('+', '_cohort-')
        return folder / f'group_space-{space}_desc-{desc}_{suffix}{extension}'

    def write_image(self, desc: str, data: Any, grid: VoxelGrid) -> None:
        self._write(save_image, desc, data, grid)

    def write_vectors(self, desc: str, data: Any, grid: VoxelGrid) -> None:
        self._write(save_vector, desc, data, grid)

    def _write(self, save: Callable[..., None], desc: str, data: Any, grid: VoxelGrid) -> None:
        path = self.path(desc)
        save(path, data, grid)
        key = ''.join('{}' if letter.isdigit() else letter for letter in desc)
        sidecar = {'Description': DESCRIPTIONS[key], 'Images': self.atlas.n_images}
        write_json(_sidecar(path), sidecar)
        self.atlas.images[desc] = path


class _MeanImages:
    """Running means of the images in template space."""

    def __init__(self) -> None:
        self._moments: dict[str, RunningMoments] = {}

    def add(self, record: RegistrationRecord) -> None:
        """Add all images of a registration; if one cannot be used, add none of them."""
        image = _require(record, record.output_grid_file(_T1W), 'T1w image')
        mask = _require(record, record.output_grid_file('desc-brain_mask.nii.gz'), 'brain mask')
        jacobian = _require(record, record.map_file('logjacobian'), 'log-Jacobian')
        loaded = {
            't1w': (image, *load_median_scaled(image, mask)),
            'mask': (mask, *load_image(mask)),
            'log_jacobian': (jacobian, *load_image(jacobian)),
        }
        for name, (path, _, grid) in loaded.items():
            expected = self._moments.setdefault(name, RunningMoments(grid)).grid
            check_same_grid(grid, expected, path)
        for name, (_, data, _) in loaded.items():
            self._moments[name].add(data)

    def mean_t1w(self) -> tuple[Image, VoxelGrid]:
        """Return the mean T1-weighted image and its grid."""
        return self._moments['t1w'].mean, self._moments['t1w'].grid

    def write(self, writer: _AtlasWriter) -> None:
        jacobian, mask = self._moments['log_jacobian'], self._moments['mask']
        writer.write_image('mean', *self.mean_t1w())
        writer.write_image('mask', mask.mean, mask.grid)
        writer.write_image('meanlogjacobian', jacobian.mean, jacobian.grid)
        if writer.atlas.n_images > 1:
            writer.write_image('sdlogjacobian', jacobian.std, jacobian.grid)


@dataclass
class _ShapeStatistics:
    """Statistics of momenta that start at the template and have the same metric."""

    records: list[RegistrationRecord]
    grid: VoxelGrid
    metric: Metric
    statistics: MomentumStatistics

    @classmethod
    def from_records(
        cls, records: Sequence[RegistrationRecord], on_error: OnError
    ) -> _ShapeStatistics | None:
        """Read all momenta with the metric of most of them; return None if there are none."""
        metrics = [(record, _try_read_metric(record, on_error)) for record in records]
        usable = [(record, metric) for record, metric in metrics if metric is not None]
        if not usable:
            return None
        found = [metric for _, metric in usable]
        parameters = max(found, key=found.count)
        made: _ShapeStatistics | None = None
        for record, other in usable:
            if other != parameters:
                on_error(record, 'its momentum has another metric than those of most images.')
            elif made is None:
                made = cls._from_first(record, parameters, on_error)
            else:
                _try_add(made._add, record, on_error)
        return made

    @classmethod
    def _from_first(
        cls, record: RegistrationRecord, parameters: dict[str, Any], on_error: OnError
    ) -> _ShapeStatistics | None:
        """Start with a momentum; return None if it cannot be used."""
        try:
            _, grid = load_vector(_momentum_file(record))
        except InputError as error:
            on_error(record, str(error))
            return None
        metric = Metric(grid.shape, grid.spacing, **parameters)
        made = cls([], grid, metric, MomentumStatistics(metric))
        return made if _try_add(made._add, record, on_error) else None

    def _add(self, record: RegistrationRecord) -> None:
        self.statistics.add(self._read(record))
        self.records.append(record)

    def _read(self, record: RegistrationRecord) -> Tensor:
        """Read a momentum, shape (3, X, Y, Z)."""
        path = _momentum_file(record)
        momentum, grid = load_vector(path)
        check_same_grid(grid, self.grid, path)
        return torch.from_numpy(momentum)

    def write(self, writer: _AtlasWriter, means: _MeanImages, log: Callable[[str], None]) -> None:
        """Write the mean momentum, the average brain, the modes and the scores."""
        mean, modes = self.statistics.mean, self.statistics.modes()
        log(f'{writer.atlas.space}: average brain, and {len(modes[:N_MODE_IMAGES])} modes')
        writer.write_vectors('meanmomentum', mean.numpy(), self.grid)
        writer.write_image('average', *self._deform(means, mean))
        for number, mode in enumerate(modes[:N_MODE_IMAGES], start=1):
            writer.write_vectors(f'mode{number}', mode.momentum.numpy(), self.grid)
            for name, sign in (('minus', -MODE_EXTENT), ('plus', MODE_EXTENT)):
                momentum = mean + sign * mode.momentum
                writer.write_image(f'mode{number}{name}', *self._deform(means, momentum))
        writer.atlas.explained_variance_ratio = [mode.explained_variance_ratio for mode in modes]
        if modes:
            self._write_scores(writer, modes)

    def _deform(self, means: _MeanImages, momentum: Tensor) -> tuple[Any, VoxelGrid]:
        """Deform the mean image by the geodesic of a momentum."""
        inverse = shoot(momentum, self.metric).phi_inverse.numpy()
        image, grid = means.mean_t1w()
        return resample(image, grid, grid, Transform(warp=inverse, grid=self.grid)), grid

    def _write_scores(self, writer: _AtlasWriter, modes: Sequence[PrincipalMode]) -> None:
        # The momenta are read again, because all of them together may not fit into memory.
        scores = {r.image: self.statistics.scores(self._read(r)) for r in self.records}
        head = '\t'.join(['image', *(f'mode{number + 1}' for number in range(len(modes)))])
        rows = ['\t'.join([name, *(f'{s:.4f}' for s in row)]) for name, row in scores.items()]
        write_text(writer.path('modes', '.tsv', suffix='scores'), '\n'.join([head, *rows]) + '\n')
        writer.atlas.scores = scores


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name.removesuffix('.nii.gz') + '.json')


def _read_metric(record: RegistrationRecord) -> dict[str, Any] | None:
    """Read the metric of a momentum; return None if it allows no statistics."""
    path = record.map_file('momentum')
    if path is None or not _sidecar(path).is_file():
        return None
    metadata = read_json_object(_sidecar(path))
    if metadata.get('Direction') != TEMPLATE_TO_SUBJECT or 'Metric' not in metadata:
        return None
    metric = metadata['Metric']
    if not (isinstance(metric, dict) and _is_metric(metric)):
        raise InputError(
            'its Metric is not one', advice='run this image again', path=_sidecar(path)
        )
    # The statistics need the square root of the metric, which one of odd power lacks.
    return metric if metric.get('power', DEFAULT_METRIC['power']) == 2 else None


def _is_metric(metric: dict[str, Any]) -> bool:
    """Check the names and the values of the parameters of a metric."""
    values: dict[str, Any] = {**DEFAULT_METRIC, **metric}
    numbers = [values[name] for name in ('alpha', 'beta', 'gamma', 'power')]
    return (
        set(values) == set(DEFAULT_METRIC)
        and all(type(value) in (int, float) and 0 <= value < _MAX_PARAMETER for value in numbers)
        and values['gamma'] > 0
        and values['power'] in (1, 2)
        and isinstance(values['discrete'], bool)
    )


def _try_read_metric(record: RegistrationRecord, on_error: OnError) -> dict[str, Any] | None:
    """Read the metric of a momentum; report an error and return None if it is damaged."""
    try:
        return _read_metric(record)
    except InputError as error:
        on_error(record, str(error))
        return None


def _momentum_file(record: RegistrationRecord) -> Path:
    return _require(record, record.map_file('momentum'), 'momentum')


def _require(record: RegistrationRecord, path: Path | None, content: str) -> Path:
    """Return the path of a file; raise an error if there is none."""
    if path is None:
        raise InputError(
            f'its {content} is missing',
            advice='run this image again at --level full',
            path=record.stem,
        )
    return path

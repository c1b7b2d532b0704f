"""Interfaces of LDDMM: matching of two brains, and shooting of the momenta of a chain."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nipype import logging
from nipype.interfaces.base import (
    File,
    InputMultiObject,
    OutputMultiObject,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from deepreg_wf.errors import InputError
from deepreg_wf.interfaces._tensors import ComputeInputSpec, load_normalised, load_tensor

if TYPE_CHECKING:
    from torch import Tensor

    from deepreg_wf.lddmm import Chain, Link, Match, Metric
    from deepreg_wf.spatial import VoxelGrid

LOGGER = logging.getLogger('nipype.interface')


class _RefineMomentumInputSpec(ComputeInputSpec):
    moving_image = File(exists=True, mandatory=True, desc='brain that is deformed')
    fixed_image = File(exists=True, mandatory=True, desc='brain to be matched, on the same grid')
    fixed_mask = File(exists=True, desc='matched voxels of the fixed image; all by default')
    moving_mask = File(exists=True, desc='matched voxels of the moving image; all by default')
    momentum = File(exists=True, desc='momentum that the first geodesic starts from; or zero')
    metric = traits.Dict(desc='alpha, beta, gamma and power of the metric of that momentum')
    iterations = traits.Either(
        traits.Int,
        traits.List(traits.Int),
        desc='maximum iterations of a single geodesic at each level, from the coarsest to the '
        'full grid; or one number for each level of each geodesic of a chain',
    )


class _RefineMomentumOutputSpec(TraitedSpec):
    momentum = File(exists=True, desc='initial momentum, components along the axes of the grid')
    metric = traits.Dict(desc='metric of the momentum')
    later_momenta = OutputMultiObject(File(exists=True), desc='momenta of the later geodesics')
    later_metrics = traits.List(traits.Dict, desc='their metrics')
    trace = File(exists=True, desc='energies of the matching (JSON)')


class RefineMomentum(SimpleInterface):
    """Find the geodesics that deform the moving into the fixed image, by LDDMM matching.

    The first geodesic starts from `momentum`, or from zero; each other one deforms what those
    before it have deformed (see `deepreg_wf.lddmm.chain`).

    Examples
    --------
    >>> refine = RefineMomentum(moving_image='template_brain.nii.gz', fixed_image='aligned.nii.gz')
    >>> refine.inputs.iterations = 2
    >>> Path(refine.run().outputs.momentum).name
    'momentum.nii.gz'
    """

    input_spec = _RefineMomentumInputSpec
    output_spec = _RefineMomentumOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        import torch

        from deepreg_wf import lddmm
        from deepreg_wf.spatial import save_vector

        torch.set_num_threads(self.inputs.num_threads)
        moving, grid = load_normalised(self.inputs.moving_image, self.inputs.device)
        fixed, _ = load_normalised(self.inputs.fixed_image, self.inputs.device, grid)
        metric = lddmm.Metric(grid.shape, grid.spacing, device=self.inputs.device)
        links = self._links(grid)
        matches = lddmm.match_chain(
            moving,
            fixed,
            metric,
            links,
            fixed_mask=self._load_optional('fixed_mask', grid, vector=False),
            moving_mask=self._load_optional('moving_mask', grid, vector=False),
            initial_momentum=self._load_optional('momentum', grid, vector=True),
            progress=_log_progress,
        )
        paths = [_momentum_path(Path(runtime.cwd), number) for number, _ in enumerate(matches)]
        for path, match in zip(paths, matches, strict=True):
            save_vector(path, match.momentum.cpu().numpy(), grid)
        trace = Path(runtime.cwd) / 'matching.json'
        trace.write_text(json.dumps({'levels': _levels(matches)}))
        self._results['trace'] = str(trace)
        self._results['momentum'], *self._results['later_momenta'] = map(str, paths)
        self._results['metric'], *self._results['later_metrics'] = (link.metric for link in links)
        return runtime

    def _links(self, grid: VoxelGrid) -> list[Link]:
        """Return the links of the chain, the first with the metric that was given."""
        from deepreg_wf.lddmm import MatchingSchedule, default_links

        iterations = self.inputs.iterations
        if isinstance(iterations, list):
            first, *_ = default_links(grid.spacing)
            links = [replace(first, schedule=MatchingSchedule(tuple(iterations)))]
        else:
            links = [*default_links(grid.spacing, iterations if isdefined(iterations) else None)]
        if isdefined(self.inputs.metric):
            links[0] = replace(links[0], metric=self.inputs.metric)
        return links

    def _load_optional(self, name: str, grid: VoxelGrid, *, vector: bool) -> Tensor | None:
        path = getattr(self.inputs, name)
        if not isdefined(path):
            return None
        return load_tensor(path, self.inputs.device, grid, vector=vector)[0]


class _GeodesicShootingInputSpec(ComputeInputSpec):
    momentum = File(exists=True, mandatory=True, desc='initial momentum')
    metric = traits.Dict(desc='alpha, beta, gamma and power; the default metric if not given')
    later_momenta = InputMultiObject(File(exists=True), desc='momenta of the later geodesics')
    later_metrics = traits.List(traits.Dict, desc='their metrics; the default metric if not given')
    direction = traits.Enum(
        'template-to-subject',
        'subject-to-template',
        usedefault=True,
        desc='which image the momentum moves onto which',
    )


class _GeodesicShootingOutputSpec(TraitedSpec):
    warp = File(exists=True, desc='displacement from template points to subject points')
    inverse_warp = File(exists=True, desc='displacement from subject points to template points')
    log_jacobian = File(exists=True, desc='log-determinant of the Jacobian of the warp')
    momentum = File(exists=True, desc='momentum that was shot; shortened if a map would fold')
    later_momenta = OutputMultiObject(File(exists=True), desc='those of the later geodesics')
    trace = File(exists=True, desc='metric, time steps and energies (JSON)')


class GeodesicShooting(SimpleInterface):
    """Shoot momenta: compute the maps between template and subject, on the template grid.

    The maps of the geodesics are composed. Neither map folds: if one would, the momentum that
    makes it fold is shortened until both are invertible.

    Examples
    --------
    >>> geodesic = GeodesicShooting(momentum='momentum.nii.gz').run().outputs
    >>> Path(geodesic.warp).name, Path(geodesic.inverse_warp).name
    ('warp.nii.gz', 'inverse_warp.nii.gz')
    """

    input_spec = _GeodesicShootingInputSpec
    output_spec = _GeodesicShootingOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        import torch

        from deepreg_wf import lddmm
        from deepreg_wf.spatial import save_displacement, save_image, save_vector

        torch.set_num_threads(self.inputs.num_threads)
        momenta, grid = self._load_momenta()
        metrics = self._metrics(grid)
        try:
            chain = lddmm.shoot_chain(momenta, metrics)
        except ValueError as error:
            raise InputError(
                str(error),
                advice='check the brain mask and the affine',
                path=self.inputs.momentum,
            ) from error
        warp, inverse = chain.phi.cpu(), chain.phi_inverse.cpu()
        if self.inputs.direction == 'subject-to-template':
            warp, inverse = inverse, warp
        folder = Path(runtime.cwd)
        save_displacement(folder / 'warp.nii.gz', warp.numpy(), grid)
        save_displacement(folder / 'inverse_warp.nii.gz', inverse.numpy(), grid)
        log_jacobian = lddmm.fields.jacobian_determinant(warp).log()
        save_image(folder / 'log_jacobian.nii.gz', log_jacobian.numpy(), grid)
        paths = self._momentum_files()
        for number, (given, shot) in enumerate(zip(momenta, chain.momenta, strict=True)):
            if shot is not given:
                paths[number] = str(_momentum_path(folder, number))
                save_vector(paths[number], shot.cpu().numpy(), grid)
        self._results['momentum'], *self._results['later_momenta'] = paths
        (folder / 'shooting.json').write_text(json.dumps(self._trace(chain, metrics)))
        for name in ('warp', 'inverse_warp', 'log_jacobian'):
            self._results[name] = str(folder / f'{name}.nii.gz')
        self._results['trace'] = str(folder / 'shooting.json')
        return runtime

    def _momentum_files(self) -> list[str]:
        later = self.inputs.later_momenta
        return [self.inputs.momentum, *(later if isdefined(later) else ())]

    def _load_momenta(self) -> tuple[list[Tensor], VoxelGrid]:
        first, *later = self._momentum_files()
        momentum, grid = load_tensor(first, self.inputs.device, vector=True)
        others = [load_tensor(path, self.inputs.device, grid, vector=True)[0] for path in later]
        return [momentum, *others], grid

    def _metrics(self, grid: VoxelGrid) -> list[Metric]:
        """Return the metric of each momentum, on its voxels."""
        from deepreg_wf.lddmm import DEFAULT_METRIC, Metric

        n_later = len(self._momentum_files()) - 1
        given, later = self.inputs.metric, self.inputs.later_metrics
        parameters = [
            given if isdefined(given) else DEFAULT_METRIC,
            *(later if isdefined(later) and later else [DEFAULT_METRIC] * n_later),
        ]
        device = self.inputs.device
        return [Metric(grid.shape, grid.spacing, device=device, **each) for each in parameters]

    def _trace(self, chain: Chain, metrics: Sequence[Metric]) -> dict[str, Any]:
        """Return the record of the shooting; its first level is that of the first geodesic."""
        links = [
            {
                'metric': metric.parameters,
                'steps': len(geodesic.energy) - 1,
                'energy': geodesic.energy.tolist(),
            }
            for metric, geodesic in zip(metrics, chain.geodesics, strict=True)
        ]
        return {
            **links[0],
            'later': links[1:],
            'direction': self.inputs.direction,
            'energy_drift': chain.energy_drift,
        }


def _momentum_path(folder: Path, number: int) -> Path:
    """Return the file of the momentum of a geodesic, counted from 0."""
    return folder / ('momentum.nii.gz' if number == 0 else f'momentum{number + 1}.nii.gz')


def _levels(matches: Sequence[Match]) -> list[dict[str, Any]]:
    """Return the energies of each level of each geodesic at which there were iterations."""
    return [
        {'geodesic': number, 'spacing': spacing, 'energy': list(energies)}
        for number, match in enumerate(matches, start=1)
        for spacing, energies in zip(match.spacings, match.energies, strict=True)
        if energies
    ]


def _log_progress(spacing: float, iteration: int, energy: float) -> None:
    LOGGER.info('matching at %g mm, iteration %d: energy %.0f', spacing, iteration, energy)

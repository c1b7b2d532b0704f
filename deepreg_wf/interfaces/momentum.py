"""Interfaces of LDDMM: matching of two brains, and shooting of a momentum."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nipype import logging
from nipype.interfaces.base import File, SimpleInterface, TraitedSpec, isdefined, traits

from deepreg_wf.errors import InputError
from deepreg_wf.interfaces._tensors import ComputeInputSpec, load_normalised, load_tensor

if TYPE_CHECKING:
    from torch import Tensor

    from deepreg_wf.lddmm import MatchingSchedule
    from deepreg_wf.spatial import VoxelGrid

LOGGER = logging.getLogger('nipype.interface')


class _RefineMomentumInputSpec(ComputeInputSpec):
    moving_image = File(exists=True, mandatory=True, desc='brain that is deformed')
    fixed_image = File(exists=True, mandatory=True, desc='brain to be matched, on the same grid')
    fixed_mask = File(exists=True, desc='matched voxels of the fixed image; all by default')
    moving_mask = File(exists=True, desc='matched voxels of the moving image; all by default')
    momentum = File(exists=True, desc='initial value of the momentum; zero by default')
    metric = traits.Dict(desc='alpha, beta, gamma and power; the default metric if not given')
    iterations = traits.Either(
        traits.Int,
        traits.List(traits.Int),
        desc='maximum iterations of each level, from the coarsest to the full grid; or one number '
        'for each level from 4 mm on',
    )


class _RefineMomentumOutputSpec(TraitedSpec):
    momentum = File(exists=True, desc='initial momentum, components along the axes of the grid')
    metric = traits.Dict(desc='metric of the momentum')
    trace = File(exists=True, desc='energies of the matching (JSON)')


class RefineMomentum(SimpleInterface):
    """Find or refine the momentum that deforms the moving into the fixed image, by LDDMM matching.

    Matching starts from `momentum`, or from zero, and ends at convergence or after `iterations`.

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
        metric = lddmm.Metric(
            grid.shape, grid.spacing, device=self.inputs.device, **self._metric_parameters()
        )
        match = lddmm.match(
            moving,
            fixed,
            metric,
            similarity=lddmm.DEFAULT_SIMILARITY,
            schedule=self._schedule(),
            fixed_mask=self._load_optional('fixed_mask', grid, vector=False),
            moving_mask=self._load_optional('moving_mask', grid, vector=False),
            initial_momentum=self._load_optional('momentum', grid, vector=True),
            progress=_log_progress,
        )
        folder = Path(runtime.cwd)
        save_vector(folder / 'momentum.nii.gz', match.momentum.cpu().numpy(), grid)
        levels = [
            {'spacing': spacing, 'energy': list(energies)}
            for spacing, energies in zip(match.spacings, match.energies, strict=True)
        ]
        (folder / 'matching.json').write_text(json.dumps({'levels': levels}))
        self._results['momentum'] = str(folder / 'momentum.nii.gz')
        self._results['trace'] = str(folder / 'matching.json')
        self._results['metric'] = metric.parameters
        return runtime

    def _metric_parameters(self) -> dict[str, Any]:
        from deepreg_wf.lddmm import DEFAULT_METRIC

        return dict(self.inputs.metric) if isdefined(self.inputs.metric) else dict(DEFAULT_METRIC)

    def _schedule(self) -> MatchingSchedule:
        from deepreg_wf.lddmm import MatchingSchedule

        iterations = self.inputs.iterations
        if not isdefined(iterations):
            return MatchingSchedule()
        return MatchingSchedule(iterations if isinstance(iterations, int) else tuple(iterations))

    def _load_optional(self, name: str, grid: VoxelGrid, *, vector: bool) -> Tensor | None:
        path = getattr(self.inputs, name)
        if not isdefined(path):
            return None
        return load_tensor(path, self.inputs.device, grid, vector=vector)[0]


class _GeodesicShootingInputSpec(ComputeInputSpec):
    momentum = File(exists=True, mandatory=True, desc='initial momentum')
    metric = traits.Dict(desc='alpha, beta, gamma and power; the default metric if not given')
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
    trace = File(exists=True, desc='metric, time steps and energies (JSON)')


class GeodesicShooting(SimpleInterface):
    """Shoot a momentum: compute the maps between template and subject, on the template grid.

    Neither map folds: if one would, the momentum is shortened until both are invertible.

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
        momentum, grid = load_tensor(self.inputs.momentum, self.inputs.device, vector=True)
        parameters = self.inputs.metric if isdefined(self.inputs.metric) else lddmm.DEFAULT_METRIC
        metric = lddmm.Metric(grid.shape, grid.spacing, device=self.inputs.device, **parameters)
        try:
            shot, geodesic = lddmm.shoot_invertible(momentum, metric)
        except ValueError as error:
            raise InputError(
                str(error),
                advice='check the brain mask and the affine',
                path=self.inputs.momentum,
            ) from error
        warp, inverse = geodesic.phi.cpu(), geodesic.phi_inverse.cpu()
        if self.inputs.direction == 'subject-to-template':
            warp, inverse = inverse, warp
        folder = Path(runtime.cwd)
        save_displacement(folder / 'warp.nii.gz', warp.numpy(), grid)
        save_displacement(folder / 'inverse_warp.nii.gz', inverse.numpy(), grid)
        log_jacobian = lddmm.fields.jacobian_determinant(warp).log()
        save_image(folder / 'log_jacobian.nii.gz', log_jacobian.numpy(), grid)
        self._results['momentum'] = self.inputs.momentum
        if shot is not momentum:
            save_vector(folder / 'momentum.nii.gz', shot.cpu().numpy(), grid)
            self._results['momentum'] = str(folder / 'momentum.nii.gz')
        trace = {
            'metric': metric.parameters,
            'steps': len(geodesic.energy) - 1,
            'direction': self.inputs.direction,
            'energy': geodesic.energy.tolist(),
            'energy_drift': geodesic.energy_drift,
        }
        (folder / 'shooting.json').write_text(json.dumps(trace))
        for name in ('warp', 'inverse_warp', 'log_jacobian'):
            self._results[name] = str(folder / f'{name}.nii.gz')
        self._results['trace'] = str(folder / 'shooting.json')
        return runtime


def _log_progress(spacing: float, iteration: int, energy: float) -> None:
    LOGGER.info('matching at %g mm, iteration %d: energy %.0f', spacing, iteration, energy)

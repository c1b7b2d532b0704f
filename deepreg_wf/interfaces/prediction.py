"""Interfaces that predict the momentum between two brains, correct it, and measure uncertainty."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nipype import logging
from nipype.interfaces.base import File, SimpleInterface, TraitedSpec, isdefined, traits

from deepreg_wf.errors import InputError
from deepreg_wf.interfaces._tensors import ComputeInputSpec, load_normalised, load_tensor

if TYPE_CHECKING:
    from torch import Tensor

    from deepreg_wf.lddmm import Metric
    from deepreg_wf.quicksilver import Checkpoint

LOGGER = logging.getLogger('nipype.interface')


class _NetworkInputSpec(ComputeInputSpec):
    moving_image = File(exists=True, mandatory=True, desc='brain that is deformed')
    fixed_image = File(exists=True, mandatory=True, desc='brain to align with, on the same grid')
    weights = File(exists=True, mandatory=True, desc='trained network (.safetensors)')
    batch_size = traits.Range(
        low=1, value=32, usedefault=True, nohash=True, desc='largest number of patches at once'
    )


class _MomentumOutputSpec(TraitedSpec):
    momentum = File(exists=True, desc='initial momentum, components along the axes of the grid')
    metric = traits.Dict(desc='parameters of the metric of the momentum')


class PredictMomentum(SimpleInterface):
    """Predict the momentum that carries the moving image onto the fixed image.

    Examples
    --------
    >>> from deepreg_wf.checkpoints.locate import SHIPPED
    >>> predict = PredictMomentum(weights=SHIPPED / 'prediction.safetensors')
    >>> predict.inputs.moving_image = 'template_brain.nii.gz'
    >>> predict.inputs.fixed_image = 'aligned.nii.gz'
    >>> predict.run().outputs.metric['power']
    2
    """

    input_spec = _NetworkInputSpec
    output_spec = _MomentumOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from deepreg_wf.quicksilver import predict

        with _prepared(self.inputs) as task:
            momentum = predict(
                task.checkpoint,
                task.moving,
                task.fixed,
                task.metric,
                batch_size=self.inputs.batch_size,
            )
        self._results |= task.save(momentum, Path(runtime.cwd))
        return runtime


class _CorrectMomentumInputSpec(_NetworkInputSpec):
    momentum = File(exists=True, mandatory=True, desc='momentum to be corrected')
    n_iterations = traits.Range(
        low=1, desc='number of updates; by default the one that the weights file states'
    )


class CorrectMomentum(SimpleInterface):
    """Correct a momentum by the difference that remains between the images after shooting it.

    Examples
    --------
    >>> from deepreg_wf.checkpoints.locate import SHIPPED
    >>> correct = CorrectMomentum(weights=SHIPPED / 'correction.safetensors')
    >>> correct.inputs.moving_image = 'template_brain.nii.gz'
    >>> correct.inputs.fixed_image = 'aligned.nii.gz'
    >>> correct.inputs.momentum = 'momentum.nii.gz'
    >>> correct.run().outputs.metric['power']
    2
    """

    input_spec = _CorrectMomentumInputSpec
    output_spec = _MomentumOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from deepreg_wf.quicksilver import correct

        inputs = self.inputs
        with _prepared(inputs) as task:
            start, _ = load_tensor(inputs.momentum, inputs.device, task.grid, vector=True)
            momentum = correct(
                task.checkpoint,
                start,
                task.moving,
                task.fixed,
                task.metric,
                n_iterations=inputs.n_iterations if isdefined(inputs.n_iterations) else None,
                batch_size=inputs.batch_size,
            )
        self._results |= task.save(momentum, Path(runtime.cwd))
        return runtime


class _TransformUncertaintyInputSpec(_NetworkInputSpec):
    samples = traits.Range(low=2, value=20, usedefault=True, desc='number of momenta to draw')
    seed = traits.Int(0, usedefault=True, desc='seed of the draws')
    direction = traits.Enum(
        'template-to-subject',
        'subject-to-template',
        usedefault=True,
        desc='which brain is the moving and which the fixed one',
    )


class _TransformUncertaintyOutputSpec(TraitedSpec):
    uncertainty = File(
        exists=True,
        desc='standard deviation in mm of the point of the subject that each voxel of the '
        'template is mapped to',
    )


class TransformUncertainty(SimpleInterface):
    """Measure the spread of the maps of momenta drawn from a probabilistic network.

    Examples
    --------
    >>> from deepreg_wf.checkpoints.locate import SHIPPED
    >>> draw = TransformUncertainty(weights=SHIPPED / 'probabilistic.safetensors', samples=2)
    >>> draw.inputs.moving_image = 'template_brain.nii.gz'
    >>> draw.inputs.fixed_image = 'aligned.nii.gz'
    >>> Path(draw.run().outputs.uncertainty).name
    'uncertainty.nii.gz'
    """

    input_spec = _TransformUncertaintyInputSpec
    output_spec = _TransformUncertaintyOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from deepreg_wf.quicksilver import sample_uncertainty
        from deepreg_wf.spatial import save_image

        forward = self.inputs.direction == 'template-to-subject'
        with _prepared(self.inputs) as task:
            deviation = sample_uncertainty(
                task.checkpoint,
                task.moving,
                task.fixed,
                task.metric,
                samples=self.inputs.samples,
                inverse=not forward,
                seed=self.inputs.seed,
                batch_size=self.inputs.batch_size,
            )
        path = Path(runtime.cwd, 'uncertainty.nii.gz')
        save_image(path, deviation.cpu().numpy(), task.grid)
        self._results['uncertainty'] = str(path)
        return runtime


class _Task:
    """A network, two images normalised for it, and the metric of its momenta."""

    def __init__(self, inputs: Any) -> None:
        import torch

        from deepreg_wf.lddmm import Metric
        from deepreg_wf.quicksilver import prepare_image

        torch.set_num_threads(inputs.num_threads)
        self.checkpoint = _checkpoint(inputs.weights, inputs.device)
        normalise = partial(prepare_image, intensities=self.checkpoint.spec.intensities)
        self.moving, self.grid = load_normalised(
            inputs.moving_image, inputs.device, normalise=normalise
        )
        self.fixed, _ = load_normalised(
            inputs.fixed_image, inputs.device, self.grid, normalise=normalise
        )
        self.metric: Metric = Metric(
            self.grid.shape,
            self.grid.spacing,
            **self.checkpoint.spec.metric,
            device=inputs.device,
        )

    def save(self, momentum: Tensor, folder: Path) -> dict[str, Any]:
        """Write a momentum and return the outputs of the interface."""
        from deepreg_wf.spatial import save_vector

        save_vector(folder / 'momentum.nii.gz', momentum.cpu().numpy(), self.grid)
        return {
            'momentum': str(folder / 'momentum.nii.gz'),
            'metric': dict(self.metric.parameters),
        }


def _checkpoint(path: str, device: str) -> Checkpoint:
    """Return a network, which each worker reads once, unless its file changes."""
    stat = Path(path).stat()
    return _load_once(path, device, (stat.st_mtime_ns, stat.st_size, stat.st_ino))


@lru_cache(maxsize=3)  # prediction, correction and probabilistic network of a registration
def _load_once(path: str, device: str, version: tuple[int, ...]) -> Checkpoint:
    from deepreg_wf.quicksilver import load_checkpoint

    return load_checkpoint(path, device=device)


@contextmanager
def _prepared(inputs: Any) -> Iterator[_Task]:
    """Load the network and the images; log warnings, and name the weights file in errors.

    The warnings say that a run without enough memory continues with smaller batches.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        try:
            yield _Task(inputs)
        except InputError as error:
            if error.path is not None:
                raise
            raise error.at(inputs.weights) from error
        except ValueError as error:
            raise InputError(
                str(error), advice='give other weights', path=inputs.weights
            ) from error
        finally:
            for warning in caught:
                LOGGER.warning('%s', warning.message)

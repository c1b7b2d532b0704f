"""The momentum between two brains as networks see it."""

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
from deepreg_wf.interfaces._tensors import ComputeInputSpec, load_brain, load_tensor

if TYPE_CHECKING:
    from torch import Tensor

    from deepreg_wf.lddmm import Metric
    from deepreg_wf.quicksilver import Checkpoint

LOGGER = logging.getLogger('nipype.interface')


class _NetworkInputSpec(ComputeInputSpec):
    moving_image = File(exists=True, mandatory=True, desc='brain that is deformed')
    fixed_image = File(exists=True, mandatory=True, desc='brain to be met, on the same grid')
    weights = File(exists=True, mandatory=True, desc='trained network (.safetensors)')
    batch_size = traits.Range(
        low=1, value=32, usedefault=True, nohash=True, desc='patches at once, at most'
    )


class _MomentumOutputSpec(TraitedSpec):
    momentum = File(exists=True, desc='initial momentum, components along the axes of the grid')
    metric = traits.Dict(desc='the metric that the momentum belongs to')


class PredictMomentum(SimpleInterface):
    """Predict the momentum that carries the moving onto the fixed image, patch by patch.

    Examples
    --------
    >>> from deepreg_wf.checkpoints.find import SHIPPED
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

        with _work_of(self.inputs) as work:
            momentum = predict(
                work.checkpoint,
                work.moving,
                work.fixed,
                work.metric,
                batch_size=self.inputs.batch_size,
            )
        self._results |= work.save(momentum, Path(runtime.cwd))
        return runtime


class _CorrectMomentumInputSpec(_NetworkInputSpec):
    momentum = File(exists=True, mandatory=True, desc='momentum to be corrected')
    repeats = traits.Range(
        low=1, desc='how often the network is applied; by default as often as the weights say'
    )


class CorrectMomentum(SimpleInterface):
    """Correct a momentum by what is left between the images once it has been shot.

    Examples
    --------
    >>> from deepreg_wf.checkpoints.find import SHIPPED
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

        with _work_of(self.inputs) as work:
            start, _ = load_tensor(
                self.inputs.momentum, self.inputs.device, work.grid, vector=True
            )
            momentum = correct(
                work.checkpoint,
                start,
                work.moving,
                work.fixed,
                work.metric,
                repeats=self.inputs.repeats if isdefined(self.inputs.repeats) else None,
                batch_size=self.inputs.batch_size,
            )
        self._results |= work.save(momentum, Path(runtime.cwd))
        return runtime


class _TransformUncertaintyInputSpec(_NetworkInputSpec):
    samples = traits.Range(low=2, value=20, usedefault=True, desc='momenta that are drawn')
    seed = traits.Int(0, usedefault=True, desc='of the draws')
    direction = traits.Enum(
        'template-to-subject',
        'subject-to-template',
        usedefault=True,
        desc='what the momentum moves onto what',
    )


class _TransformUncertaintyOutputSpec(TraitedSpec):
    uncertainty = File(
        exists=True,
        desc='standard deviation of where a point of the template goes in the subject, in mm',
    )


class TransformUncertainty(SimpleInterface):
    """Draw momenta from a probabilistic network, shoot each, and see how far the maps differ.

    Examples
    --------
    >>> from deepreg_wf.checkpoints.find import SHIPPED
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
        with _work_of(self.inputs) as work:
            deviation = sample_uncertainty(
                work.checkpoint,
                work.moving,
                work.fixed,
                work.metric,
                samples=self.inputs.samples,
                inverse=not forward,
                seed=self.inputs.seed,
                batch_size=self.inputs.batch_size,
            )
        path = Path(runtime.cwd, 'uncertainty.nii.gz')
        save_image(path, deviation.cpu().numpy(), work.grid)
        self._results['uncertainty'] = str(path)
        return runtime


class _Work:
    """A network, two images as it wants them, and the metric of its momenta."""

    def __init__(self, inputs: Any) -> None:
        import torch

        from deepreg_wf.lddmm import Metric
        from deepreg_wf.quicksilver import prepare_image

        torch.set_num_threads(inputs.num_threads)
        self.checkpoint = _checkpoint(inputs.weights, inputs.device)
        scale = partial(prepare_image, intensities=self.checkpoint.spec.intensities)
        self.moving, self.grid = load_brain(inputs.moving_image, inputs.device, scale=scale)
        self.fixed, _ = load_brain(inputs.fixed_image, inputs.device, self.grid, scale=scale)
        self.metric: Metric = Metric(
            self.grid.shape,
            self.grid.spacing,
            **self.checkpoint.spec.metric,
            device=inputs.device,
        )

    def save(self, momentum: Tensor, folder: Path) -> dict[str, Any]:
        """Write a momentum; return the outputs."""
        from deepreg_wf.spatial import save_vector

        save_vector(folder / 'momentum.nii.gz', momentum.cpu().numpy(), self.grid)
        return {
            'momentum': str(folder / 'momentum.nii.gz'),
            'metric': dict(self.metric.parameters),
        }


def _checkpoint(path: str, device: str) -> Checkpoint:
    """A network, which a worker reads once, unless its file changes."""
    facts = Path(path).stat()
    return _read_once(path, device, (facts.st_mtime_ns, facts.st_size, facts.st_ino))


@lru_cache(maxsize=3)  # what one registration uses
def _read_once(path: str, device: str, version: tuple[int, ...]) -> Checkpoint:
    from deepreg_wf.quicksilver import load_checkpoint

    return load_checkpoint(path, device=device)


@contextmanager
def _work_of(inputs: Any) -> Iterator[_Work]:
    """Set the work up; what networks warn of goes to the log, what they refuse is an input error.

    Warnings are where a run without enough memory says that it goes on with less.
    """
    from deepreg_wf.quicksilver import WeightsError

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        try:
            yield _Work(inputs)
        except InputError:
            raise
        except WeightsError as error:  # names its file itself
            raise InputError(str(error)) from error
        except ValueError as error:
            raise InputError(f'{inputs.weights}: {error}') from error
        finally:
            for warning in caught:
                LOGGER.warning('%s', warning.message)

"""Momenta from networks: prediction, and correction of a predicted momentum."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deepreg_wf.lddmm import Metric, normalise
from deepreg_wf.lddmm.energy import EnergyTerms
from deepreg_wf.quicksilver.architecture import QuicksilverNet
from deepreg_wf.quicksilver.checkpoint import Checkpoint, NetworkSpec
from deepreg_wf.quicksilver.coarse_grid import CoarseGrid
from deepreg_wf.quicksilver.inputs import NetworkInput, RegistrationState, mirror
from deepreg_wf.quicksilver.patches import (
    aggregate_patches,
    bounding_patch_size,
    extract_patches,
    patch_origins,
)
from deepreg_wf.utils.os_errors import is_out_of_memory

BATCH_SIZE = 32
"""Default number of patches that pass through a network at once."""

MAX_STEP_TRIALS = 4
"""Number of step lengths 1, 1/2, 1/4, ... that are tried before an update is rejected."""

PatchFunction = Callable[[Tensor, Tensor, Sequence[int]], Tensor]
"""Function that maps the patches of a volume to patches of a field; see `apply_patchwise`."""


def prepare_image(image: Tensor, intensities: str) -> Tensor:
    """Normalise the intensities of a brain to [0, 1] as a network expects it.

    Parameters
    ----------
    image : Tensor, shape (X, Y, Z)
        Brain on a background of zeros.
    intensities : {'robust-maximum', 'equalised'}
        Scale by a robust maximum, as `deepreg_wf.lddmm.normalise` does, or equalise the
        histogram of the brain as well.

    Returns
    -------
    Tensor, shape (X, Y, Z)

    Raises
    ------
    ValueError
        If no voxel is positive.
    """
    image = normalise(image)
    return _equalise(image) if intensities == 'equalised' else image


def _equalise(image: Tensor, bins: int = 256) -> Tensor:
    """Replace the intensity of each voxel of the brain by its cumulative frequency."""
    brain = image > 0
    values = image[brain]
    low, high = float(values.min()), float(values.max())
    counts = torch.histc(values, bins=bins, min=low, max=high)
    cumulative = counts.cumsum(0) / counts.sum()
    # Linear interpolation between the centres of the bins.
    position = (values - low) / max(high - low, 1e-12) * bins - 0.5
    left = position.floor().clamp(0, bins - 1)
    right = (left + 1).clamp_max(bins - 1)
    weight = (position - left).clamp(0, 1)
    result = torch.zeros_like(image)
    result[brain] = torch.lerp(cumulative[left.long()], cumulative[right.long()], weight)
    return result


def predict(
    checkpoint: Checkpoint,
    moving: Tensor,
    fixed: Tensor,
    metric: Metric,
    *,
    batch_size: int = BATCH_SIZE,
) -> Tensor:
    """Predict the momentum that carries the moving image onto the fixed image.

    If the network has gradient channels, an update that would raise the energy of the matching
    or fold the map is shortened or rejected.

    Parameters
    ----------
    checkpoint : Checkpoint
        Prediction network.
    moving, fixed : Tensor, shape (X, Y, Z)
        Images on the grid of `metric`, normalised by `prepare_image`.
    metric : Metric
        Metric of the network, on the grid of the images.
    batch_size : int
        Patches at once. It is halved if the memory does not suffice; if the device fails, the
        CPU takes over.

    Returns
    -------
    Tensor, shape (3, X, Y, Z)
        Momentum; zero far from both brains.

    Raises
    ------
    ValueError
        If the network was trained for another metric.
    InputError
        If the voxel size does not divide the coarse grid of the network.
    """
    spec = checkpoint.spec
    state = registration_state(spec, moving, fixed, metric)
    whitened = _iterate(checkpoint, state, state.zero_momentum, spec.n_iterations, batch_size)
    return state.coarse_grid.unwhiten(whitened)


def correct(
    checkpoint: Checkpoint,
    momentum: Tensor,
    moving: Tensor,
    fixed: Tensor,
    metric: Metric,
    *,
    n_iterations: int | None = None,
    batch_size: int = BATCH_SIZE,
) -> Tensor:
    """Correct a momentum by the updates of a correction network.

    The input of the network is the moving image and the fixed image warped back by the geodesic
    of the momentum. The remaining difference of the two then lies in the space of the moving
    image, as the momentum does, so that momentum and update can be added (Yang et al., 2017,
    section 2.3). Updates are shortened or rejected as in `predict`.

    Parameters
    ----------
    checkpoint : Checkpoint
        Correction network.
    momentum : Tensor, shape (3, X, Y, Z)
        Momentum to correct, on the voxels of the images.
    moving, fixed, metric, batch_size
        Images, metric and number of patches as in `predict`.
    n_iterations : int, optional
        Number of updates; by default the one of the specification of the network.

    Returns
    -------
    Tensor, shape (3, X, Y, Z)
        Corrected momentum.

    Raises
    ------
    ValueError
        If the network was trained for another metric.
    InputError
        If the voxel size does not divide the coarse grid of the network.
    """
    state = registration_state(checkpoint.spec, moving, fixed, metric)
    start = state.coarse_grid.whiten(momentum)
    n_iterations = n_iterations or checkpoint.spec.n_iterations
    change = _iterate(checkpoint, state, start, n_iterations, batch_size) - start
    # Only the change goes through the coarse grid, so that finer detail of the momentum remains.
    return momentum + state.coarse_grid.unwhiten(change)


def registration_state(
    spec: NetworkSpec, moving: Tensor, fixed: Tensor, metric: Metric
) -> RegistrationState:
    """Make the registration state of two images for a network.

    Parameters
    ----------
    spec : NetworkSpec
        Specification of the network.
    moving, fixed : Tensor, shape (X, Y, Z)
        Images on the grid of `metric`.
    metric : Metric
        Metric of the network.

    Returns
    -------
    RegistrationState

    Raises
    ------
    ValueError
        If the network was trained for another metric.
    InputError
        If the voxel size does not divide the coarse grid of the network.
    """
    if metric.parameters != spec.metric:
        raise ValueError('the network was trained for another metric')
    coarse_grid = CoarseGrid(metric, spec.spacing, whitened=spec.whitened)
    return registration_state_on(coarse_grid, spec, moving, fixed)


def registration_state_on(
    coarse_grid: CoarseGrid, spec: NetworkSpec, moving: Tensor, fixed: Tensor
) -> RegistrationState:
    """Make the registration state of two images on a coarse grid that exists already.

    Parameters
    ----------
    coarse_grid : CoarseGrid
        Coarse grid as the network expects it.
    spec : NetworkSpec
        Specification of the network.
    moving, fixed : Tensor, shape (X, Y, Z)
        Images on the voxels of the image of the coarse grid.

    Returns
    -------
    RegistrationState
    """
    return RegistrationState(
        moving,
        fixed,
        coarse_grid,
        energy_spacing=spec.energy_spacing,
        terms=EnergyTerms.from_dict(spec.energy_terms),
        output_scale=spec.output_scale,
        gradient_channels=spec.gradient_channels,
    )


def predict_update(
    checkpoint: Checkpoint, channels: Tensor, batch_size: int = BATCH_SIZE
) -> Tensor:
    """Predict the change of the whitened momentum at an input.

    Parameters
    ----------
    checkpoint : Checkpoint
        Prediction or correction network.
    channels : Tensor, shape (C, X, Y, Z)
        Channels of a `NetworkInput`.
    batch_size : int
        Patches at once.

    Returns
    -------
    Tensor, shape (3, X, Y, Z)
        Change on the coarse grid.
    """
    spec = checkpoint.spec
    return spec.output_scale * apply_network(
        checkpoint.network, channels, spec.stride, batch_size=batch_size
    )


def _iterate(
    checkpoint: Checkpoint,
    state: RegistrationState,
    whitened: Tensor,
    n_iterations: int,
    batch_size: int,
) -> Tensor:
    """Apply a network to a whitened momentum a number of times."""
    current = state.network_input(whitened)
    for remaining in reversed(range(n_iterations)):
        if current.channels is None:
            break
        change = predict_update(checkpoint, current.channels, batch_size)
        # After the last update only the energy is needed, which is quicker to compute.
        evaluate = state.network_input if remaining else state.energy_only
        whitened, current = _step(whitened, change, current, evaluate)
    return whitened


def _step(
    whitened: Tensor,
    change: Tensor,
    current: NetworkInput,
    evaluate: Callable[[Tensor], NetworkInput],
) -> tuple[Tensor, NetworkInput]:
    """Take an update, or a fraction of it, that lowers the energy and does not fold the map.

    This is a backtracking line search. It protects against images that are unlike the training
    data, on which the output of the network can be arbitrary.
    """
    for halvings in range(MAX_STEP_TRIALS):
        trial = whitened + 0.5**halvings * change
        at_trial = evaluate(trial)
        if at_trial.is_better_than(current):
            return trial, at_trial
    return whitened, current


def apply_network(
    network: QuicksilverNet, volume: Tensor, stride: int, *, batch_size: int = BATCH_SIZE
) -> Tensor:
    """Apply a network to a volume patch by patch, without gradients.

    A network with gradient channels is also applied to the mirrored volume, and the mean of both
    outputs is taken, because a mirrored pair of images has the mirrored momentum.

    Parameters
    ----------
    network : QuicksilverNet
        Network to apply.
    volume : Tensor, shape (2 * channels [+ N_GRADIENT_CHANNELS], X, Y, Z)
        Input channels.
    stride : int
        Largest distance between patches, in voxels; 0 for a single patch that holds all voxels
        of the images that are not zero.
    batch_size : int
        Patches at once.

    Returns
    -------
    Tensor, shape (3, X, Y, Z)
        Output; zero where there is no patch.
    """
    run = _PatchRunner(network, volume.device, batch_size)
    return apply_patchwise(run, volume, network, stride)


def apply_patchwise(
    function: PatchFunction, volume: Tensor, network: QuicksilverNet, stride: int
) -> Tensor:
    """Assemble a field from the output of a function for the patches of a volume.

    Parameters
    ----------
    function : callable
        Function of the volume, the first voxels of the patches, (N, 3), and their sides
        (P, Q, R); it returns patches of the field, (N, 3, P, Q, R).
    volume, network, stride
        Input and patches as in `apply_network`.

    Returns
    -------
    Tensor, shape (3, X, Y, Z)
        Field; zero where there is no patch.
    """
    shape = volume.shape[1:]
    occupied = (volume[: 2 * network.channels] > 0).any(dim=0)
    sides = (network.patch_size,) * 3 if stride else bounding_patch_size(occupied)
    padded, occupied = _pad_to_patch(volume, sides), _pad_to_patch(occupied, sides)
    origins = patch_origins(occupied, sides, stride or max(sides))
    if not len(origins):
        return volume.new_zeros(3, *shape)
    values = function(padded, origins, sides)
    field = aggregate_patches(values, origins.to(values.device), padded.shape[1:])
    return field[:, : shape[0], : shape[1], : shape[2]].to(volume.device)


def _pad_to_patch(volume: Tensor, sides: Sequence[int]) -> Tensor:
    """Add zeros at the far ends of a volume that is smaller than a patch."""
    missing = [max(0, side - n) for n, side in zip(volume.shape[-3:], sides, strict=True)]
    return torch.nn.functional.pad(volume, [w for m in reversed(missing) for w in (0, m)])


@dataclass
class _PatchRunner:
    """A network on a device, with a batch size that falls when memory runs out."""

    network: QuicksilverNet
    device: torch.device
    batch_size: int

    def __call__(self, volume: Tensor, origins: Tensor, sides: Sequence[int]) -> Tensor:
        """Return the output of the network for patches, shape (N, 3, P, Q, R)."""
        try:
            return self._run(volume.to(self.device), origins.to(self.device), sides)
        # PyTorch without CUDA raises an AssertionError for a CUDA device.
        except (MemoryError, RuntimeError, AssertionError) as error:
            self._back_off(error)
        return self(volume, origins, sides)

    def _run(self, volume: Tensor, origins: Tensor, sides: Sequence[int]) -> Tensor:
        self.network.to(self.device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        outputs = []
        with torch.inference_mode():
            for batch in torch.split(origins, self.batch_size):
                patches = extract_patches(volume, batch, sides)
                patches = patches.contiguous(memory_format=torch.channels_last_3d)
                outputs.append(self._evaluate(patches).float())
        return torch.cat(outputs)

    def _evaluate(self, patches: Tensor) -> Tensor:
        """Return the output of the network for a batch, averaged with that of its mirror image."""
        if not self.network.gradient_channels:
            output: Tensor = self.network(patches)
            return output
        # A batch of two, a patch and its mirror image, takes PyTorch's convolutions on the CPU
        # half the time of a batch of one.
        n_images = 2 * self.network.channels
        outputs = self.network(torch.cat([patches, mirror(patches, n_images)]))
        straight, mirrored = outputs.chunk(2)
        mean: Tensor = (straight + mirror(mirrored, 0)) / 2
        return mean

    def _back_off(self, error: Exception) -> None:
        """Halve the batch size or move to the CPU; raise the error where neither is possible."""
        if is_out_of_memory(error) and self.batch_size > 1:
            self.batch_size = max(1, self.batch_size // 2)
            action = f'continuing with {self.batch_size} patches at once'
        elif self.device.type != 'cpu':
            self.device = torch.device('cpu')
            action = 'continuing on the CPU'
        else:
            raise error
        warnings.warn(f'the network failed ({_first_line(error)}); {action}', stacklevel=5)


def _first_line(error: Exception) -> str:
    """Return the first line of the message of an error, or its type if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]

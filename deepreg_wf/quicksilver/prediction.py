"""Momenta from networks: prediction, and correction of what was predicted."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..lddmm import Metric, fields, normalise, shoot
from .architecture import QuicksilverNet
from .blocks import Blocks
from .patches import average, corners, gather
from .weights import Checkpoint, Spec

BATCH_SIZE = 32
"""Patches that go through a network at once, unless told otherwise."""


def prepare_image(image: Tensor, intensities: str) -> Tensor:
    """Bring a brain on empty ground, (X, Y, Z), to [0, 1] as a network expects it.

    Parameters
    ----------
    image : Tensor, shape (X, Y, Z)
    intensities : {'robust-maximum', 'equalised'}
        As `deepreg_wf.lddmm.normalise` does, or with the histogram of the brain made flat.

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
    """Give every voxel of the brain the share of the brain that is no brighter."""
    brain = image > 0
    values = image[brain]
    low, high = float(values.min()), float(values.max())
    counts = torch.histc(values, bins=bins, min=low, max=high)
    share = counts.cumsum(0) / counts.sum()
    place = (values - low) / max(high - low, 1e-12) * bins - 0.5
    left = place.floor().clamp(0, bins - 1)
    right = (left + 1).clamp_max(bins - 1)
    weight = (place - left).clamp(0, 1)
    result = torch.zeros_like(image)
    result[brain] = torch.lerp(share[left.long()], share[right.long()], weight)
    return result


def predict(
    checkpoint: Checkpoint,
    moving: Tensor,
    fixed: Tensor,
    metric: Metric,
    *,
    batch_size: int = BATCH_SIZE,
) -> Tensor:
    """Predict the momentum that carries the moving onto the fixed image.

    Parameters
    ----------
    checkpoint : Checkpoint
        A prediction network, or a correction network where the fixed image has been warped back.
    moving, fixed : Tensor, shape (X, Y, Z)
        On the grid of `metric`, as `prepare_image` gives them.
    metric : Metric
        That of the network, on the grid of the images.
    batch_size : int
        Patches at once. Where memory does not hold them, half as many are tried; where the device
        fails, the CPU.

    Returns
    -------
    Tensor, shape (3, X, Y, Z)
        Zero far from both brains.

    Raises
    ------
    ValueError
        If the network has another metric, or blocks that the voxels do not make up.
    """
    blocks = _blocks_of(checkpoint.spec, metric)
    pair = torch.stack([blocks.reduce(moving), blocks.reduce(fixed)])
    return blocks.colour(_apply(checkpoint, pair, batch_size))


def correct(
    checkpoint: Checkpoint,
    momentum: Tensor,
    moving: Tensor,
    fixed: Tensor,
    metric: Metric,
    *,
    batch_size: int = BATCH_SIZE,
) -> Tensor:
    """Add to a momentum what the correction network sees that it lacks.

    The fixed image is warped back by the momentum's own geodesic, so that what is left between it
    and the moving image is in the space of the moving image, as the momentum is (Yang et al.,
    2017, section 2.3).

    Parameters
    ----------
    checkpoint : Checkpoint
        A correction network.
    momentum : Tensor, shape (3, X, Y, Z)
    moving, fixed, metric, batch_size
        Those of `predict`.

    Returns
    -------
    Tensor, shape (3, X, Y, Z)
    """
    blocks = _blocks_of(checkpoint.spec, metric)
    images = torch.stack([blocks.reduce(moving), blocks.reduce(fixed)])
    pair = warp_back(images, blocks.whiten(momentum), blocks)
    return momentum + blocks.colour(_apply(checkpoint, pair, batch_size))


def warp_back(images: Tensor, whitened: Tensor, blocks: Blocks) -> Tensor:
    """Warp the fixed of two images back by the geodesic of a momentum, all of it on blocks.

    Parameters
    ----------
    images : Tensor, shape (2, X, Y, Z)
        Moving and fixed.
    whitened : Tensor, shape (3, X, Y, Z)
    blocks : Blocks

    Returns
    -------
    Tensor, shape (2, X, Y, Z)
        The moving image as it is, and the fixed one in its space.
    """
    coarse = blocks.alone
    geodesic = shoot(coarse.colour(whitened), coarse.image)
    return torch.cat([images[:1], fields.interpolate(images[1:], geodesic.phi)])


def _blocks_of(spec: Spec, metric: Metric) -> Blocks:
    if metric.parameters != spec.metric:
        raise ValueError('the network was trained for another metric')
    return Blocks(metric, spec.spacing, whitened=spec.whitened)


def _apply(checkpoint: Checkpoint, pair: Tensor, batch_size: int) -> Tensor:
    """Output of a network on a pair of images on blocks, in its units."""
    spec = checkpoint.spec
    output = apply_network(checkpoint.network, pair, spec.stride, batch_size=batch_size)
    return spec.scale * output.to(pair.device)


def apply_network(
    network: QuicksilverNet, pair: Tensor, stride: int, *, batch_size: int = BATCH_SIZE
) -> Tensor:
    """Apply a network to a pair of images patch by patch, without gradients.

    Parameters
    ----------
    network : QuicksilverNet
    pair : Tensor, shape (2 * channels, X, Y, Z)
    stride : int
        Voxels from one patch to the next, at most.
    batch_size : int

    Returns
    -------
    Tensor, shape (3, X, Y, Z)
    """
    return patchwise(_Runner(network, pair.device, batch_size), pair, network.patch, stride)


def patchwise(
    run: Callable[[Tensor, Tensor], Tensor], pair: Tensor, patch: int, stride: int
) -> Tensor:
    """Put a field together from what `run` makes of patches of a pair of images.

    Parameters
    ----------
    run : callable
        Takes images, (2 * channels, X, Y, Z), and the first voxels of patches, (N, 3); returns
        (N, 3, patch, patch, patch).
    pair : Tensor, shape (2 * channels, X, Y, Z)
    patch, stride : int

    Returns
    -------
    Tensor, shape (3, X, Y, Z)
    """
    shape = pair.shape[1:]
    whole = _at_least(pair, patch)
    starts = corners((whole > 0).any(dim=0), patch, stride)
    if not len(starts):
        return pair.new_zeros(3, *shape)
    values = run(whole, starts)
    field = average(values, starts.to(values.device), whole.shape[1:])
    return field[:, : shape[0], : shape[1], : shape[2]]


def _at_least(volume: Tensor, size: int) -> Tensor:
    """Add zeros at the far ends of what is smaller than a patch."""
    widths = [w for n in reversed(volume.shape[-3:]) for w in (0, max(0, size - n))]
    return torch.nn.functional.pad(volume, widths)


@dataclass
class _Runner:
    """A network on a device, with as many patches at once as the device takes."""

    network: QuicksilverNet
    device: torch.device
    batch_size: int

    def __call__(self, volume: Tensor, starts: Tensor) -> Tensor:
        """Output of the network for patches at `starts`, (patches, 3, P, P, P)."""
        # PyTorch without CUDA says so by an assertion.
        try:
            return self._run(volume.to(self.device), starts.to(self.device))
        except (MemoryError, RuntimeError, AssertionError) as error:
            self._back_off(error)
        return self(volume, starts)

    def _run(self, volume: Tensor, starts: Tensor) -> Tensor:
        self.network.to(self.device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        outputs = []
        with torch.inference_mode():
            for some in torch.split(starts, self.batch_size):
                patches = gather(volume, some, self.network.patch)
                patches = patches.contiguous(memory_format=torch.channels_last_3d)
                outputs.append(self.network(patches).float())
        return torch.cat(outputs)

    def _back_off(self, error: Exception) -> None:
        if _out_of_memory(error) and self.batch_size > 1:
            self.batch_size = max(1, self.batch_size // 2)
            what = f'going on with {self.batch_size} patches at once'
        elif self.device.type != 'cpu':
            self.device = torch.device('cpu')
            what = 'going on with the CPU'
        else:
            raise error
        warnings.warn(f'the network failed ({_first_line(error)}); {what}', stacklevel=5)


def _out_of_memory(error: Exception) -> bool:
    # PyTorch's allocator on the CPU says so in a plain RuntimeError.
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or 'memory' in str(error)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

"""Momenta from networks: prediction, and correction of what was predicted."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deepreg_wf.lddmm import Metric, normalise
from deepreg_wf.quicksilver.architecture import QuicksilverNet
from deepreg_wf.quicksilver.checkpoint import Checkpoint, Spec
from deepreg_wf.quicksilver.coarse_grid import Blocks
from deepreg_wf.quicksilver.inputs import Scene, View, mirror
from deepreg_wf.quicksilver.patches import average, corners, fitting, gather

BATCH_SIZE = 32
"""Patches that go through a network at once, unless told otherwise."""

MAX_HALVINGS = 4
"""How often a step that a network wants may be halved before it is not taken at all."""

Run = Callable[[Tensor, Tensor, Sequence[int]], Tensor]
"""Applies something to patches; see `patchwise`."""


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

    Where the network knows the energy of the matching, a step that would raise it, or fold, is
    shortened or not taken.

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
    scene = scene_of(checkpoint.spec, moving, fixed, metric)
    repeats = checkpoint.spec.repeats
    return scene.blocks.colour(_advance(checkpoint, scene, scene.nothing, repeats, batch_size))


def correct(
    checkpoint: Checkpoint,
    momentum: Tensor,
    moving: Tensor,
    fixed: Tensor,
    metric: Metric,
    *,
    repeats: int | None = None,
    batch_size: int = BATCH_SIZE,
) -> Tensor:
    """Add to a momentum what the correction network sees that it lacks, as often as it should.

    The fixed image is warped back by the momentum's own geodesic, so that what is left between it
    and the moving image is in the space of the moving image, as the momentum is (Yang et al.,
    2017, section 2.3). Steps are taken as in `predict`.

    Parameters
    ----------
    checkpoint : Checkpoint
        A correction network.
    momentum : Tensor, shape (3, X, Y, Z)
    moving, fixed, metric, batch_size
        Those of `predict`.
    repeats : int, optional
        How often the network is applied; by default as often as its specification says.

    Returns
    -------
    Tensor, shape (3, X, Y, Z)
    """
    scene = scene_of(checkpoint.spec, moving, fixed, metric)
    start = scene.blocks.whiten(momentum)
    repeats = repeats or checkpoint.spec.repeats
    change = _advance(checkpoint, scene, start, repeats, batch_size) - start
    return momentum + scene.blocks.colour(change)


def scene_of(spec: Spec, moving: Tensor, fixed: Tensor, metric: Metric) -> Scene:
    """Two images on the grid of a metric as a network of some kind sees them.

    Raises
    ------
    ValueError
        If the network has another metric, or blocks that the voxels do not make up.
    """
    if metric.parameters != spec.metric:
        raise ValueError('the network was trained for another metric')
    return scene_on(Blocks(metric, spec.spacing, whitened=spec.whitened), spec, moving, fixed)


def scene_on(blocks: Blocks, spec: Spec, moving: Tensor, fixed: Tensor) -> Scene:
    """Two images on blocks that are those of a kind of network, as it sees them."""
    return Scene(moving, fixed, blocks, detail=spec.detail, scale=spec.scale, hints=spec.hints)


def propose(checkpoint: Checkpoint, view: View, batch_size: int = BATCH_SIZE) -> Tensor:
    """Change of the whitened momentum that a network wants at a view, (3, X, Y, Z)."""
    spec = checkpoint.spec
    return spec.scale * apply_network(
        checkpoint.network, view.channels, spec.stride, batch_size=batch_size
    )


def _advance(
    checkpoint: Checkpoint, scene: Scene, whitened: Tensor, repeats: int, batch_size: int
) -> Tensor:
    """Go on from a whitened momentum by as many steps as the network may take."""
    view = scene.view(whitened)
    for left in reversed(range(repeats)):
        if not view.channels.numel():
            break
        change = propose(checkpoint, view, batch_size)
        # Nobody looks from where the last step leads.
        whitened, view = _step(whitened, change, view, scene.view if left else scene.glance)
    return whitened


def _step(
    whitened: Tensor, change: Tensor, view: View, look: Callable[[Tensor], View]
) -> tuple[Tensor, View]:
    """Take a step, or as much of it as makes the energy less and nothing fold.

    Where images are unlike all that a network was trained on, its word alone will not do.
    """
    for halvings in range(MAX_HALVINGS):
        trial = whitened + 0.5**halvings * change
        there = look(trial)
        # Where no energy is known, the network has the last word.
        if there.energy < view.energy or math.isnan(there.energy):
            return trial, there
    return whitened, view


def apply_network(
    network: QuicksilverNet, volume: Tensor, stride: int, *, batch_size: int = BATCH_SIZE
) -> Tensor:
    """Apply a network to what there is to see, patch by patch, without gradients.

    A network with hints is shown mirror images, too, and the mean of both answers is taken: a
    mirrored pair has the mirrored momentum.

    Parameters
    ----------
    network : QuicksilverNet
    volume : Tensor, shape (2 * channels [+ HINTS], X, Y, Z)
    stride : int
        Voxels from one patch to the next, at most; 0 for one patch as large as what is not empty.
    batch_size : int

    Returns
    -------
    Tensor, shape (3, X, Y, Z)
    """
    return patchwise(_Runner(network, volume.device, batch_size), volume, network, stride)


def patchwise(run: Run, volume: Tensor, network: QuicksilverNet, stride: int) -> Tensor:
    """Put a field together from what `run` makes of the patches of a volume.

    Parameters
    ----------
    run : callable
        Takes the volume, the first voxels of patches, (N, 3), and their sides (P, Q, R); returns
        (N, 3, P, Q, R).
    volume, network, stride
        Those of `apply_network`.

    Returns
    -------
    Tensor, shape (3, X, Y, Z)
    """
    shape = volume.shape[1:]
    occupied = (volume[: 2 * network.channels] > 0).any(dim=0)
    sides = (network.patch,) * 3 if stride else fitting(occupied)
    whole, occupied = _at_least(volume, sides), _at_least(occupied, sides)
    starts = corners(occupied, sides, stride or max(sides))
    if not len(starts):
        return volume.new_zeros(3, *shape)
    values = run(whole, starts, sides)
    field = average(values, starts.to(values.device), whole.shape[1:])
    return field[:, : shape[0], : shape[1], : shape[2]].to(volume.device)


def _at_least(volume: Tensor, sides: Sequence[int]) -> Tensor:
    """Add zeros at the far ends of what is smaller than a patch."""
    missing = [max(0, side - n) for n, side in zip(volume.shape[-3:], sides, strict=True)]
    return torch.nn.functional.pad(volume, [w for m in reversed(missing) for w in (0, m)])


@dataclass
class _Runner:
    """A network on a device, with as many patches at once as the device takes."""

    network: QuicksilverNet
    device: torch.device
    batch_size: int

    def __call__(self, volume: Tensor, starts: Tensor, sides: Sequence[int]) -> Tensor:
        """Output of the network for patches at `starts`, (patches, 3, P, Q, R)."""
        # PyTorch without CUDA says so by an assertion.
        try:
            return self._run(volume.to(self.device), starts.to(self.device), sides)
        except (MemoryError, RuntimeError, AssertionError) as error:
            self._back_off(error)
        return self(volume, starts, sides)

    def _run(self, volume: Tensor, starts: Tensor, sides: Sequence[int]) -> Tensor:
        self.network.to(self.device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        outputs = []
        with torch.inference_mode():
            for some in torch.split(starts, self.batch_size):
                patches = gather(volume, some, sides)
                patches = patches.contiguous(memory_format=torch.channels_last_3d)
                outputs.append(self._answer(patches).float())
        return torch.cat(outputs)

    def _answer(self, patches: Tensor) -> Tensor:
        """What the network says of patches."""
        if not self.network.hints:
            answer: Tensor = self.network(patches)
            return answer
        # One brain and its mirror image pass through PyTorch's convolutions on the CPU in half
        # the time of one alone.
        images = 2 * self.network.channels
        both = self.network(torch.cat([patches, mirror(patches, images)]))
        straight, mirrored = both.chunk(2)
        mean: Tensor = (straight + mirror(mirrored, 0)) / 2
        return mean

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

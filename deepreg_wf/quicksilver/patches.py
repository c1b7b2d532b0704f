"""Volumes cut into patches and put together again, without a loop over patches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deepreg_wf.lddmm.images import content_box


def fitting(occupied: Tensor) -> tuple[int, int, int]:
    """Sides of a patch that holds all that is not empty, of the form 4 n + 3.

    Parameters
    ----------
    occupied : Tensor, shape (X, Y, Z), bool
    """
    x, y, z = (whole_side(part.stop - part.start) for part in content_box(occupied, 0))
    return x, y, z


def whole_side(n: int) -> int:
    """Smallest number from n on of the form 4 k + 3."""
    return n + (3 - n) % 4


def corners(occupied: Tensor, patch: Sequence[int], stride: int) -> Tensor:
    """Lay patches over the box of what is not empty.

    They are spread evenly, no further apart than `stride`; those with nothing in them are left
    out. Where the box is, and not where the grid begins, decides where they lie: a shifted brain
    has the same patches.

    Parameters
    ----------
    occupied : Tensor, shape (X, Y, Z), bool
        Where there is something; no side shorter than a patch.
    patch : sequence of 3 int
        Voxels along each side.
    stride : int
        Voxels.

    Returns
    -------
    Tensor, shape (patches, 3), int64
        First voxel of each.
    """
    if not occupied.any():
        return torch.zeros(0, 3, dtype=torch.int64, device=occupied.device)
    axes = [
        _starts(part.start, part.stop, n, side, stride)
        for part, n, side in zip(content_box(occupied, 0), occupied.shape, patch, strict=True)
    ]
    found = torch.cartesian_prod(*axes).to(occupied.device)
    filled = gather(occupied.unsqueeze(0), found, patch).flatten(1).any(dim=1)
    return found[filled]


def _starts(low: int, high: int, n: int, patch: int, stride: int) -> Tensor:
    """First voxels along an axis of n voxels, of which those from low to high are occupied."""
    room = max(0, high - low - patch)
    # Something smaller than a patch lies in the middle of it, as far as the border lets it.
    first = low if room else (low + high - patch) // 2
    first = min(max(first, 0), n - patch)
    count = -(-room // stride) + 1
    # Rounded before they are moved: halves would go to the even side.
    return first + torch.linspace(0, room, count, dtype=torch.float64).round().long()


def gather(volume: Tensor, starts: Tensor, patch: Sequence[int]) -> Tensor:
    """Cut patches, (N, C, P, Q, R), out of a volume, (C, X, Y, Z), at first voxels, (N, 3)."""
    windows = volume
    for axis, side in enumerate(patch, start=1):
        windows = windows.unfold(axis, side, 1)
    x, y, z = starts.unbind(dim=1)
    return windows[:, x, y, z].transpose(0, 1)


def average(values: Tensor, starts: Tensor, shape: Sequence[int]) -> Tensor:
    """Put patches, (N, C, P, Q, R), together; where they overlap, their weighted mean.

    A voxel in the middle of a patch has been seen with its surroundings on all sides, one at the
    border has not: weights fall linearly from the middle to the border along each axis.

    Parameters
    ----------
    values : Tensor, shape (patches, C, P, Q, R)
    starts : Tensor, shape (patches, 3)
    shape : sequence of 3 int
        X, Y, Z.

    Returns
    -------
    Tensor, shape (C, X, Y, Z)
        Zero where there is no patch.
    """
    channels, patch = values.shape[1], values.shape[2:]
    window = _window(patch, values)
    x, y, z = (
        starts[:, axis, None] + torch.arange(side, device=starts.device)
        for axis, side in enumerate(patch)
    )
    index = (x[:, :, None, None] * shape[1] + y[:, None, :, None]) * shape[2] + z[:, None, None]
    index = index.flatten()
    total = values.new_zeros(channels, shape[0] * shape[1] * shape[2])
    total.index_add_(1, index, (values * window).transpose(0, 1).reshape(channels, -1))
    weight = values.new_zeros(total.shape[1])
    weight.index_add_(0, index, window.expand(len(values), *window.shape).flatten())
    mean = total / torch.where(weight > 0, weight, 1)
    return mean.view(channels, *shape)


def _window(patch: Sequence[int], like: Tensor) -> Tensor:
    ramps = []
    for side in patch:
        steps = torch.arange(side, dtype=like.dtype, device=like.device)
        ramps.append(torch.minimum(steps, side - 1 - steps) + 1)
    return ramps[0][:, None, None] * ramps[1][:, None] * ramps[2]

"""Cut volumes into patches and aggregate the patches again, without a loop over them.

The networks take patches with sides of the form 4 k + 3 at their own resolution: two halvings by
convolutions of stride two and two doublings then return the same size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deepreg_wf.lddmm.images import content_box


def bounding_patch_size(occupied: Tensor) -> tuple[int, int, int]:
    """Return the sides of a single patch that holds all occupied voxels.

    Parameters
    ----------
    occupied : Tensor, shape (X, Y, Z), bool
        Voxels that the patch has to hold.

    Returns
    -------
    tuple of int, length 3
        Valid sides of a patch, see `valid_patch_side`.
    """
    x, y, z = (valid_patch_side(part.stop - part.start) for part in content_box(occupied, 0))
    return x, y, z


def valid_patch_side(n: int) -> int:
    """Return the smallest number of the form 4 k + 3 that is not below n.

    Parameters
    ----------
    n : int
        Number of voxels that the patch has to hold.

    Returns
    -------
    int
    """
    return n + (3 - n) % 4


def patch_origins(occupied: Tensor, patch_size: Sequence[int], stride: int) -> Tensor:
    """Cover the bounding box of the occupied voxels with patches.

    Patches are spread evenly and lie no further apart than `stride`; empty ones are left out.
    Their positions depend on the bounding box and not on the border of the grid, so that a
    shifted brain is cut into the same patches.

    Parameters
    ----------
    occupied : Tensor, shape (X, Y, Z), bool
        Voxels to cover; no axis is shorter than a patch.
    patch_size : sequence of int, length 3
        Voxels along each side of a patch.
    stride : int
        Largest distance between the origins of neighbouring patches, in voxels.

    Returns
    -------
    Tensor, shape (N, 3), int64
        First voxel of each patch.
    """
    if not occupied.any():
        return torch.zeros(0, 3, dtype=torch.int64, device=occupied.device)
    axes = [
        _axis_origins(part.start, part.stop, n, side, stride)
        for part, n, side in zip(content_box(occupied, 0), occupied.shape, patch_size, strict=True)
    ]
    origins = torch.cartesian_prod(*axes).to(occupied.device)
    filled = extract_patches(occupied.unsqueeze(0), origins, patch_size).flatten(1).any(dim=1)
    return origins[filled]


def _axis_origins(low: int, high: int, n: int, side: int, stride: int) -> Tensor:
    """Return the first voxels of patches along an axis of n voxels, occupied from low to high."""
    span = max(0, high - low - side)
    # A patch larger than the occupied range is centred on it, as far as the border allows.
    first = low if span else (low + high - side) // 2
    first = min(max(first, 0), n - side)
    count = -(-span // stride) + 1
    # Rounding before the shift keeps the spacing of the patches independent of `first`: halves
    # are rounded to even numbers.
    return first + torch.linspace(0, span, count, dtype=torch.float64).round().long()


def extract_patches(volume: Tensor, origins: Tensor, patch_size: Sequence[int]) -> Tensor:
    """Cut patches out of a volume.

    Parameters
    ----------
    volume : Tensor, shape (C, X, Y, Z)
        Channels of the volume.
    origins : Tensor, shape (N, 3), int64
        First voxel of each patch.
    patch_size : sequence of int, length 3
        Voxels P, Q, R along each side of a patch.

    Returns
    -------
    Tensor, shape (N, C, P, Q, R)
    """
    windows = volume
    for axis, side in enumerate(patch_size, start=1):
        windows = windows.unfold(axis, side, 1)
    x, y, z = origins.unbind(dim=1)
    return windows[:, x, y, z].transpose(0, 1)


def aggregate_patches(values: Tensor, origins: Tensor, shape: Sequence[int]) -> Tensor:
    """Combine patches into a volume by the weighted mean where they overlap.

    Parameters
    ----------
    values : Tensor, shape (N, C, P, Q, R)
        Patches.
    origins : Tensor, shape (N, 3), int64
        First voxel of each patch.
    shape : sequence of int, length 3
        Voxels X, Y, Z of the volume.

    Returns
    -------
    Tensor, shape (C, X, Y, Z)
        Zero where there is no patch.

    Notes
    -----
    With the patches f_k at origins o_k, the value at voxel x is

        f(x) = sum_k w(x - o_k) f_k(x - o_k) / sum_k w(x - o_k).

    Yang et al. (2017) average with equal weights. Here w is the product over the
    axes of the triangular window ``min(i, P - 1 - i) + 1``: the receptive field of a voxel near
    the border of a patch is cut off by the patch, that of a voxel at its centre is complete.
    """
    channels, patch_size = values.shape[1], values.shape[2:]
    window = _triangular_window(patch_size, values)
    x, y, z = (
        origins[:, axis, None] + torch.arange(side, device=origins.device)
        for axis, side in enumerate(patch_size)
    )
    # Index of every voxel of every patch in the flattened volume, shape (N, P, Q, R).
    index = (x[:, :, None, None] * shape[1] + y[:, None, :, None]) * shape[2] + z[:, None, None]
    index = index.flatten()
    total = values.new_zeros(channels, shape[0] * shape[1] * shape[2])
    total.index_add_(1, index, (values * window).transpose(0, 1).reshape(channels, -1))
    weight = values.new_zeros(total.shape[1])
    weight.index_add_(0, index, window.expand(len(values), *window.shape).flatten())
    mean = total / torch.where(weight > 0, weight, 1)
    return mean.view(channels, *shape)


def _triangular_window(patch_size: Sequence[int], like: Tensor) -> Tensor:
    """Return the weights of the voxels of a patch, shape (P, Q, R)."""
    ramps = []
    for side in patch_size:
        index = torch.arange(side, dtype=like.dtype, device=like.device)
        ramps.append(torch.minimum(index, side - 1 - index) + 1)
    return ramps[0][:, None, None] * ramps[1][:, None] * ramps[2]

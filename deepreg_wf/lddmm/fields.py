"""Vector fields and maps on a voxel grid: interpolation, composition, Jacobians.

A map is kept as its displacement ``u`` from the identity, a tensor of shape (3, X, Y, Z) in
voxels along the axes of the grid: the map takes voxel x to ``x + u(x)``. Outside the grid a
displacement is zero, hence a map the identity, and images are zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def identity(shape: Sequence[int], *, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """Return the voxel coordinates of a grid, shape (3, X, Y, Z)."""
    axes = [torch.arange(n, dtype=dtype, device=device) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing='ij'))


def interpolate(field: Tensor, displacement: Tensor, *, mode: str = 'bilinear') -> Tensor:
    """Sample a field at displaced voxels: ``field(x + u(x))``.

    Parameters
    ----------
    field : Tensor, shape (C, X, Y, Z)
        Zero outside its grid.
    displacement : Tensor, shape (3, X, Y, Z)
        u, in voxels.
    mode : {'bilinear', 'nearest'}
        'bilinear' is PyTorch's name for trilinear interpolation in three dimensions.

    Returns
    -------
    Tensor, shape (C, X, Y, Z)
    """
    shape = displacement.shape[1:]
    points = identity(shape, dtype=displacement.dtype, device=displacement.device) + displacement
    size = torch.tensor(field.shape[1:], dtype=points.dtype, device=points.device)
    scale = (2 / (size - 1).clamp_min(1)).view(3, 1, 1, 1)
    # grid_sample wants the fastest axis first, in [-1, 1] between the outermost voxel centres.
    points = (points * scale - 1).flip(0).movedim(0, -1)
    parts = _parts(shape[0], points.device)
    sampled = F.grid_sample(
        field.unsqueeze(0).expand(parts, -1, -1, -1, -1),
        points.reshape(parts, shape[0] // parts, shape[1], shape[2], 3),
        mode=mode,
        padding_mode='zeros',
        align_corners=True,
    )
    return sampled.transpose(0, 1).reshape(field.shape[0], *shape)


def _parts(length: int, device: torch.device) -> int:
    """Slabs of a CPU interpolation: PyTorch shares out 3D samples by batch item only."""
    threads = torch.get_num_threads() if device.type == 'cpu' else 1
    return max(p for p in range(1, threads + 1) if length % p == 0)


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """Displacement of ``outer o inner``: ``x -> outer(inner(x))``; shapes (3, X, Y, Z), voxels."""
    return inner + interpolate(outer, inner)


def gradient(field: Tensor) -> Tensor:
    """Differences of a field along the axes of the grid, per voxel.

    Central inside, one-sided at the border. Not differentiable.

    Parameters
    ----------
    field : Tensor, shape (..., X, Y, Z)

    Returns
    -------
    Tensor, shape (..., 3, X, Y, Z)
    """
    result = field.new_empty(*field.shape[:-3], 3, *field.shape[-3:])
    for i, axis in enumerate((-3, -2, -1)):
        n, out = field.shape[axis], result.select(-4, i)
        high, low = field.narrow(axis, 2, n - 2), field.narrow(axis, 0, n - 2)
        torch.sub(high, low, out=out.narrow(axis, 1, n - 2)).div_(2)
        for end, before, after in ((0, 0, 1), (n - 1, n - 2, n - 1)):
            step = field.select(axis, after) - field.select(axis, before)
            out.select(axis, end).copy_(step)
    return result


def jacobian(displacement: Tensor) -> Tensor:
    """Jacobian matrix of the map ``x + u(x)``: entry (i, j) is d(map_i)/dx_j.

    Parameters
    ----------
    displacement : Tensor, shape (3, X, Y, Z)

    Returns
    -------
    Tensor, shape (3, 3, X, Y, Z)
    """
    eye = torch.eye(3, dtype=displacement.dtype, device=displacement.device)
    matrix: Tensor = gradient(displacement) + eye.view(3, 3, 1, 1, 1)
    return matrix


def determinant(matrix: Tensor) -> Tensor:
    """Determinant of a field of matrices, (3, 3, X, Y, Z) -> (X, Y, Z)."""
    total = matrix[0, 0] * _cofactor(matrix, 0, 0)
    for j in (1, 2):
        total = torch.addcmul(total, matrix[0, j], _cofactor(matrix, 0, j))
    return total


def _cofactor(matrix: Tensor, i: int, j: int) -> Tensor:
    """Cofactor of entry (i, j), signed: the indices go round."""
    (r, s), (p, q) = (((k + 1) % 3, (k + 2) % 3) for k in (i, j))
    return torch.addcmul(matrix[r, p] * matrix[s, q], matrix[r, q], matrix[s, p], value=-1)


def jacobian_determinant(displacement: Tensor) -> Tensor:
    """Determinant of the Jacobian of the map ``x + u(x)``, (3, X, Y, Z) -> (X, Y, Z)."""
    return determinant(jacobian(displacement))

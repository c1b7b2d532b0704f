"""Vector fields and maps on a voxel grid: interpolation, composition, Jacobians.

A map is stored as its displacement ``u`` from the identity, a tensor of shape (3, X, Y, Z) in
voxels along the axes of the grid: the map takes voxel x to ``x + u(x)``. Outside the grid a
displacement is zero, hence a map the identity, and images are zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def identity(shape: Sequence[int], *, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """Return the voxel coordinates of a grid.

    Parameters
    ----------
    shape : sequence of 3 int
        Voxels along each axis.
    dtype : torch.dtype
        Type of the result.
    device : torch.device or str
        Device of the result.

    Returns
    -------
    Tensor, shape (3, X, Y, Z)
        The index of each voxel along each axis.
    """
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
        The samples.
    """
    shape = displacement.shape[1:]
    points = identity(shape, dtype=displacement.dtype, device=displacement.device) + displacement
    size = torch.tensor(field.shape[1:], dtype=points.dtype, device=points.device)
    scale = (2 / (size - 1).clamp_min(1)).view(3, 1, 1, 1)
    # grid_sample wants the fastest axis first, in [-1, 1] between the outermost voxel centres.
    points = (points * scale - 1).flip(0).movedim(0, -1)
    slabs = _slab_count(shape[0], points.device)
    sampled = F.grid_sample(
        field.unsqueeze(0).expand(slabs, -1, -1, -1, -1),
        points.reshape(slabs, shape[0] // slabs, shape[1], shape[2], 3),
        mode=mode,
        padding_mode='zeros',
        align_corners=True,
    )
    return sampled.transpose(0, 1).reshape(field.shape[0], *shape)


def _slab_count(length: int, device: torch.device) -> int:
    """Return the number of slabs that a CPU interpolates in parallel.

    PyTorch distributes a 3D interpolation over threads by batch item only.
    """
    threads = torch.get_num_threads() if device.type == 'cpu' else 1
    return max(count for count in range(1, threads + 1) if length % count == 0)


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """Return the displacement of the map ``x -> outer(inner(x))``.

    Parameters
    ----------
    outer, inner : Tensor, shape (3, X, Y, Z)
        Displacements in voxels.

    Returns
    -------
    Tensor, shape (3, X, Y, Z)
        ``u(x) = inner(x) + outer(x + inner(x))``, in voxels.
    """
    return inner + interpolate(outer, inner)


def gradient(field: Tensor) -> Tensor:
    """Return finite differences of a field along the axes of the grid, per voxel.

    They are central inside and one-sided at the border. Not differentiable.

    Parameters
    ----------
    field : Tensor, shape (..., X, Y, Z)
        The field.

    Returns
    -------
    Tensor, shape (..., 3, X, Y, Z)
        The difference along each axis.
    """
    result = field.new_empty(*field.shape[:-3], 3, *field.shape[-3:])
    for i, axis in enumerate((-3, -2, -1)):
        n, out = field.shape[axis], result.select(-4, i)
        high, low = field.narrow(axis, 2, n - 2), field.narrow(axis, 0, n - 2)
        torch.sub(high, low, out=out.narrow(axis, 1, n - 2)).div_(2)
        for border, before, after in ((0, 0, 1), (n - 1, n - 2, n - 1)):
            step = field.select(axis, after) - field.select(axis, before)
            out.select(axis, border).copy_(step)
    return result


def jacobian(displacement: Tensor) -> Tensor:
    """Return the Jacobian matrix of the map ``x + u(x)``.

    Parameters
    ----------
    displacement : Tensor, shape (3, X, Y, Z)
        u, in voxels.

    Returns
    -------
    Tensor, shape (3, 3, X, Y, Z)
        Entry (i, j) is the derivative of component i of the map along axis j.
    """
    eye = torch.eye(3, dtype=displacement.dtype, device=displacement.device)
    matrix: Tensor = gradient(displacement) + eye.view(3, 3, 1, 1, 1)
    return matrix


def determinant(matrix: Tensor) -> Tensor:
    """Return the determinant of a field of matrices, by expansion along the first row.

    Parameters
    ----------
    matrix : Tensor, shape (3, 3, X, Y, Z)
        The matrices.

    Returns
    -------
    Tensor, shape (X, Y, Z)
        Their determinants.
    """
    total = matrix[0, 0] * _cofactor(matrix, 0, 0)
    for j in (1, 2):
        total = torch.addcmul(total, matrix[0, j], _cofactor(matrix, 0, j))
    return total


def _cofactor(matrix: Tensor, i: int, j: int) -> Tensor:
    """Return the cofactor of entry (i, j).

    With row and column indices in cyclic order after i and j, the minor has the right sign.
    """
    (r, s), (p, q) = (((k + 1) % 3, (k + 2) % 3) for k in (i, j))
    return torch.addcmul(matrix[r, p] * matrix[s, q], matrix[r, q], matrix[s, p], value=-1)


def jacobian_determinant(displacement: Tensor) -> Tensor:
    """Return the determinant of the Jacobian matrix of the map ``x + u(x)``.

    Parameters
    ----------
    displacement : Tensor, shape (3, X, Y, Z)
        u, in voxels.

    Returns
    -------
    Tensor, shape (X, Y, Z)
        Local volume change; positive unless the map folds.
    """
    return determinant(jacobian(displacement))

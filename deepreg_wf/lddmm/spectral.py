"""Periodic band-limited fields: exact derivatives and resampling, axis by axis.

A periodic field on n equally spaced points is a trigonometric polynomial. Its derivative and its
value at any position are linear in the samples, so along an axis each is a matrix. For the n of a
brain these matrices are small: products with them are faster than Fourier transforms and take any
size, any ratio of spacings and any offset.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def derivative_matrix(n: int, spacing: float) -> Tensor:
    """Return the matrix that differentiates n periodic samples.

    Parameters
    ----------
    n : int
        Number of samples.
    spacing : float
        Distance between neighbouring samples.

    Returns
    -------
    Tensor, shape (n, n), float64
        Skew-symmetric; its unit is one over that of `spacing`.
    """
    # With h the spacing, the derivative at sample j of the polynomial through the samples f_l is
    #     sum_l D_jl f_l,  D_jl = -4 pi / (n^2 h) sum_{0 < k < n/2} k sin(2 pi k (j - l) / n)
    # (Trefethen, Spectral Methods in MATLAB, SIAM 2000, chapter 3). The term k = n/2 of an even n
    # has no derivative at the samples.
    row = torch.arange(n, dtype=torch.float64)
    lag = row.view(n, 1) - row
    frequency = torch.arange(1, (n + 1) // 2, dtype=torch.float64)
    sines = torch.sin(2 * torch.pi * (lag[..., None] * frequency % n) / n)
    return -(4 * torch.pi / (n * n * spacing)) * (sines * frequency).sum(dim=-1)


def interpolation_matrix(n: int, positions: Tensor) -> Tensor:
    """Return the matrix that evaluates n periodic samples at given positions.

    Parameters
    ----------
    n : int
        Number of samples.
    positions : Tensor, shape (P,)
        In samples; the first sample is at 0.

    Returns
    -------
    Tensor, shape (P, n), float64
        Its rows sum to one.
    """
    # Dirichlet kernel, with t = position - sample:
    #     1/n (1 + 2 sum_{0 < k < n/2} cos(2 pi k t / n) + [n even] cos(pi t))
    lag = positions.double().view(-1, 1) - torch.arange(n, dtype=torch.float64)
    frequency = torch.arange(1, (n + 1) // 2, dtype=torch.float64)
    kernel = 1 + 2 * torch.cos(2 * torch.pi * lag[..., None] * frequency / n).sum(dim=-1)
    if n % 2 == 0:
        kernel = kernel + torch.cos(torch.pi * lag)
    return kernel / n


def multiply_axis(field: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """Multiply one axis of a field by a matrix.

    Parameters
    ----------
    field : Tensor, shape (..., X, Y, Z)
        The field.
    matrix : Tensor, shape (m, n)
        n is the length of the axis.
    axis : {0, 1, 2}
        0 is X.

    Returns
    -------
    Tensor
        The field with m points along the axis.
    """
    if axis == 2:
        return field @ matrix.T
    if axis == 1:
        return matrix @ field
    product = matrix @ field.flatten(-2)
    return product.reshape(*product.shape[:-1], *field.shape[-2:])


def multiply_axes(field: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Multiply each of the last three axes of a field by a matrix.

    Parameters
    ----------
    field : Tensor, shape (..., X, Y, Z)
        The field.
    matrices : sequence of 3 Tensor, shapes (X', X), (Y', Y), (Z', Z)
        One matrix for each axis.

    Returns
    -------
    Tensor, shape (..., X', Y', Z')
        The product.
    """
    # The axis that shrinks most comes first, which makes the later products small.
    for axis in sorted(range(3), key=lambda a: len(matrices[a]) / matrices[a].shape[1]):
        field = multiply_axis(field, matrices[axis], axis)
    return field


def next_fast_size(n: int) -> int:
    """Return the smallest even number from n on without a prime factor above 7.

    Fourier transforms of such sizes are fast.

    Parameters
    ----------
    n : int
        Least size.

    Returns
    -------
    int
        The size.
    """
    size = n + n % 2
    while _divide_out(size, (2, 3, 5, 7)) > 1:
        size += 2
    return size


def _divide_out(n: int, primes: Sequence[int]) -> int:
    """Divide a number by each prime as often as possible."""
    for prime in primes:
        while n % prime == 0:
            n //= prime
    return n

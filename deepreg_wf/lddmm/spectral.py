"""Periodic band-limited fields: exact derivatives and resampling, axis by axis.

A field on n equally spaced points that repeats itself is a trigonometric polynomial. Its
derivative and its value anywhere are linear in the samples, and along an axis of a brain they are
small dense matrices: products with them are faster than Fourier transforms and take any size,
any ratio of spacings and any offset.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def derivative_matrix(n: int, spacing: float) -> Tensor:
    """Matrix that differentiates n periodic samples, shape (n, n), float64, skew-symmetric."""
    row = torch.arange(n, dtype=torch.float64)
    lag = row.view(n, 1) - row
    frequency = torch.arange(1, (n + 1) // 2, dtype=torch.float64)
    # The highest frequency of an even number of points has no derivative at them.
    sines = torch.sin(2 * torch.pi * (lag[..., None] * frequency % n) / n)
    return -(4 * torch.pi / (n * n * spacing)) * (sines * frequency).sum(dim=-1)


def interpolation_matrix(n: int, positions: Tensor) -> Tensor:
    """Matrix that evaluates n periodic samples at `positions`, shape (positions, n), float64.

    Positions are in samples, the first being at 0. Rows sum to one.
    """
    lag = positions.double().view(-1, 1) - torch.arange(n, dtype=torch.float64)
    frequency = torch.arange(1, (n + 1) // 2, dtype=torch.float64)
    kernel = 1 + 2 * torch.cos(2 * torch.pi * lag[..., None] * frequency / n).sum(dim=-1)
    if n % 2 == 0:
        kernel = kernel + torch.cos(torch.pi * lag)
    return kernel / n


def along(field: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """Multiply an axis of a field, shape (..., X, Y, Z), by a matrix; `axis` is 0, 1 or 2."""
    if axis == 2:
        return field @ matrix.T
    if axis == 1:
        return matrix @ field
    product = matrix @ field.flatten(-2)
    return product.reshape(*product.shape[:-1], *field.shape[-2:])


def resample(field: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Multiply the last three axes of a field each by its matrix."""
    for axis in sorted(range(3), key=lambda a: len(matrices[a]) / matrices[a].shape[1]):
        field = along(field, matrices[axis], axis)
    return field


def friendly_size(n: int) -> int:
    """Smallest even number from n on with no prime factor above seven, for Fourier transforms."""
    size = n + n % 2
    while _without(size, (2, 3, 5, 7)) > 1:
        size += 2
    return size


def _without(n: int, primes: Sequence[int]) -> int:
    for prime in primes:
        while n % prime == 0:
            n //= prime
    return n

"""The Riemannian metric on velocity fields: the operator L and its inverse, the kernel K."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor


class Parameters(TypedDict):
    """What defines a metric, whatever the grid; see `Metric`."""

    alpha: float
    beta: float
    gamma: float
    power: int
    discrete: bool


DEFAULT_METRIC = Parameters(alpha=0.5, beta=0.5, gamma=0.03, power=2, discrete=False)
"""Metric of our own momenta: a kernel of 4 mm decay length, smooth enough not to fold."""


class Metric:
    """Right-invariant metric given by ``L = (-alpha Lap - beta grad div + gamma)^power``.

    A momentum is ``m = L v`` and a velocity ``v = K m`` with ``K = L^-1``. Both are sampled on a
    periodic voxel grid, with components along the axes of the grid. Derivatives are per
    millimetre, so that one set of parameters means the same metric at any spacing.

    Parameters
    ----------
    shape : sequence of 3 int
        Number of voxels along each axis.
    spacing : sequence of 3 float
        Voxel size along each axis, in millimetres.
    alpha, beta, gamma : float
        Weights of the Laplacian (mm^2), of the gradient of the divergence (mm^2) and of the
        identity. ``sqrt(alpha / gamma)`` is the decay length of the kernel in millimetres.
    power : int
        1 is the metric of Quicksilver; 2 makes the velocities continuously differentiable.
    discrete : bool
        Take the derivatives in L as differences between voxels, as the original implementation
        does, and not as those of the band-limited field through the voxels. Only the latter
        means the same at every spacing.
    dtype, device
        Of the tensors that the metric is applied to.

    Notes
    -----
    Per frequency L is a diagonal matrix plus a matrix of rank one, which the Sherman-Morrison
    formula inverts (Yang et al., NeuroImage 2017, section 2.1, for the operator). Where discrete,
    it has second differences for the Laplacian and the diagonal of ``grad div``, products of
    central differences off the diagonal.
    """

    def __init__(
        self,
        shape: Sequence[int],
        spacing: Sequence[float],
        *,
        alpha: float = DEFAULT_METRIC['alpha'],
        beta: float = DEFAULT_METRIC['beta'],
        gamma: float = DEFAULT_METRIC['gamma'],
        power: int = DEFAULT_METRIC['power'],
        discrete: bool = DEFAULT_METRIC['discrete'],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = 'cpu',
    ) -> None:
        if power < 1:
            raise ValueError(f'power must be at least 1, got {power}')
        self.shape = (int(shape[0]), int(shape[1]), int(shape[2]))
        self.spacing = (float(spacing[0]), float(spacing[1]), float(spacing[2]))
        self.alpha, self.beta, self.gamma, self.power = alpha, beta, gamma, power
        self.discrete = discrete
        self.dtype, self.device = dtype, torch.device(device)

    @property
    def voxel_volume(self) -> float:
        """Volume of a voxel in cubic millimetres."""
        return self.spacing[0] * self.spacing[1] * self.spacing[2]

    @property
    def parameters(self) -> Parameters:
        """What defines the metric, whatever the grid."""
        return Parameters(
            alpha=self.alpha,
            beta=self.beta,
            gamma=self.gamma,
            power=self.power,
            discrete=self.discrete,
        )

    @property
    def decay_length(self) -> float:
        """Distance in mm over which the kernel decays."""
        return math.sqrt(self.alpha / self.gamma)

    def with_grid(self, shape: Sequence[int], spacing: Sequence[float]) -> Metric:
        """Return the same metric on another grid."""
        return Metric(shape, spacing, **self.parameters, dtype=self.dtype, device=self.device)

    @property
    def root(self) -> Metric:
        """The metric on this grid whose kernel, applied twice, is that of this one.

        Raises
        ------
        ValueError
            If the power is odd.
        """
        if self.power % 2:
            raise ValueError(f'a metric of power {self.power} has no root of its own kind')
        parameters = self.parameters
        parameters['power'] //= 2
        return Metric(self.shape, self.spacing, **parameters, dtype=self.dtype, device=self.device)

    def velocity(self, momentum: Tensor) -> Tensor:
        """Smooth a momentum to the velocity ``v = K m``.

        Parameters
        ----------
        momentum : Tensor, shape (..., 3, X, Y, Z)

        Returns
        -------
        Tensor, shape (..., 3, X, Y, Z)
            In millimetres per unit time. Differentiable; K is its own adjoint.
        """
        smoothed: Tensor = _ApplySymbol.apply(momentum, self._kernel)  # type: ignore[no-untyped-call]
        return smoothed

    def momentum(self, velocity: Tensor) -> Tensor:
        """Return the momentum ``m = L v`` of a velocity, both of shape (..., 3, X, Y, Z).

        Differentiable, as `velocity` is.
        """
        result = velocity
        for _ in range(self.power):
            result = _ApplySymbol.apply(result, self._operator)  # type: ignore[no-untyped-call]
        return result

    def energy(self, momentum: Tensor, velocity: Tensor | None = None) -> Tensor:
        """Return ``<m, K m>``, the squared norm of the velocity, integrated over mm^3.

        Of momenta of shape (..., 3, X, Y, Z), a number for each.
        """
        if velocity is None:
            velocity = self.velocity(momentum)
        # Summed in double: a million float32 products would lose the digits that the drift needs.
        products = (momentum * velocity).sum(dim=(-4, -3, -2, -1), dtype=torch.float64)
        return products * self.voxel_volume

    def _frequencies(self) -> tuple[list[Tensor], list[Tensor]]:
        """Symbols of second (mm^-2) and first (mm^-1, over i) derivatives per axis, frequency."""
        second, first = [], []
        for axis, (n, h) in enumerate(zip(self.shape, self.spacing, strict=True)):
            cycles = torch.fft.rfftfreq if axis == 2 else torch.fft.fftfreq
            omega = 2 * torch.pi * cycles(n, dtype=torch.float64)
            view = [1, 1, 1]
            view[axis] = len(omega)
            if self.discrete:
                pair = (2 * omega.cos() - 2, omega.sin())
            else:
                # The highest frequency of an even number of points has no first derivative.
                pair = (-omega.square(), torch.where(omega.abs() < torch.pi, omega, 0.0))
            second.append((pair[0] / h**2).view(view))
            first.append((pair[1] / h).view(view))
        return second, first

    def _diagonal(self, second: Sequence[Tensor], first: Sequence[Tensor]) -> list[Tensor]:
        scalar = self.gamma - self.alpha * (second[0] + second[1] + second[2])
        return [scalar - self.beta * (c + s * s) for c, s in zip(second, first, strict=True)]

    @functools.cached_property
    def _operator(self) -> Tensor:
        """Symbol of L to the first power, laid out as that of K."""
        second, first = self._frequencies()
        products = [self.beta * first[i] * first[j] for i, j in _OFF_DIAGONAL]
        squares = [self.beta * s * s for s in first]
        diagonal = [d + s for d, s in zip(self._diagonal(second, first), squares, strict=True)]
        shape = (*self.shape[:2], self.shape[2] // 2 + 1)
        symbol = torch.stack([entry.expand(shape) for entry in (*diagonal, *products)])
        return symbol.to(device=self.device, dtype=self.dtype.to_complex())

    @functools.cached_property
    def _kernel(self) -> Tensor:
        """Upper triangle of the symbol of K, shape (6, X, Y, Z // 2 + 1).

        The order is xx, yy, zz, xy, xz, yz. Complex, since the product with a complex spectrum
        then runs without a strided view.
        """
        second, first = self._frequencies()
        inverse = [1 / d for d in self._diagonal(second, first)]
        damped = [d * s for d, s in zip(inverse, first, strict=True)]
        scale = self.beta / (
            1 + self.beta * sum(d * s for d, s in zip(damped, first, strict=True))
        )
        kernel = torch.stack(
            [inverse[i] - scale * damped[i] * damped[i] for i in range(3)]
            + [-scale * damped[i] * damped[j] for i, j in _OFF_DIAGONAL]
        )
        symbol = kernel
        for _ in range(self.power - 1):
            symbol = _symmetric_product(symbol, kernel)
        return symbol.to(device=self.device, dtype=self.dtype.to_complex())


_OFF_DIAGONAL = ((0, 1), (0, 2), (1, 2))
_ENTRY = ((0, 3, 4), (3, 1, 5), (4, 5, 2))


def _symmetric_product(a: Tensor, b: Tensor) -> Tensor:
    """Product of two commuting symmetric 3x3 matrices stored as six entries."""

    def entry(i: int, j: int) -> Tensor:
        return (
            a[_ENTRY[i][0]] * b[_ENTRY[0][j]]
            + a[_ENTRY[i][1]] * b[_ENTRY[1][j]]
            + a[_ENTRY[i][2]] * b[_ENTRY[2][j]]
        )

    return torch.stack([entry(i, i) for i in range(3)] + [entry(i, j) for i, j in _OFF_DIAGONAL])


class _ApplySymbol(torch.autograd.Function):
    """Multiplication by K or L in the frequency domain; symmetric, each is its own backward."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, m: Tensor, symbol: Tensor) -> Tensor:
        ctx.symbol = symbol  # type: ignore[attr-defined]
        return _multiply(m, symbol)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        return _multiply(grad, ctx.symbol), None  # type: ignore[attr-defined]


def _multiply(m: Tensor, symbol: Tensor) -> Tensor:
    """Product with a symmetric matrix per frequency, given by its six entries."""
    spectrum = torch.fft.rfftn(m, dim=(-3, -2, -1))
    result = torch.empty_like(spectrum)
    first, second, third = spectrum.unbind(-4)
    for out, (x, y, z) in zip(result.unbind(-4), _ENTRY, strict=True):
        torch.mul(first, symbol[x], out=out)
        out.addcmul_(second, symbol[y]).addcmul_(third, symbol[z])
    product: Tensor = torch.fft.irfftn(result, s=m.shape[-3:], dim=(-3, -2, -1))
    return product

"""The Riemannian metric on velocity fields: the operator L and its inverse, the kernel K."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor


class MetricParameters(TypedDict):
    """Parameters of a metric, which do not depend on the grid; see `Metric`."""

    alpha: float
    beta: float
    gamma: float
    power: int
    discrete: bool


DEFAULT_METRIC = MetricParameters(alpha=0.5, beta=0.5, gamma=0.03, power=2, discrete=False)
"""Default metric: a kernel with a decay length of 4 mm, smooth enough to avoid folds."""


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
        Take the derivatives in L as differences between voxels, as the original Quicksilver does,
        and not as those of the band-limited field through the voxels. Only the latter are the
        same at every spacing.
    dtype : torch.dtype
        Type of the tensors that the metric is applied to.
    device : torch.device or str
        Device of these tensors.

    Raises
    ------
    ValueError
        If the power is less than 1.

    Notes
    -----
    The operator is that of Yang et al., NeuroImage 2017, section 2.1. At each frequency its first
    power is a symmetric matrix of shape (3, 3), a diagonal one plus one of rank one::

        L = diag(d) + beta s s^T
        d_i = gamma - alpha (c_0 + c_1 + c_2) - beta (c_i + s_i^2)

    where ``c_i`` and ``1j * s_i`` are the symbols of the second and first derivative along axis i.
    For band-limited fields ``c_i = -k_i^2`` and ``s_i = k_i``, so that ``L = (gamma + alpha |k|^2)
    I + beta k k^T``. For discrete derivatives they are those of second and central differences.
    The Sherman-Morrison formula gives the kernel::

        K = diag(1/d) - beta (s/d) (s/d)^T / (1 + beta s^T (s/d))
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
    def parameters(self) -> MetricParameters:
        """Parameters of the metric, which do not depend on the grid."""
        return MetricParameters(
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

    def with_grid(
        self,
        shape: Sequence[int],
        spacing: Sequence[float],
        parameters: MetricParameters | None = None,
    ) -> Metric:
        """Return the same metric, or one of other parameters, on another grid.

        Parameters
        ----------
        shape : sequence of 3 int
            Number of voxels along each axis.
        spacing : sequence of 3 float
            Voxel size along each axis, in millimetres.
        parameters : dict, optional
            Parameters of the metric, if not the same.

        Returns
        -------
        Metric
            The metric, with the same type and device.
        """
        parameters = parameters or self.parameters
        return Metric(shape, spacing, **parameters, dtype=self.dtype, device=self.device)

    @property
    def square_root(self) -> Metric:
        """The metric on the same grid whose kernel, applied twice, is the kernel of this one.

        Raises
        ------
        ValueError
            If the power is odd.
        """
        if self.power % 2:
            raise ValueError(f'a metric of power {self.power} has no square root of this kind')
        parameters = self.parameters
        parameters['power'] //= 2
        return Metric(self.shape, self.spacing, **parameters, dtype=self.dtype, device=self.device)

    def velocity(self, momentum: Tensor) -> Tensor:
        """Return the velocity ``v = K m`` of a momentum.

        Parameters
        ----------
        momentum : Tensor, shape (..., 3, X, Y, Z)
            Per mm^3.

        Returns
        -------
        Tensor, shape (..., 3, X, Y, Z)
            In millimetres per unit time. Differentiable; K is its own adjoint.
        """
        smoothed: Tensor = _ApplySymbol.apply(momentum, self._kernel)  # type: ignore[no-untyped-call]
        return smoothed

    def momentum(self, velocity: Tensor) -> Tensor:
        """Return the momentum ``m = L v`` of a velocity.

        Parameters
        ----------
        velocity : Tensor, shape (..., 3, X, Y, Z)
            In millimetres per unit time.

        Returns
        -------
        Tensor, shape (..., 3, X, Y, Z)
            Per mm^3. Differentiable.
        """
        result = velocity
        for _ in range(self.power):
            result = _ApplySymbol.apply(result, self._operator)  # type: ignore[no-untyped-call]
        return result

    def energy(self, momentum: Tensor, velocity: Tensor | None = None) -> Tensor:
        """Return ``<m, K m>``, the squared norm of the velocity, integrated over mm^3.

        Parameters
        ----------
        momentum : Tensor, shape (..., 3, X, Y, Z)
            m.
        velocity : Tensor, shape (..., 3, X, Y, Z), optional
            K m, if it is known.

        Returns
        -------
        Tensor, shape (...), float64
            One number for each momentum.
        """
        if velocity is None:
            velocity = self.velocity(momentum)
        # In double precision: a float32 sum of a million products is too coarse for the energy
        # drift of a geodesic.
        products = (momentum * velocity).sum(dim=(-4, -3, -2, -1), dtype=torch.float64)
        return products * self.voxel_volume

    def _frequencies(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return c and s of the class notes: the symbols of the derivatives along each axis.

        Returns
        -------
        second : list of 3 Tensor, float64
            c, in mm^-2; each broadcasts to shape (X, Y, Z // 2 + 1).
        first : list of 3 Tensor, float64
            s, in mm^-1.
        """
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
        """Return d of the class notes."""
        scalar = self.gamma - self.alpha * (second[0] + second[1] + second[2])
        return [scalar - self.beta * (c + s * s) for c, s in zip(second, first, strict=True)]

    @functools.cached_property
    def _operator(self) -> Tensor:
        """Symbol of L to the first power, in the layout of `_kernel`."""
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

        The order is xx, yy, zz, xy, xz, yz. The symbol is real but stored as complex numbers, with
        which the product with a spectrum needs no strided view.
        """
        # The Sherman-Morrison formula of the class notes: `inverse` is 1/d, `damped` is s/d.
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
_ENTRY_INDEX = ((0, 3, 4), (3, 1, 5), (4, 5, 2))


def _symmetric_product(a: Tensor, b: Tensor) -> Tensor:
    """Return the product of two commuting symmetric 3x3 matrices, each stored as six entries."""

    def entry(i: int, j: int) -> Tensor:
        return (
            a[_ENTRY_INDEX[i][0]] * b[_ENTRY_INDEX[0][j]]
            + a[_ENTRY_INDEX[i][1]] * b[_ENTRY_INDEX[1][j]]
            + a[_ENTRY_INDEX[i][2]] * b[_ENTRY_INDEX[2][j]]
        )

    return torch.stack([entry(i, i) for i in range(3)] + [entry(i, j) for i, j in _OFF_DIAGONAL])


class _ApplySymbol(torch.autograd.Function):
    """Multiplication by K or L in the frequency domain, which is its own adjoint."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, m: Tensor, symbol: Tensor) -> Tensor:
        ctx.symbol = symbol  # type: ignore[attr-defined]
        return _multiply(m, symbol)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        return _multiply(grad, ctx.symbol), None  # type: ignore[attr-defined]


def _multiply(m: Tensor, symbol: Tensor) -> Tensor:
    """Multiply the spectrum of a field by a symmetric matrix per frequency.

    Parameters
    ----------
    m : Tensor, shape (..., 3, X, Y, Z)
        The field.
    symbol : Tensor, shape (6, X, Y, Z // 2 + 1)
        The six entries of the matrices.

    Returns
    -------
    Tensor, shape (..., 3, X, Y, Z)
        The product.
    """
    spectrum = torch.fft.rfftn(m, dim=(-3, -2, -1))
    result = torch.empty_like(spectrum)
    first, second, third = spectrum.unbind(-4)
    for out, (x, y, z) in zip(result.unbind(-4), _ENTRY_INDEX, strict=True):
        torch.mul(first, symbol[x], out=out)
        out.addcmul_(second, symbol[y]).addcmul_(third, symbol[z])
    product: Tensor = torch.fft.irfftn(result, s=m.shape[-3:], dim=(-3, -2, -1))
    return product

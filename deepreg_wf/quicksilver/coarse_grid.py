"""Coarse grid of a network, and the whitened momenta on it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from deepreg_wf.checkpoints.coarsening import coarsening_factor
from deepreg_wf.lddmm import Metric, spectral
from deepreg_wf.lddmm.images import block_average, pad_to_multiple
from deepreg_wf.lddmm.lattice import MARGIN_DECAY_LENGTHS, Lattice


class CoarseGrid:
    """Grid of coarse voxels over an image, with the whitened momenta on it.

    A coarse voxel is a block of ``factor`` voxels along each axis. The networks see images
    averaged over these blocks, and momenta that are whitened.

    Parameters
    ----------
    image_metric : Metric
        Metric on the voxels of the image.
    spacing : float
        Wanted spacing of the coarse grid, in mm.
    whitened : bool
        Whiten the momenta; if not, `whiten` and `unwhiten` only change the grid.

    Attributes
    ----------
    image_metric : Metric
        Metric on the voxels of the image.
    factor : int
        Voxels along each side of a coarse voxel.
    shape : tuple of int, length 3
        Coarse voxels along each axis; the last ones may extend beyond the image.
    spacing : tuple of float, length 3
        Size of a coarse voxel, in mm.
    lattice : Lattice
        Periodic lattice that coincides with the coarse grid and has a margin around it, wide
        enough that periodic copies of the image do not interact in shooting.

    Raises
    ------
    InputError
        If no integer multiple of the voxel size comes near `spacing`.
    ValueError
        If momenta are to be whitened and the metric has an odd power.

    Notes
    -----
    The whitened momentum of a momentum m is ``u = K^(1/2) m``, where K is the kernel of the
    metric. Its squared L2 norm is the squared norm of the velocity v = K m in the metric,

        ||u||^2 = <K^(1/2) m, K^(1/2) m> = <m, K m> = ||v||_V^2,

    which is twice the energy of the geodesic (Miller, Trouve and Younes, JMIV 2006). A mean
    squared error of u therefore is the error of the registration in the norm of its own metric.
    Of the alternatives, the error of m is dominated by the highest frequencies, since m holds
    the edges of the image, and the error of v by the lowest, since K is a low-pass filter.
    Under the Gaussian prior ``exp(-<m, K m> / 2)`` the components of u are independent and of
    equal variance, hence "whitened". For a metric ``K = (L_1^-1)^2`` of power two, ``K^(1/2)``
    is the kernel ``L_1^-1`` of power one.
    """

    def __init__(self, image_metric: Metric, spacing: float, *, whitened: bool = True) -> None:
        self.image_metric = image_metric
        self.factor = coarsening_factor(image_metric.spacing, spacing)
        self.shape = tuple(-(-n // self.factor) for n in image_metric.shape)
        self.spacing = tuple(self.factor * h for h in image_metric.spacing)
        margin_mm = MARGIN_DECAY_LENGTHS * image_metric.decay_length
        margin = [math.ceil(margin_mm / h / 2) for h in self.spacing]
        shape = [
            spectral.next_fast_size(n + 2 * m) for n, m in zip(self.shape, margin, strict=True)
        ]
        self._before = [(n - m) // 2 for n, m in zip(shape, self.shape, strict=True)]
        # The centre of the first coarse voxel, in voxels of the image, is at (factor - 1) / 2.
        x, y, z = (n * self.factor - (self.factor - 1) / 2 for n in self._before)
        lattice_metric = image_metric.with_grid(shape, self.spacing)
        self.lattice = Lattice(lattice_metric, image_metric, (x, y, z))
        self._square_root = lattice_metric.square_root if whitened else None

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return self.image_metric.device

    def for_image_shape(self, shape: Sequence[int]) -> CoarseGrid:
        """Return the coarse grid of an image of another shape with the same voxels.

        Parameters
        ----------
        shape : sequence of int, length 3
            Voxels of the image along each axis.

        Returns
        -------
        CoarseGrid
        """
        metric = self.image_metric.with_grid(shape, self.image_metric.spacing)
        whitened = self._square_root is not None
        return CoarseGrid(metric, max(self.spacing), whitened=whitened)

    def downsample(self, image: Tensor) -> Tensor:
        """Average an image over the coarse voxels; beyond its end the image is zero.

        Parameters
        ----------
        image : Tensor, shape (..., X, Y, Z)
            On the voxels of the image.

        Returns
        -------
        Tensor, shape (..., *shape)
        """
        return block_average(pad_to_multiple(image, self.factor), self.factor)

    def whiten(self, momentum: Tensor) -> Tensor:
        """Return the whitened momentum ``u = K^(1/2) m`` of a momentum.

        Frequencies above those of the coarse grid are lost.

        Parameters
        ----------
        momentum : Tensor, shape (..., 3, X, Y, Z)
            On the voxels of the image.

        Returns
        -------
        Tensor, shape (..., 3, *shape)
            On the coarse grid.
        """
        coarse = self.lattice.restrict(momentum)
        return self._crop(self._square_root.velocity(coarse) if self._square_root else coarse)

    def unwhiten(self, whitened: Tensor) -> Tensor:
        """Return the momentum ``m = K^(-1/2) u`` on the voxels of the image.

        Parameters
        ----------
        whitened : Tensor, shape (..., 3, *shape)
            Whitened momentum on the coarse grid.

        Returns
        -------
        Tensor, shape (..., 3, X, Y, Z)
        """
        return self.lattice.lift(self.unwhiten_on_lattice(whitened))

    def unwhiten_on_lattice(self, whitened: Tensor) -> Tensor:
        """Return the momentum ``m = K^(-1/2) u`` on the points of `lattice`.

        Parameters
        ----------
        whitened : Tensor, shape (..., 3, *shape)
            Whitened momentum on the coarse grid.

        Returns
        -------
        Tensor, shape (..., 3, *lattice.metric.shape)
        """
        padded = self._pad(whitened)
        return self._square_root.momentum(padded) if self._square_root else padded

    def whitened_gradient(self, gradient: Tensor) -> Tensor:
        """Return the gradient with respect to a whitened momentum.

        By the chain rule, ``dE/du = K^(-1/2) dE/dm``, because ``m = K^(-1/2) u`` and the operator
        is its own adjoint.

        Parameters
        ----------
        gradient : Tensor, shape (..., 3, *lattice.metric.shape)
            Derivatives of E with respect to the values of `unwhiten_on_lattice`.

        Returns
        -------
        Tensor, shape (..., 3, *shape)
            L2 gradient, per mm^3.
        """
        if self._square_root:
            gradient = self._square_root.momentum(gradient)
        return self._crop(gradient) / self.lattice.metric.voxel_volume

    def _pad(self, field: Tensor) -> Tensor:
        """Extend a field from the coarse grid to the lattice by zeros."""
        widths = []
        for axis in (2, 1, 0):
            before = self._before[axis]
            widths += [before, self.lattice.metric.shape[axis] - before - self.shape[axis]]
        return F.pad(field, widths)

    def _crop(self, field: Tensor) -> Tensor:
        """Cut the coarse grid out of a field on the lattice."""
        for axis, (before, n) in enumerate(zip(self._before, self.shape, strict=True)):
            field = field.narrow(axis - 3, before, n)
        return field

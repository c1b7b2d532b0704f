"""Inputs and image reading of the interfaces that compute with tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nipype.interfaces.base import BaseInterfaceInputSpec, Str, traits

from deepreg_wf.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from deepreg_wf.settings import Compute
    from deepreg_wf.spatial import VoxelGrid


class ComputeInputSpec(BaseInterfaceInputSpec):
    """Device and threads; none of these inputs changes the result."""

    device = Str('cpu', usedefault=True, nohash=True, desc="'cpu', 'cuda' or 'cuda:N'")
    use_gpu = traits.Bool(
        False, usedefault=True, nohash=True, desc='count against the GPU slots of MultiProc'
    )
    num_threads = traits.Int(1, usedefault=True, nohash=True, desc='threads on the CPU')


def compute_inputs(compute: Compute) -> dict[str, Any]:
    """Return the values of the inputs of `ComputeInputSpec`.

    Parameters
    ----------
    compute : Compute
        Resources of the workflow.

    Returns
    -------
    dict
        Values by the name of their trait.
    """
    return {
        'device': compute.device,
        'use_gpu': compute.use_gpu,
        'num_threads': compute.omp_nthreads,
    }


def load_tensor(
    path: str, device: str, grid: VoxelGrid | None = None, *, vector: bool = False
) -> tuple[Tensor, VoxelGrid]:
    """Read an image or a vector field.

    Parameters
    ----------
    path : str
        NIfTI file.
    device : str
        Device of the tensor.
    grid : VoxelGrid, optional
        Grid on which the image has to lie; any by default.
    vector : bool
        Read a vector field instead of an image.

    Returns
    -------
    data : Tensor, shape (X, Y, Z) or (3, X, Y, Z)
    grid : VoxelGrid

    Raises
    ------
    InputError
        If the image does not lie on `grid`.
    """
    import torch

    from deepreg_wf.spatial import load_image, load_vector

    data, own_grid = (load_vector if vector else load_image)(path)
    if grid is not None and own_grid != grid:
        raise InputError(
            'it does not lie on the registration grid', advice='resample it first', path=path
        )
    return torch.from_numpy(data).to(device), own_grid


def load_normalised(
    path: str,
    device: str,
    grid: VoxelGrid | None = None,
    *,
    normalise: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, VoxelGrid]:
    """Read a brain and normalise its intensities.

    Parameters
    ----------
    path : str
        NIfTI file of a brain on a background of zeros.
    device : str
        Device of the tensor.
    grid : VoxelGrid, optional
        Grid on which the image has to lie; any by default.
    normalise : callable, optional
        Normalisation of the intensities; `deepreg_wf.lddmm.normalise` by default.

    Returns
    -------
    image : Tensor, shape (X, Y, Z)
    grid : VoxelGrid

    Raises
    ------
    InputError
        If the image does not lie on `grid`, or has no intensities to normalise.
    """
    from deepreg_wf import lddmm

    image, own_grid = load_tensor(path, device, grid)
    try:
        return (normalise or lddmm.normalise)(image), own_grid
    except ValueError as error:
        raise InputError(
            str(error), advice='check the brain mask and the affine', path=path
        ) from None

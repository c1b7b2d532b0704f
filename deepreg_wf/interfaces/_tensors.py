"""What the interfaces that compute with tensors share: where, and how images become tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from nipype.interfaces.base import BaseInterfaceInputSpec, Str, traits

from deepreg_wf.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from deepreg_wf.spatial import VoxelGrid


class ComputeInputSpec(BaseInterfaceInputSpec):
    """Where to compute; nothing of it changes the result."""

    device = Str('cpu', usedefault=True, nohash=True, desc="'cpu', 'cuda' or 'cuda:N'")
    use_gpu = traits.Bool(
        False, usedefault=True, nohash=True, desc='count against the GPU slots of MultiProc'
    )
    num_threads = traits.Int(1, usedefault=True, nohash=True, desc='threads on the CPU')


def load_tensor(
    path: str, device: str, grid: VoxelGrid | None = None, *, vector: bool = False
) -> tuple[Tensor, VoxelGrid]:
    """Read an image or a vector field, which has to lie on `grid` if that is given."""
    import torch

    from deepreg_wf.spatial import load_image, load_vector

    data, own_grid = (load_vector if vector else load_image)(path)
    if grid is not None and own_grid != grid:
        raise InputError(f'{path}: it does not lie on the registration grid; resample it first.')
    return torch.from_numpy(data).to(device), own_grid


def load_brain(
    path: str,
    device: str,
    grid: VoxelGrid | None = None,
    *,
    scale: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, VoxelGrid]:
    """Read a brain and scale its intensities, by default as matching does."""
    from deepreg_wf.lddmm import normalise

    image, own_grid = load_tensor(path, device, grid)
    try:
        return (scale or normalise)(image), own_grid
    except ValueError as error:
        raise InputError(f'{path}: {error}; look at the brain mask and the affine.') from None

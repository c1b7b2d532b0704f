"""Brain extraction by SynthStrip (Hoopes et al., NeuroImage 260 (2022) 119474).

The network is that of the package ``nipreps-synthstrip``, which the extra ``synthstrip``
installs. Its weights, FreeSurfer's ``synthstrip.1.pt``, have a licence of their own: users get
them there and say where they are.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepreg_wf.errors import InputError
from deepreg_wf.spatial import VoxelGrid, resample
from deepreg_wf.spatial.masks import Mask

BORDER_MM = 1.0
"""Distance outside of the brain's surface up to which a voxel is brain, that of SynthStrip."""

SIDES = (192, 256, 320)
"""Lengths in voxels of 1 mm of what the network sees."""

ROBUST_MAXIMUM = 99.0
"""Percentile of the intensities that becomes 1."""

FAR_MM = 100.0
"""Distance that is taken for what the network has not seen."""


def extract(
    data: NDArray[np.floating],
    grid: VoxelGrid,
    *,
    num_threads: int = 1,
    device: str = 'cpu',
    model: Path | None = None,
) -> Mask:
    """Find the brain in a head.

    Parameters
    ----------
    data : ndarray, shape (X, Y, Z)
        T1-weighted image, finite.
    grid : VoxelGrid
    num_threads : int
        Threads on the CPU.
    device : str
        ``'cpu'``, ``'cuda'`` or ``'cuda:N'``.
    model : Path
        ``synthstrip.1.pt``.

    Returns
    -------
    ndarray of bool, shape (X, Y, Z)

    Raises
    ------
    InputError
        If the package or its weights are missing; without the name of the image.
    """
    import torch

    if model is None or missing(model):
        raise InputError(missing(model))
    network = _load(model, device)
    seen = _box(grid)
    image = resample(data, grid, seen)
    image -= image.min()
    image = np.clip(image / max(float(np.percentile(image, ROBUST_MAXIMUM)), 1e-6), 0, 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        with torch.inference_mode():
            distance = network(torch.from_numpy(image)[None, None].to(device))[0, 0].cpu().numpy()
    finally:
        torch.set_num_threads(threads)
    return resample(distance, seen, grid, default_value=FAR_MM) < BORDER_MM


def missing(model: Path | None = None) -> str:
    """Say what there is to be installed or given.

    Parameters
    ----------
    model : Path, optional
        The weights.

    Returns
    -------
    str
        A sentence; empty where everything is there.
    """
    try:
        package = find_spec('nipreps.synthstrip')
    except ModuleNotFoundError:
        package = None
    if package is None:
        return (
            "SynthStrip is not installed; install it by pip install 'deepreg_wf[synthstrip]', or "
            'choose another --skull-strip-method.'
        )
    if model is None:
        return 'SynthStrip has no weights; say by --skull-strip-model where synthstrip.1.pt is.'
    if not model.is_file():
        return f'{model}: no such file; say by --skull-strip-model where synthstrip.1.pt is.'
    return ''


def _load(path: Path, device: str) -> Any:
    import torch
    from nipreps.synthstrip.model import StripModel

    network = StripModel()
    try:
        weights = torch.load(path, map_location='cpu', weights_only=True)
        network.load_state_dict(weights['model_state_dict'])
    except Exception as error:
        raise InputError(f'{path}: not weights of SynthStrip ({error}); get them anew.') from error
    return network.to(device).eval()


def _box(grid: VoxelGrid) -> VoxelGrid:
    """Voxels of 1 mm in storage order LIA about the centre of a grid: what the network wants."""
    corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in grid.shape])).reshape(3, -1).T
    extent = np.ptp(grid.to_mm(corners), axis=0)
    # Storage order L, I, A: the second axis goes along S, the third along A.
    x, y, z = (next((s for s in SIDES if s >= length - 1), SIDES[-1]) for length in extent)
    shape = np.array([x, z, y])
    affine = np.eye(4)
    affine[:3, :3] = [[-1, 0, 0], [0, 0, 1], [0, -1, 0]]
    centre = grid.to_mm((np.asarray(grid.shape) - 1) / 2)
    affine[:3, 3] = centre - affine[:3, :3] @ ((shape - 1) / 2)
    return VoxelGrid(shape.tolist(), affine)

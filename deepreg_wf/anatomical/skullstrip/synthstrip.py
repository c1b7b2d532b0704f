"""Brain extraction by SynthStrip (Hoopes et al., NeuroImage 260 (2022) 119474).

The extra ``synthstrip`` installs the package ``nipreps-synthstrip``, which holds the network. Its
weights, ``synthstrip.1.pt`` of FreeSurfer, have a licence of their own: users download them and
give their path.
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
"""Distance from the surface up to which a voxel outside is brain, as in SynthStrip."""

BOX_LENGTHS = (192, 256, 320)
"""Lengths of the sides of the network's input, in voxels of 1 mm."""

ROBUST_MAXIMUM = 99.0
"""Percentile of the intensities that is scaled to 1."""

DISTANCE_OUTSIDE_MM = 100.0
"""Distance from the brain assumed for voxels outside of the network's input."""


def extract(
    data: NDArray[np.floating],
    grid: VoxelGrid,
    *,
    num_threads: int = 1,
    device: str = 'cpu',
    model: Path | None = None,
) -> Mask:
    """Extract the brain of a head.

    Parameters
    ----------
    data : ndarray, shape (X, Y, Z)
        T1-weighted image, finite.
    grid : VoxelGrid
        Grid of the image.
    num_threads : int
        Threads on the CPU.
    device : str
        ``'cpu'``, ``'cuda'`` or ``'cuda:N'``.
    model : Path
        File ``synthstrip.1.pt``.

    Returns
    -------
    ndarray of bool, shape (X, Y, Z)
        Brain mask.

    Raises
    ------
    InputError
        If the package or its weights are missing or unusable; without the path of the image.
    """
    import torch

    error = missing(model)
    if error is not None:
        raise error
    assert model is not None  # `missing` refuses None
    network = _load(model, device)
    box_grid = _input_grid(grid)
    image = resample(data, grid, box_grid)
    image -= image.min()
    image = np.clip(image / max(float(np.percentile(image, ROBUST_MAXIMUM)), 1e-6), 0, 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        with torch.inference_mode():
            distance = network(torch.from_numpy(image)[None, None].to(device))[0, 0].cpu().numpy()
    finally:
        torch.set_num_threads(threads)
    return resample(distance, box_grid, grid, default_value=DISTANCE_OUTSIDE_MM) < BORDER_MM


def missing(model: Path | None = None) -> InputError | None:
    """Return an error if the package or its weights are missing.

    Parameters
    ----------
    model : Path, optional
        File with the weights.

    Returns
    -------
    InputError or None
        Error, None if the method can run.
    """
    try:
        package = find_spec('nipreps.synthstrip')
    except ModuleNotFoundError:
        package = None
    if package is None:
        return InputError(
            'SynthStrip is not installed',
            advice="install it with pip install 'deepreg_wf[synthstrip]', or choose another "
            '--skull-strip-method',
        )
    advice = 'give the path of synthstrip.1.pt by --skull-strip-model'
    if model is None:
        return InputError('SynthStrip has no weights', advice=advice)
    if not model.is_file():
        return InputError('no such file', advice=advice, path=model)
    return None


def _load(path: Path, device: str) -> Any:
    import torch
    from nipreps.synthstrip.model import StripModel

    network = StripModel()
    try:
        weights = torch.load(path, map_location='cpu', weights_only=True)
        network.load_state_dict(weights['model_state_dict'])
    except Exception as error:
        # The path in the problem: that of the error is the image.
        raise InputError(
            f'{path} does not hold weights of SynthStrip ({error})',
            advice='download synthstrip.1.pt again',
        ) from error
    return network.to(device).eval()


def _input_grid(grid: VoxelGrid) -> VoxelGrid:
    """Return the grid of the network's input: 1 mm, storage order LIA, same centre."""
    corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in grid.shape])).reshape(3, -1).T
    extent = np.ptp(grid.to_mm(corners), axis=0)
    # Storage order L, I, A: the second axis goes along S, the third along A.
    x, y, z = (
        next((s for s in BOX_LENGTHS if s >= length - 1), BOX_LENGTHS[-1]) for length in extent
    )
    shape = np.array([x, z, y])
    affine = np.eye(4)
    affine[:3, :3] = [[-1, 0, 0], [0, 0, 1], [0, -1, 0]]
    centre = grid.to_mm((np.asarray(grid.shape) - 1) / 2)
    affine[:3, 3] = centre - affine[:3, :3] @ ((shape - 1) / 2)
    return VoxelGrid(shape.tolist(), affine)

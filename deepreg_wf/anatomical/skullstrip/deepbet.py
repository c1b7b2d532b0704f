"""Brain extraction by deepbet (Fisch et al., Computers in Biology and Medicine 179 (2024) 108845).

One network finds the brain on a coarse grid, another one segments it there. The package holds the
weights of both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepreg_wf.errors import InputError
from deepreg_wf.spatial import VoxelGrid
from deepreg_wf.spatial.masks import Mask

THRESHOLD = 0.5
"""Probability from which a voxel is brain, as in deepbet."""


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
    model : Path, optional
        Not used.

    Returns
    -------
    ndarray of bool, shape (X, Y, Z)
        Brain mask.

    Raises
    ------
    InputError
        If it finds no brain; without a path.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        canonical = _segment(
            np.ascontiguousarray(grid.to_canonical(data), dtype=np.float32), device
        )
    finally:
        torch.set_num_threads(threads)
    return grid.from_canonical(canonical)


def _segment(data: NDArray[np.float32], device: str) -> Mask:
    """Return the brain mask of a head in storage order RAS."""
    network = _load(device)
    try:
        mask: Mask = network.postprocess(network.run_model(data) > THRESHOLD)
    except (AssertionError, ValueError):
        # deepbet raises these where its coarse network marks nothing or almost nothing.
        raise InputError(
            'deepbet finds no brain in it',
            advice='check that it is a T1-weighted image of a whole head and that its orientation '
            'is right',
        ) from None
    return mask


def _load(device: str) -> Any:
    from deepbet import BrainExtraction

    network = BrainExtraction(no_gpu=True)
    for part in (network.model, network.bbox_model):
        part.to(device)
    return network

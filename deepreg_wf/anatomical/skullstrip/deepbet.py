"""Brain extraction by deepbet (Fisch et al., Computers in Biology and Medicine 179 (2024) 108845).

Two networks, one that finds the brain on a coarse grid and one that outlines it there; their
weights come inside the package.
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
"""Probability from which a voxel is brain, that of deepbet."""


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
    model : Path, optional
        Not needed.

    Returns
    -------
    ndarray of bool, shape (X, Y, Z)

    Raises
    ------
    InputError
        If there is no brain to be found; without the name of a file.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        canonical = _outline(np.ascontiguousarray(grid.reorder(data), dtype=np.float32), device)
    finally:
        torch.set_num_threads(threads)
    return grid.restore(canonical)


def _outline(data: NDArray[np.float32], device: str) -> Mask:
    """Mask of a head in storage order RAS."""
    network = _load(device)
    try:
        return network.postprocess(network.run_model(data) > THRESHOLD)
    except (AssertionError, ValueError):
        # What deepbet raises where its coarse network marks nothing, or next to nothing.
        raise InputError(
            'deepbet finds no brain in it; check that it is a T1-weighted image of a whole head '
            'and that its orientation is right.'
        ) from None


def _load(device: str) -> Any:
    from deepbet import BrainExtraction

    network = BrainExtraction(no_gpu=True)
    for part in (network.model, network.bbox_model):
        part.to(device)
    return network

"""The start that a network sees, whatever the header says."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from deepreg_wf.affine.brain import Brain

if TYPE_CHECKING:
    from deepreg_wf.affine.localisation_net import Localiser

STEPS = 4
"""Of the recurrence."""

SPACING = 4.0
"""Of the voxels that the network's box is filled from, in mm; those of its training."""

Array = NDArray[np.float64]


def learned_start(moving: Brain, fixed: Brain, *, steps: int = STEPS) -> Array:
    """Let the network say how a brain is turned.

    Parameters
    ----------
    moving, fixed : Brain
    steps : int
        How often it looks, each time through what it has found so far.

    Returns
    -------
    ndarray, shape (4, 4)
        RAS mm of the fixed brain to RAS mm of the moving one.
    """
    import torch

    from deepreg_wf.affine.localisation_net import estimate, look

    network = _network()
    coarse = [brain.coarsened(SPACING) for brain in (moving, fixed)]
    frames = [_frame(brain, network.volume) for brain in coarse]
    images = [torch.from_numpy(brain.data) for brain in coarse]
    to_voxels = [
        torch.from_numpy(brain.grid.to_voxels @ frame).float()
        for brain, frame in zip(coarse, frames, strict=True)
    ]
    threads = torch.get_num_threads()
    # A network as small as this one gains nothing by more.
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            seen = look(images[1], to_voxels[1], network)
            found = estimate(network, images[0], to_voxels[0], seen, steps=steps)[-1]
    finally:
        torch.set_num_threads(threads)
    return np.asarray(frames[0] @ found.double().numpy() @ np.linalg.inv(frames[1]))


def _frame(brain: Brain, volume: float) -> Array:
    """Millimetres about the centre of a brain of a given volume to RAS mm, shape (4, 4)."""
    frame = np.eye(4)
    frame[:3, :3] *= (brain.volume / volume) ** (1 / 3)
    frame[:3, 3] = brain.centre
    return frame


@lru_cache(maxsize=1)
def _network() -> Localiser:
    from deepreg_wf.affine.checkpoint import load
    from deepreg_wf.checkpoints.find import SHIPPED

    return load(SHIPPED / 'affine.safetensors')

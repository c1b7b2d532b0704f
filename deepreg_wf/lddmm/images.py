"""Intensities as matching expects them."""

from __future__ import annotations

import torch
from torch import Tensor

ROBUST_MAXIMUM = 0.995
"""Quantile of the brain's intensities that becomes 1: vessels and noise lie above it."""


def normalise(image: Tensor) -> Tensor:
    """Scale an image of a brain on empty ground to [0, 1].

    What is not finite or negative becomes 0; what exceeds the robust maximum becomes 1.

    Parameters
    ----------
    image : Tensor, shape (X, Y, Z)

    Returns
    -------
    Tensor, shape (X, Y, Z)

    Raises
    ------
    ValueError
        If no voxel is positive.
    """
    image = torch.nan_to_num(image, nan=0.0, posinf=0.0, neginf=0.0).clamp_min(0)
    brain = image[image > 0]
    if brain.numel() == 0:
        raise ValueError('the image has no positive voxel')
    # Sorted by kthvalue: torch.quantile refuses more than 16 million values.
    rank = max(1, round(ROBUST_MAXIMUM * brain.numel()))
    return (image / brain.kthvalue(rank).values).clamp_max(1)

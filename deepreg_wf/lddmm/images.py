"""Intensity scaling, padding, averaging and cropping of images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ROBUST_MAXIMUM = 0.995
"""Quantile of the brain's intensities that becomes 1: vessels and noise lie above it."""


def normalise(image: Tensor) -> Tensor:
    """Scale an image of a brain on an empty background to [0, 1].

    Values that are not finite or are negative become 0; values above the quantile
    `ROBUST_MAXIMUM` of the positive ones become 1.

    Parameters
    ----------
    image : Tensor, shape (X, Y, Z)
        The image.

    Returns
    -------
    Tensor, shape (X, Y, Z)
        The scaled image.

    Raises
    ------
    ValueError
        If no voxel is positive.
    """
    image = torch.nan_to_num(image, nan=0.0, posinf=0.0, neginf=0.0).clamp_min(0)
    brain = image[image > 0]
    if brain.numel() == 0:
        raise ValueError('the image has no positive voxel')
    # torch.quantile refuses more than 16 million values; kthvalue does not.
    rank = max(1, round(ROBUST_MAXIMUM * brain.numel()))
    return (image / brain.kthvalue(rank).values).clamp_max(1)


def pad_to_multiple(image: Tensor, multiple: int, *, repeat: bool = False) -> Tensor:
    """Add zeros at the far end of the last three axes, up to a multiple of a number.

    Parameters
    ----------
    image : Tensor, shape (..., X, Y, Z)
        The image.
    multiple : int
        Divisor of the new lengths.
    repeat : bool
        Repeat the last values in place of zeros; the image has four axes.

    Returns
    -------
    Tensor, shape (..., X', Y', Z')
        The padded image.
    """
    widths = [width for n in reversed(image.shape[-3:]) for width in (0, -n % multiple)]
    return F.pad(image, widths, mode='replicate' if repeat else 'constant')


def block_average(image: Tensor, factor: int) -> Tensor:
    """Average an image over cubes of voxels.

    Parameters
    ----------
    image : Tensor, shape (..., X, Y, Z)
        The image.
    factor : int
        Voxels along each side of a cube.

    Returns
    -------
    Tensor, shape (..., X // factor, Y // factor, Z // factor)
        The averages.
    """
    if factor == 1:
        return image
    batch = image.reshape(1, -1, *image.shape[-3:])
    return F.avg_pool3d(batch, factor).reshape(
        *image.shape[:-3], *(n // factor for n in image.shape[-3:])
    )


def content_box(image: Tensor, margin: int) -> tuple[slice, slice, slice]:
    """Return the bounding box of the positive voxels of an image.

    Parameters
    ----------
    image : Tensor, shape (X, Y, Z)
        The image.
    margin : int
        Voxels added on each side, within the grid.

    Returns
    -------
    tuple of 3 slice
        The box; the whole grid if no voxel is positive.
    """
    occupied = torch.nonzero(image > 0)
    if not len(occupied):
        x, y, z = (slice(0, n) for n in image.shape)
        return x, y, z
    first, last = occupied.amin(dim=0).tolist(), occupied.amax(dim=0).tolist()
    x, y, z = (
        slice(max(0, a - margin), min(n, b + 1 + margin))
        for a, b, n in zip(first, last, image.shape, strict=True)
    )
    return x, y, z

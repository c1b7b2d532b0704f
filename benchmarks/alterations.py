"""Alterations of brains, as other scanners, other software and other populations cause."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from deepreg_wf.lddmm import Metric, fields, shoot

LARGE_VOXEL = 3.0
"""Size in mm of the voxels of `large_voxels`."""

DILATION = 0.35
"""Growth of the ventricles in `atrophy`: the divergence of the velocity at their middle."""


@dataclass(frozen=True)
class Labelled:
    """A brain in [0, 1] and its labels, int64, both of shape (X, Y, Z)."""

    image: Tensor
    labels: Tensor


Alteration = Callable[[Labelled, float, Generator], Labelled]
"""Takes a brain, its spacing in mm and what random numbers are drawn from."""


def leave(brain: Labelled, spacing: float, generator: Generator) -> Labelled:
    """Return the brain unchanged."""
    return brain


def large_voxels(brain: Labelled, spacing: float, generator: Generator) -> Labelled:
    """Average over voxels of 3 mm, and interpolate back."""
    shape = [round(n * spacing / LARGE_VOXEL) for n in brain.image.shape]
    small = F.interpolate(brain.image[None, None], shape, mode='area')
    image = F.interpolate(small, brain.image.shape, mode='trilinear', align_corners=False)[0, 0]
    return replace(brain, image=image)


def noise(brain: Labelled, spacing: float, generator: Generator) -> Labelled:
    """Add noise of a tenth of white matter's intensity to the brain."""
    noisy = brain.image + 0.1 * torch.randn(brain.image.shape, generator=generator)
    return replace(brain, image=torch.where(brain.image > 0, noisy.clamp_min(0), 0))


def bias(brain: Labelled, spacing: float, generator: Generator) -> Labelled:
    """Multiply by a bias field that doubles intensities from one end of the brain to the other."""
    ramp = torch.linspace(-1, 1, brain.image.shape[1])[:, None]
    return replace(brain, image=brain.image * torch.exp(0.35 * ramp))


def flat_contrast(brain: Labelled, spacing: float, generator: Generator) -> Labelled:
    """Bring grey matter nearer to white, as low fields and short inversion times do."""
    return replace(brain, image=brain.image.clamp_min(0) ** 0.5)


def steep_contrast(brain: Labelled, spacing: float, generator: Generator) -> Labelled:
    """Bring grey matter nearer to fluid, as MP2RAGE and long inversion times do."""
    return replace(brain, image=brain.image.clamp_min(0) ** 2)


def meninges(brain: Labelled, spacing: float, generator: Generator) -> Labelled:
    """Add a layer of 4 mm, half as bright as white matter, around the upper half of the brain."""
    inside = (brain.image > 0).float()[None, None]
    reach = round(4 / spacing)
    around = F.max_pool3d(inside, 2 * reach + 1, stride=1, padding=reach)[0, 0] > 0
    upper = torch.arange(brain.image.shape[2]) > brain.image.shape[2] / 2
    coat = around & (brain.image <= 0) & upper
    return replace(brain, image=torch.where(coat, 0.5, brain.image))


def small(brain: Labelled, spacing: float, generator: Generator) -> Labelled:
    """Shrink by a tenth, as a wrong affine of a brain of unusual proportions does."""
    return _carry(brain, _scaling(brain.image, 1 / 0.9))


def atrophy(brain: Labelled, spacing: float, generator: Generator) -> Labelled:
    """Enlarge the ventricles along a geodesic, by half their width."""
    shape = brain.image.shape
    metric = Metric(shape, [spacing] * 3)
    at = [spacing * (torch.arange(n) - n / 2) for n in shape]
    place = torch.stack(torch.meshgrid(*at, indexing='ij'))
    place[2] -= 10.0  # the lateral ventricles lie above the middle of the grid
    bump = torch.exp(-(place.square().sum(dim=0)) / (2 * 20.0**2))
    geodesic = shoot(metric.momentum(DILATION * place * bump), metric)
    return _carry(brain, geodesic.phi_inverse)


def _scaling(image: Tensor, factor: float) -> Tensor:
    """Return the displacement in voxels of a scaling about the centre of an image."""
    at = [torch.arange(n) - (n - 1) / 2 for n in image.shape]
    return (factor - 1) * torch.stack(torch.meshgrid(*at, indexing='ij'))


def _carry(brain: Labelled, displacement: Tensor) -> Labelled:
    """Sample image and labels at displaced voxels."""
    image = fields.interpolate(brain.image.unsqueeze(0), displacement)[0]
    labels = brain.labels.float().unsqueeze(0)
    return Labelled(image, fields.interpolate(labels, displacement, mode='nearest')[0].long())


ALTERATIONS: dict[str, Alteration] = {
    'none': leave,
    '3 mm voxels': large_voxels,
    'noise': noise,
    'bias field': bias,
    'flat contrast': flat_contrast,
    'steep contrast': steep_contrast,
    'meninges': meninges,
    'small': small,
    'atrophy': atrophy,
}

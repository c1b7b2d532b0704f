"""The network that sees two brains and says by what affine one has to be moved on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepreg_wf.lddmm.fields import identity, interpolate

OUTPUTS = 15
"""Six numbers for a rotation, six for scales and shears, three for a translation."""

REACH_MM = 50.0
"""Translation that an output of one stands for."""


class Localiser(nn.Module):
    """Localisation network of a spatial transformer (Jaderberg et al., NeurIPS 2015), in 3D.

    Parameters
    ----------
    features : int
        Channels of the first layer; each of three halvings of the resolution doubles them.
    shape : tuple of 3 int
        Voxels of the box around a brain that it sees; multiples of 8.
    spacing : float
        Of these voxels, in mm.
    volume : float
        That brains are brought to before they are shown, in mm^3.
    """

    def __init__(
        self,
        features: int = 8,
        *,
        shape: Sequence[int] = (24, 32, 24),
        spacing: float = 8.0,
        volume: float = 1.9e6,
    ) -> None:
        super().__init__()
        if any(n % 8 for n in shape):
            raise ValueError(f'the sides of the box must be multiples of 8, not {shape}')
        self.features, self.shape = features, tuple(shape)
        self.spacing, self.volume = spacing, volume
        layers: list[nn.Module] = [nn.Conv3d(2, features, 3, padding=1), nn.PReLU()]
        for level in range(3):
            inner, outer = features << level, features << (level + 1)
            layers += [nn.Conv3d(inner, outer, 3, stride=2, padding=1), nn.PReLU()]
            layers += [nn.Conv3d(outer, outer, 3, padding=1), nn.PReLU()]
        size = (features << 3) * math.prod(n // 8 for n in shape)
        layers += [nn.Flatten(), nn.Linear(size, 16 * features), nn.PReLU()]
        self.layers = nn.Sequential(*layers)
        self.last = nn.Linear(16 * features, OUTPUTS)
        for layer in self.layers:
            if isinstance(layer, (nn.Conv3d, nn.Linear)):
                nn.init.kaiming_normal_(layer.weight, a=0.25)
                nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """Say what is left between two brains.

        Parameters
        ----------
        moving, fixed : Tensor, shape (batch, 1, *shape)
            The first as it is seen through the affine so far.

        Returns
        -------
        Tensor, shape (batch, 4, 4)
            Affine in mm about the centre of the box, points of the fixed brain to points of the
            moving one; its determinant is positive, whatever the weights.
        """
        return affine_of(self.last(self.layers(torch.cat([moving, fixed], dim=1))))


def affine_of(numbers: Tensor) -> Tensor:
    """Make affines of plain numbers, (batch, 15) -> (batch, 4, 4); zeros give the identity.

    The linear part is a rotation times an upper triangle with a positive diagonal, so that it
    never mirrors. The rotation comes from two vectors by Gram and Schmidt, continuously (Zhou et
    al., CVPR 2019).
    """
    eye = torch.eye(3, dtype=numbers.dtype, device=numbers.device)
    first = F.normalize(numbers[:, 0:3] + eye[0], dim=1)
    second = numbers[:, 3:6] + eye[1]
    second = F.normalize(second - (first * second).sum(1, keepdim=True) * first, dim=1)
    rotation = torch.stack([first, second, torch.linalg.cross(first, second)], dim=2)
    triangle = torch.diag_embed(numbers[:, 6:9].exp())
    rows, columns = torch.triu_indices(3, 3, offset=1)
    triangle[:, rows, columns] = numbers[:, 9:12]
    affine = torch.eye(4, dtype=numbers.dtype, device=numbers.device).repeat(len(numbers), 1, 1)
    affine[:, :3, :3] = rotation @ triangle
    affine[:, :3, 3] = REACH_MM * numbers[:, 12:15]
    return affine


def box_to_mm(shape: tuple[int, ...], spacing: float) -> Tensor:
    """Voxels of the box to mm about its centre, shape (4, 4)."""
    affine = torch.diag(torch.tensor([spacing, spacing, spacing, 1.0]))
    affine[:3, 3] = -spacing * (torch.tensor(shape, dtype=torch.float32) - 1) / 2
    return affine


def look(image: Tensor, to_voxels: Tensor, localiser: Localiser) -> Tensor:
    """Resample a brain onto the box that a network sees.

    Parameters
    ----------
    image : Tensor, shape (X, Y, Z)
        Zero outside of its grid.
    to_voxels : Tensor, shape (4, 4)
        Millimetres about the centre of the box to voxels of the image.
    localiser : Localiser

    Returns
    -------
    Tensor, shape of the box
    """
    affine = to_voxels @ box_to_mm(localiser.shape, localiser.spacing).to(to_voxels)
    voxels = identity(localiser.shape, dtype=image.dtype, device=image.device)
    moved = torch.einsum('ij,jxyz->ixyz', affine[:3, :3], voxels) + affine[:3, 3, None, None, None]
    return interpolate(image[None], moved - voxels)[0]


def estimate(
    localiser: Localiser, moving: Tensor, to_voxels: Tensor, fixed: Tensor, *, steps: int
) -> list[Tensor]:
    """Align a brain with another, step by step (Lin and Lucey, CVPR 2017).

    Each step sees the moving brain as the affine so far shows it, always resampled from the
    original, and composes what it finds with that affine.

    Parameters
    ----------
    localiser : Localiser
    moving : Tensor, shape (X, Y, Z)
    to_voxels : Tensor, shape (4, 4)
        Millimetres about the centre of the moving brain to its voxels.
    fixed : Tensor, shape of the box
    steps : int

    Returns
    -------
    list of Tensor, shape (4, 4)
        After each step: millimetres about the centre of the fixed brain to millimetres about that
        of the moving one.
    """
    affine = torch.eye(4, dtype=moving.dtype, device=moving.device)
    found = []
    for _ in range(steps):
        seen = look(moving, to_voxels @ affine, localiser)
        affine = affine @ localiser(seen[None, None], fixed[None, None])[0]
        found.append(affine)
    return found

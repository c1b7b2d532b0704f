"""Localisation network that estimates the affine between two brains, and its weights file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepreg_wf.checkpoints.safetensors_file import (
    assign_tensors,
    check_consistency,
    read_network,
    write_network,
)
from deepreg_wf.lddmm.fields import identity, interpolate

N_PARAMETERS = 15
"""Network outputs: six for a rotation, six for scales and shears, three for a translation."""

TRANSLATION_UNIT_MM = 50.0
"""Translation of an output of one, in mm."""

FORMAT = 'deepreg_wf affine 1'
"""Name and version of the layout of the weights file."""


class LocalisationNet(nn.Module):
    """Localisation network of a spatial transformer (Jaderberg et al., NeurIPS 2015), in 3D.

    Parameters
    ----------
    features : int
        Channels of the first layer; each of three halvings of the resolution doubles them.
    shape : tuple of int, length 3
        Voxels of the box around a brain that is the input; multiples of 8.
    spacing : float
        Voxel size of the box, in mm.
    volume : float
        Volume to which brains are scaled before they are resampled to the box, in mm^3.

    Raises
    ------
    ValueError
        If a side of the box is not a multiple of 8.
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
        self.last = nn.Linear(16 * features, N_PARAMETERS)
        for layer in self.layers:
            if isinstance(layer, (nn.Conv3d, nn.Linear)):
                nn.init.kaiming_normal_(layer.weight, a=0.25)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """Estimate the affine that remains between two brains.

        Parameters
        ----------
        moving, fixed : Tensor, shape (batch, 1, *shape)
            Brains in the box; the moving one is resampled with the affine found so far.

        Returns
        -------
        Tensor, shape (batch, 4, 4)
            Affines in mm about the centre of the box, from points of the fixed brain to points of
            the moving one; their determinants are positive for any weights.
        """
        return affine_from_parameters(self.last(self.layers(torch.cat([moving, fixed], dim=1))))


def affine_from_parameters(parameters: Tensor) -> Tensor:
    """Convert network outputs to affines; zeros give the identity.

    The linear part is R U, where U is upper triangular with a positive diagonal exp(.), so that it
    never mirrors. The rotation R comes from two vectors by the Gram-Schmidt process, which is
    continuous over all rotations (Zhou et al., CVPR 2019).

    Parameters
    ----------
    parameters : Tensor, shape (batch, 15)
        Two vectors of the rotation (6), logarithms of the diagonal of U (3), its other elements
        (3), and the translation in units of `TRANSLATION_UNIT_MM` (3).

    Returns
    -------
    Tensor, shape (batch, 4, 4)
        Affines in mm.
    """
    eye = torch.eye(3, dtype=parameters.dtype, device=parameters.device)
    first = F.normalize(parameters[:, 0:3] + eye[0], dim=1)
    second = parameters[:, 3:6] + eye[1]
    second = F.normalize(second - (first * second).sum(1, keepdim=True) * first, dim=1)
    rotation = torch.stack([first, second, torch.linalg.cross(first, second)], dim=2)
    triangle = torch.diag_embed(parameters[:, 6:9].exp())
    rows, columns = torch.triu_indices(3, 3, offset=1)
    triangle[:, rows, columns] = parameters[:, 9:12]
    affine = torch.eye(4, dtype=parameters.dtype, device=parameters.device)
    affine = affine.repeat(len(parameters), 1, 1)
    affine[:, :3, :3] = rotation @ triangle
    affine[:, :3, 3] = TRANSLATION_UNIT_MM * parameters[:, 12:15]
    return affine


def box_to_mm(shape: tuple[int, ...], spacing: float) -> Tensor:
    """Return the affine from voxels of the box to mm about its centre, shape (4, 4)."""
    affine = torch.diag(torch.tensor([spacing, spacing, spacing, 1.0]))
    affine[:3, 3] = -spacing * (torch.tensor(shape, dtype=torch.float32) - 1) / 2
    return affine


def resample_to_box(image: Tensor, to_voxels: Tensor, network: LocalisationNet) -> Tensor:
    """Resample a brain to the input box of a network, by trilinear interpolation.

    Parameters
    ----------
    image : Tensor, shape (X, Y, Z)
        Brain; it counts as zero outside of its grid.
    to_voxels : Tensor, shape (4, 4)
        Millimetres about the centre of the box to voxels of the image.
    network : LocalisationNet
        Network that defines the box.

    Returns
    -------
    Tensor, shape of the box
        Resampled brain.
    """
    affine = to_voxels @ box_to_mm(network.shape, network.spacing).to(to_voxels)
    voxels = identity(network.shape, dtype=image.dtype, device=image.device)
    moved = torch.einsum('ij,jxyz->ixyz', affine[:3, :3], voxels) + affine[:3, 3, None, None, None]
    return interpolate(image[None], moved - voxels)[0]


def estimate_affines(
    network: LocalisationNet, moving: Tensor, to_voxels: Tensor, fixed: Tensor, *, steps: int
) -> list[Tensor]:
    """Align two brains by the recurrence of an inverse compositional STN.

    Each step resamples the original moving brain with the affine so far and composes the output of
    the network with that affine (Lin and Lucey, CVPR 2017).

    Parameters
    ----------
    network : LocalisationNet
        Network that is applied in each step.
    moving : Tensor, shape (X, Y, Z)
        Moving brain on its own grid.
    to_voxels : Tensor, shape (4, 4)
        Millimetres about the centre of the moving brain to its voxels.
    fixed : Tensor, shape of the box
        Fixed brain in the box.
    steps : int
        Number of steps.

    Returns
    -------
    list of Tensor, shape (4, 4)
        Affine after each step: millimetres about the centre of the fixed brain to millimetres
        about the centre of the moving one.
    """
    affine = torch.eye(4, dtype=moving.dtype, device=moving.device)
    affines = []
    for _ in range(steps):
        moved = resample_to_box(moving, to_voxels @ affine, network)
        affine = affine @ network(moved[None, None], fixed[None, None])[0]
        affines.append(affine)
    return affines


def save_localisation_net(
    network: LocalisationNet, path: str | Path, card: Mapping[str, Any]
) -> None:
    """Write a network as one ``.safetensors`` file, atomically.

    Parameters
    ----------
    network : LocalisationNet
        Network to write.
    path : path-like
        File to write.
    card : mapping
        Model card: training data, accuracy and licence, as plain values.
    """
    spec = {
        'features': network.features,
        'shape': list(network.shape),
        'spacing': network.spacing,
        'volume': network.volume,
    }
    write_network(path, network, FORMAT, spec, card)


def load_localisation_net(path: str | Path) -> LocalisationNet:
    """Read a network that `save_localisation_net` wrote, and verify its checksum.

    Parameters
    ----------
    path : path-like
        File to read.

    Returns
    -------
    LocalisationNet
        Network in evaluation mode.

    Raises
    ------
    WeightsError
        If the file is missing, damaged or of another kind of network.
    """
    stored = read_network(path, FORMAT)
    with check_consistency(path):
        network = assign_tensors(partial(LocalisationNet, **stored.spec), stored.tensors)
    return network.eval()

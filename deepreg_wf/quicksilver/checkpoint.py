"""Trained Quicksilver networks and their weights files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from deepreg_wf.checkpoints.safetensors_file import (
    assign_tensors,
    check_consistency,
    read_network,
    write_network,
)
from deepreg_wf.lddmm import DEFAULT_METRIC
from deepreg_wf.lddmm.energy import NETWORK_TERMS
from deepreg_wf.lddmm.metric import MetricParameters
from deepreg_wf.quicksilver.architecture import QuicksilverNet

FORMAT = 'deepreg_wf 1'
"""Name and version of the layout of the weights file."""


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """Architecture of a network, and the meaning of its input and output.

    Attributes
    ----------
    role : {'prediction', 'correction'}
        Purpose of the network; the probabilistic network is one of prediction.
    features, patch_size, channels, gradient_channels, dropout
        Architecture; see `QuicksilverNet`.
    stride : int
        Largest distance between patches, in coarse voxels; 0 for a single patch that holds both
        brains.
    spacing : float
        Spacing of the coarse grid, in mm.
    energy_spacing : float
        Voxel size in mm to which the images are averaged for the energy; see
        `deepreg_wf.quicksilver.inputs.RegistrationState`.
    energy_terms : dict
        Terms of that energy; see `EnergyTerms.from_dict`.
    n_iterations : int
        Number of successive updates of the momentum.
    metric : dict
        Metric of the momenta.
    whitened : bool
        Whether the output is the whitened momentum ``K^(1/2) m`` instead of m; see `CoarseGrid`.
    output_scale : float
        Momentum that an output of one stands for.
    uncertainty_scale : float
        Factor that brings the spread of the maps that a probabilistic network draws to the error
        of the registration; see `deepreg_wf.training.calibration`.
    intensities : {'robust-maximum', 'equalised'}
        Normalisation of the images; see `prepare_image`.

    Raises
    ------
    ValueError
        If the role or the normalisation is unknown.
    """

    role: str = 'prediction'
    features: int = 64
    patch_size: int = 15
    channels: int = 1
    gradient_channels: bool = False
    dropout: float = 0.0
    stride: int = 14
    spacing: float = 1.0
    energy_spacing: float = 2.0
    energy_terms: dict[str, Any] = field(default_factory=NETWORK_TERMS.to_dict)
    n_iterations: int = 1
    metric: MetricParameters = field(default_factory=lambda: DEFAULT_METRIC)
    whitened: bool = True
    output_scale: float = 1.0
    uncertainty_scale: float = 1.0
    intensities: str = 'robust-maximum'

    def __post_init__(self) -> None:
        if self.role not in ('prediction', 'correction'):
            raise ValueError(f'unknown role {self.role!r}')
        if self.intensities not in ('robust-maximum', 'equalised'):
            raise ValueError(f'unknown intensities {self.intensities!r}')

    def new_network(self) -> QuicksilverNet:
        """Make an untrained network of this architecture.

        Returns
        -------
        QuicksilverNet
        """
        return QuicksilverNet(
            self.features,
            patch_size=self.patch_size,
            channels=self.channels,
            gradient_channels=self.gradient_channels,
            dropout=self.dropout,
        )


@dataclass(frozen=True)
class Checkpoint:
    """A trained network.

    Attributes
    ----------
    network : QuicksilverNet
        Network in evaluation mode.
    spec : NetworkSpec
        Architecture, and meaning of input and output.
    card : mapping of str to object
        Training data, measured accuracy and licence, in values that JSON can represent.
    """

    network: QuicksilverNet
    spec: NetworkSpec
    card: Mapping[str, Any] = field(default_factory=dict)

    def to(self, device: torch.device | str) -> Checkpoint:
        """Move the network to a device in place.

        Parameters
        ----------
        device : torch.device or str
            Target device.

        Returns
        -------
        Checkpoint
            This object.
        """
        self.network.to(device)
        return self


def save_checkpoint(checkpoint: Checkpoint, path: str | Path) -> None:
    """Write a checkpoint atomically as one ``.safetensors`` file.

    Parameters
    ----------
    checkpoint : Checkpoint
        Network to write.
    path : path-like
        File to write.
    """
    write_network(path, checkpoint.network, FORMAT, asdict(checkpoint.spec), checkpoint.card)


def load_checkpoint(path: str | Path, *, device: torch.device | str = 'cpu') -> Checkpoint:
    """Read a checkpoint that `save_checkpoint` wrote, and verify its checksum.

    Parameters
    ----------
    path : path-like
        ``.safetensors`` file.
    device : torch.device or str, optional
        Device of the network.

    Returns
    -------
    Checkpoint

    Raises
    ------
    WeightsError
        If the file is missing, of another kind, or damaged.
    """
    stored = read_network(path, FORMAT)
    with check_consistency(path):
        spec = NetworkSpec(**stored.spec)
        network = assign_tensors(spec.new_network, stored.tensors)
    return Checkpoint(network.eval().to(device), spec, stored.card)


def load_network(path: str | Path, *, device: torch.device | str = 'cpu') -> QuicksilverNet:
    """Read the network of a checkpoint without its description.

    Parameters
    ----------
    path : path-like
        ``.safetensors`` file.
    device : torch.device or str, optional
        Device of the network.

    Returns
    -------
    QuicksilverNet
        Module from (batch, 2, P, P, P) to (batch, 3, P, P, P).

    Raises
    ------
    WeightsError
        If the file is missing, of another kind, or damaged.
    """
    return load_checkpoint(path, device=device).network

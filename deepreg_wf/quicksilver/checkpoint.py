"""Trained networks of Quicksilver, and what they are for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from deepreg_wf.checkpoints.files import fitting, read_network, write_network
from deepreg_wf.lddmm import DEFAULT_METRIC
from deepreg_wf.lddmm.metric import Parameters
from deepreg_wf.quicksilver.architecture import QuicksilverNet

FORMAT = 'deepreg_wf 1'
"""Version of the layout of the metadata."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What a network is, and what its input and output mean.

    Attributes
    ----------
    role : {'prediction', 'correction'}
    features, patch, channels, hints, dropout
        Those of `QuicksilverNet`.
    stride : int
        Blocks from one patch to the next, at most; 0 for one patch as large as the brains.
    spacing : float
        Size in mm of the blocks of voxels that the network sees.
    detail : float
        Voxel size in mm at which it is shown the gradient of the energy; see `Scene`.
    repeats : int
        How often it is applied, each time to what the last time led to.
    metric : dict
        Metric of its momenta.
    whitened : bool
        Whether the output is ``K^(1/2) m`` and not the momentum itself; see `Blocks`.
    scale : float
        What an output of one stands for.
    inflation : float
        What the spread of maps that a network with dropout draws is multiplied by, to be as large
        as the error of a registration.
    intensities : {'robust-maximum', 'equalised'}
        How images are brought to [0, 1]; see `prepare_image`.
    """

    role: str = 'prediction'
    features: int = 64
    patch: int = 15
    channels: int = 1
    hints: bool = False
    dropout: float = 0.0
    stride: int = 14
    spacing: float = 1.0
    detail: float = 2.0
    repeats: int = 1
    metric: Parameters = field(default_factory=lambda: DEFAULT_METRIC)
    whitened: bool = True
    scale: float = 1.0
    inflation: float = 1.0
    intensities: str = 'robust-maximum'

    def __post_init__(self) -> None:
        if self.role not in ('prediction', 'correction'):
            raise ValueError(f'unknown role {self.role!r}')
        if self.intensities not in ('robust-maximum', 'equalised'):
            raise ValueError(f'unknown intensities {self.intensities!r}')

    def new_network(self) -> QuicksilverNet:
        """Make a network of this kind, not trained."""
        return QuicksilverNet(
            self.features,
            patch=self.patch,
            channels=self.channels,
            hints=self.hints,
            dropout=self.dropout,
        )


@dataclass(frozen=True)
class Checkpoint:
    """A trained network.

    Attributes
    ----------
    network : QuicksilverNet
        In evaluation mode.
    spec : Spec
    card : dict
        What it was trained on, how good it is, its licence: plain values.
    """

    network: QuicksilverNet
    spec: Spec
    card: Mapping[str, Any] = field(default_factory=dict)

    def to(self, device: torch.device | str) -> Checkpoint:
        """Move the network to a device; this object is returned."""
        self.network.to(device)
        return self


def save_checkpoint(checkpoint: Checkpoint, path: str | Path) -> None:
    """Write a checkpoint as one ``.safetensors`` file; it appears whole or not at all.

    Parameters
    ----------
    checkpoint : Checkpoint
    path : path-like
    """
    write_network(path, checkpoint.network, FORMAT, asdict(checkpoint.spec), checkpoint.card)


def load_checkpoint(path: str | Path, *, device: torch.device | str = 'cpu') -> Checkpoint:
    """Read a checkpoint that `save_checkpoint` wrote, and verify its checksum.

    Parameters
    ----------
    path : path-like
    device : device, optional

    Returns
    -------
    Checkpoint

    Raises
    ------
    WeightsError
        If the file is missing, of another kind, or not what was written.
    """
    stored = read_network(path, FORMAT)
    with fitting(path):
        spec = Spec(**stored.spec)
        network = spec.new_network()
        network.load_state_dict(stored.tensors)
    return Checkpoint(network.eval().to(device), spec, stored.card)


def load_network(path: str | Path, *, device: torch.device | str = 'cpu') -> QuicksilverNet:
    """Read the network alone: (batch, 2, P, P, P) to (batch, 3, P, P, P).

    Parameters, and what is raised, are those of `load_checkpoint`.
    """
    return load_checkpoint(path, device=device).network

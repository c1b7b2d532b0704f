"""The network as a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepreg_wf.affine.localisation_net import Localiser
from deepreg_wf.checkpoints.files import fitting, read_network, write_network

FORMAT = 'deepreg_wf affine 1'
"""Version of the layout of the metadata."""


def save(network: Localiser, path: str | Path, card: Mapping[str, Any]) -> None:
    """Write a network as one ``.safetensors`` file; it appears whole or not at all.

    Parameters
    ----------
    network : Localiser
    path : path-like
    card : mapping
        What it was trained on, how good it is, its licence: plain values.
    """
    spec = {
        'features': network.features,
        'shape': list(network.shape),
        'spacing': network.spacing,
        'volume': network.volume,
    }
    write_network(path, network, FORMAT, spec, card)


def load(path: str | Path) -> Localiser:
    """Read a network that `save` wrote, and verify its checksum.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    Localiser
        In evaluation mode.

    Raises
    ------
    WeightsError
        If the file is missing, of another kind, or not what was written.
    """
    stored = read_network(path, FORMAT)
    with fitting(path):
        network = Localiser(**stored.spec)
        network.load_state_dict(stored.tensors)
    return network.eval()

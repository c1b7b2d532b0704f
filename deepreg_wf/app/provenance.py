"""What results were made with: software and hardware."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    'antspyx',
    'deepbet',
    'deepreg_wf',
    'h5py',
    'nibabel',
    'nipype',
    'nireports',
    'nitransforms',
    'niworkflows',
    'numpy',
    'pybids',
    'scipy',
    'torch',
)
"""What a result can depend on, by the names of the package index."""


def software() -> dict[str, str]:
    """Versions of Python and of the packages that are installed.

    Returns
    -------
    dict of str to str
        By name.
    """
    found = {name: _version(name) for name in PACKAGES}
    return {
        'python': platform.python_version(),
        **{name: number for name, number in found.items() if number},
    }


def hardware(device: str) -> dict[str, str | int]:
    """The machine that a run begins on.

    Parameters
    ----------
    device : str
        ``'cpu'``, ``'cuda'`` or ``'cuda:N'``, which is there.

    Returns
    -------
    dict of str to str or int
        System, kind of processor, how many there are and, if `device` is one, the GPU.
    """
    found: dict[str, str | int] = {
        'system': platform.platform(),
        'cpu': _cpu(),
        'cpus': os.cpu_count() or 1,
    }
    if device != 'cpu':
        import torch

        found['gpu'] = torch.cuda.get_device_name(device)
    return found


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    """Model of the processor, or where the system does not tell its kind."""
    try:
        lines = Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
    except OSError:
        lines = []
    models = (line.partition(':')[2].strip() for line in lines if line.startswith('model name'))
    return next(models, platform.processor() or platform.machine())

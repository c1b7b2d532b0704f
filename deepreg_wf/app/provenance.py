"""Software and hardware that results are made with."""

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
"""Packages that results can depend on, by their names on the package index."""


def software() -> dict[str, str]:
    """Return the versions of Python and of the installed packages.

    Returns
    -------
    dict of str to str
        Version by name.
    """
    found = {name: _version(name) for name in PACKAGES}
    return {
        'python': platform.python_version(),
        **{name: number for name, number in found.items() if number},
    }


def hardware(device: str) -> dict[str, str | int]:
    """Describe the machine that a run starts on.

    Parameters
    ----------
    device : str
        ``'cpu'``, ``'cuda'`` or ``'cuda:N'``; the device exists.

    Returns
    -------
    dict of str to str or int
        Operating system, model and number of processors and, if `device` is a GPU, its name.
    """
    found: dict[str, str | int] = {
        'system': platform.platform(),
        'cpu': _processor_model(),
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


def _processor_model() -> str:
    """Return the model of the processor, or its kind where the system does not give the model."""
    try:
        lines = Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
    except OSError:
        lines = []
    models = (line.partition(':')[2].strip() for line in lines if line.startswith('model name'))
    return next(models, platform.processor() or platform.machine())

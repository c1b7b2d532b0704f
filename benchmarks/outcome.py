"""Results of registration methods and their cost."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass
from types import TracebackType

import torch
from torch import Tensor


@dataclass(frozen=True)
class Outcome:
    """Result of a registration and what it cost.

    Attributes
    ----------
    displacement : Tensor, shape (3, X, Y, Z)
        u, in voxels along the axes of the grid: the warped moving image is
        ``x -> moving(x + u(x))``.
    cost : Cost
    version : str
        Name and version of the software.
    inverse : Tensor, shape (3, X, Y, Z), optional
        Displacement of the inverse map, where the method gives one.
    warped : Tensor, shape (X, Y, Z), optional
        The moving image as the method itself warped it: proof that `displacement` is understood.
    energy_drift : float, optional
        Relative, where the method follows a geodesic.
    """

    displacement: Tensor
    cost: Cost
    version: str
    inverse: Tensor | None = None
    warped: Tensor | None = None
    energy_drift: float | None = None


@dataclass(frozen=True)
class Cost:
    """Cost of a registration.

    Attributes
    ----------
    seconds : float
        Wall time.
    cpu_seconds : float
        Time of all threads of the process.
    peak_mb : float
        Largest resident memory (MiB) of the process up to the end of the registration.
    device_mb : float, optional
        Largest memory (MiB) that PyTorch held on the GPU.
    """

    seconds: float
    cpu_seconds: float
    peak_mb: float
    device_mb: float | None = None


class Stopwatch:
    """Measure the block of a `with` statement; `cost` holds the result."""

    def __init__(self, device: torch.device | str = 'cpu') -> None:
        self._device = torch.device(device)
        self.cost = Cost(0.0, 0.0, 0.0)

    def __enter__(self) -> Stopwatch:
        self._synchronise()
        self._start = time.perf_counter(), time.process_time()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._synchronise()
        wall, cpu = time.perf_counter() - self._start[0], time.process_time() - self._start[1]
        on_gpu = self._device.type == 'cuda'
        device_mb = torch.cuda.max_memory_allocated(self._device) / 2**20 if on_gpu else None
        self.cost = Cost(wall, cpu, peak_mb(), device_mb)

    def _synchronise(self) -> None:
        if self._device.type == 'cuda':
            torch.cuda.synchronize(self._device)


def peak_mb() -> float:
    """Return the largest resident memory of this process so far, in MiB."""
    unit = 1 if sys.platform == 'darwin' else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20

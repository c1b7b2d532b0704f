"""Resources and quality of the computations of a workflow."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Resources and quality of the computations of a workflow.

    The command line builds it from the `Execution` settings and the machine. Only `random_seed`
    and `sloppy` change the results.

    Parameters
    ----------
    device : str
        ``'cpu'``, ``'cuda'`` or ``'cuda:N'``.
    omp_nthreads : int
        Threads of each node that can use several.
    batch_size : int
        Maximum number of patches that go through a network at once.
    random_seed : int
        Seed of the momenta that are drawn for the uncertainty.
    sloppy : bool
        Compute fast and at low quality, for tests.

    Examples
    --------
    >>> Compute(device='cuda:0', omp_nthreads=4).n_procs
    1
    """

    device: str = 'cpu'
    omp_nthreads: int = 1
    batch_size: int = 32
    random_seed: int = 0
    sloppy: bool = False

    @property
    def use_gpu(self) -> bool:
        """Use of a GPU for networks and geodesics."""
        return self.device != 'cpu'

    @property
    def n_procs(self) -> int:
        """Processors that a node occupies: one if it computes on a GPU."""
        return 1 if self.use_gpu else self.omp_nthreads

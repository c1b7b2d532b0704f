"""Chains of geodesics: each link deforms what the links before it have deformed.

A registration is ``phi = phi_K o ... o phi_1``. Each link phi_k is the end of a geodesic, with a
momentum and a metric of its own, that matches ``I0 o (phi_{k-1} o ... o phi_1)^-1`` with I1. A
single geodesic pays for the whole deformation by its energy, wherever it is large; a link pays for
what it adds. A composition of diffeomorphisms is one. Sums of kernels (Risser et al., IEEE TMI
2011) give one geodesic several scales, too, but not this.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deepreg_wf.lddmm import fields
from deepreg_wf.lddmm.energy import EnergyTerms, ImagePair
from deepreg_wf.lddmm.images import content_box
from deepreg_wf.lddmm.lbfgs import MatchingSchedule, Progress
from deepreg_wf.lddmm.matching import Match, match_pair
from deepreg_wf.lddmm.metric import DEFAULT_METRIC, Metric, MetricParameters
from deepreg_wf.lddmm.shooting import MIN_TIME_STEPS, SHRINK, Geodesic, folds, shoot, shoot_inverse
from deepreg_wf.lddmm.similarity import LNCC

BOX_MARGIN_MM = 8.0
"""Margin around the brains within which they are matched and warped."""

LATER_TIME_STEPS = 2
"""Fewest time steps of a later link, whose deformation is small."""

DEFAULT_TERMS = EnergyTerms(
    similarity=LNCC(width=2.0, weight=0.4, min_voxels=1.0),
    soft_volume_change=5.0,
    max_volume_change=15.0,
    min_time_steps=LATER_TIME_STEPS,
)
"""Terms of the energy for T1-weighted brains."""

FIRST_ITERATIONS: tuple[int, ...] = (25, 15)
"""Most iterations of the first link at 4 mm and 2 mm."""

LATER_ITERATIONS: tuple[int, ...] = (15, 10, 4)
"""Most iterations of the second link at 2 mm, 1 mm and 0.5 mm, as far as the images go."""

FIRST_LATTICE_MM = 6.0
"""Least lattice spacing of the first link."""


@dataclass(frozen=True, kw_only=True)
class Link:
    """Energy, metric and schedule by which one geodesic of a chain is found.

    Attributes
    ----------
    terms : EnergyTerms
        Similarity of the images, and bounds of the volume change of the whole map.
    schedule : MatchingSchedule
        Resolution levels and iterations.
    metric : dict
        Parameters of the metric.
    lattice_spacing : float
        Least spacing of the lattice of the momentum, in mm. What a coarse link leaves out is left
        to the next one.
    """

    terms: EnergyTerms
    schedule: MatchingSchedule
    metric: MetricParameters
    lattice_spacing: float = 0.0


def default_links(spacing: Sequence[float], iterations: int | None = None) -> tuple[Link, ...]:
    """Return the links of a registration of T1-weighted brains.

    Parameters
    ----------
    spacing : sequence of 3 float
        Voxel size of the images in mm.
    iterations : int, optional
        Most iterations at each resolution of each link; by default until convergence.

    Returns
    -------
    tuple of Link
        The links, in their order.
    """
    n_levels = len(MatchingSchedule(1).levels(spacing))
    coarse, fine = FIRST_ITERATIONS, LATER_ITERATIONS[: n_levels - 1]
    if iterations is not None:
        coarse, fine = (iterations,) * len(coarse), (iterations,) * len(fine)
    # The first link stops at the second of the levels, where the second link begins.
    coarse += (0,) * (n_levels - len(coarse))
    return (
        Link(
            terms=DEFAULT_TERMS,
            schedule=MatchingSchedule(coarse),
            metric=DEFAULT_METRIC,
            lattice_spacing=FIRST_LATTICE_MM,
        ),
        Link(terms=DEFAULT_TERMS, schedule=MatchingSchedule(fine), metric=DEFAULT_METRIC),
    )


@dataclass(frozen=True)
class Chain:
    """The maps of a chain of geodesics.

    Attributes
    ----------
    momenta : tuple of Tensor, shape (3, X, Y, Z)
        Initial momentum of each link, per mm^3.
    phi : Tensor, shape (3, X, Y, Z)
        Displacement of ``phi_K o ... o phi_1``, in voxels.
    phi_inverse : Tensor, shape (3, X, Y, Z)
        Displacement of its inverse, in voxels.
    geodesics : tuple of Geodesic
        The links.
    """

    momenta: tuple[Tensor, ...]
    phi: Tensor
    phi_inverse: Tensor
    geodesics: tuple[Geodesic, ...]

    @property
    def energy_drift(self) -> float:
        """Largest energy drift of a link."""
        return max(geodesic.energy_drift for geodesic in self.geodesics)


def match_chain(
    moving: Tensor,
    fixed: Tensor,
    grid: Metric,
    links: Sequence[Link],
    *,
    fixed_mask: Tensor | None = None,
    moving_mask: Tensor | None = None,
    initial_momentum: Tensor | None = None,
    progress: Progress | None = None,
) -> tuple[Match, ...]:
    """Find the momenta of a chain, link by link.

    Parameters
    ----------
    moving, fixed : Tensor, shape (X, Y, Z)
        I0 and I1, intensities in [0, 1].
    grid : Metric
        Any metric on the voxels of the images; each link has its own parameters.
    links : sequence of Link
        The links, in their order.
    fixed_mask, moving_mask : Tensor, shape (X, Y, Z), optional
        Weight of each voxel of `fixed` and of `moving`, zero where it is not to be matched.
    initial_momentum : Tensor, shape (3, X, Y, Z), optional
        Momentum from which the first link starts, with its metric; zero by default.
    progress : callable, optional
        Called after each iteration; see `Progress`.

    Returns
    -------
    tuple of Match
        One for each link.
    """
    margin = math.ceil(BOX_MARGIN_MM / min(grid.spacing))
    box = (..., *content_box(torch.maximum(moving, fixed), margin))
    pair = ImagePair(moving, fixed, moving_mask, fixed_mask).map(lambda image: image[box])
    start = None if initial_momentum is None else initial_momentum[box]
    current, inverse, found = pair, None, []
    for number, link in enumerate(links):
        metric = grid.with_grid(pair.moving.shape, grid.spacing, link.metric)
        result = match_pair(
            current,
            metric,
            link.terms,
            link.schedule,
            start,
            progress,
            lattice_spacing=link.lattice_spacing,
        )
        momentum = moving.new_zeros(3, *moving.shape)
        momentum[box] = result.momentum
        found.append(Match(momentum, result.energies, result.spacings))
        if number + 1 < len(links):
            step = shoot_inverse(result.momentum, metric)
            inverse = step if inverse is None else fields.compose(inverse, step)
            millimetres = inverse * inverse.new_tensor(grid.spacing).view(3, 1, 1, 1)
            current, start = dataclasses.replace(pair, earlier=millimetres), None
    return tuple(found)


def shoot_chain(momenta: Sequence[Tensor], metrics: Sequence[Metric]) -> Chain:
    """Shoot the links of a chain and compose their maps, so that neither direction folds.

    The maps of a geodesic do not fold, but their samples can: between two voxels the true map may
    bend more than a linear interpolation of the displacements. Where the maps up to a link would
    fold, the momentum of that link is shortened.

    Parameters
    ----------
    momenta : sequence of Tensor, shape (3, X, Y, Z)
        Initial momentum of each link, per mm^3.
    metrics : sequence of Metric
        Metric of each link, on the voxels of the momenta.

    Returns
    -------
    Chain
        The maps, and the momenta that were shot: those that were given, where nothing folds.

    Raises
    ------
    ValueError
        If a momentum has values that are not finite, or shooting it diverges.
    """
    shot: list[Tensor] = []
    geodesics: list[Geodesic] = []
    phi = inverse = None
    for momentum, metric in zip(momenta, metrics, strict=True):
        min_steps = LATER_TIME_STEPS if shot else MIN_TIME_STEPS
        while True:
            geodesic = shoot(momentum, metric, min_steps=min_steps)
            after = geodesic.phi if phi is None else fields.compose(geodesic.phi, phi)
            before = (
                geodesic.phi_inverse
                if inverse is None
                else fields.compose(inverse, geodesic.phi_inverse)
            )
            if not folds(after) and not folds(before):
                break
            momentum = SHRINK * momentum
        phi, inverse = after, before
        shot.append(momentum)
        geodesics.append(geodesic)
    if phi is None or inverse is None:
        raise ValueError('a chain has at least one link')
    return Chain(tuple(shot), phi, inverse, tuple(geodesics))

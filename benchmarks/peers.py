"""Peer methods with one signature: antspyx SyN and picsl-greedy.

Each takes two images on one grid and returns the map between them as a displacement in voxels.
The images go in without their place in the world: with the origin at the first voxel and axes
along the grid, a displacement in mm is one in voxels times the spacing, and no sign changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from outcome import Outcome, Stopwatch
from torch import Tensor

SEED = 42
"""SyN draws samples and greedy adds noise; with one thread, a seed makes them repeatable."""

GREEDY = f'-m NCC 4x4x4 -n 100x50x10 -seed {SEED}'


def register_syn(moving: Tensor, fixed: Tensor, spacing: float) -> Outcome:
    """Run antspyx `SyN` with its defaults, its affine stage included, from the identity."""
    return _register_ants(moving, fixed, spacing, 'SyN')


def register_synonly(moving: Tensor, fixed: Tensor, spacing: float) -> Outcome:
    """Run antspyx `SyNOnly` with its defaults, from the identity."""
    return _register_ants(moving, fixed, spacing, 'SyNOnly')


def register_greedy(moving: Tensor, fixed: Tensor, spacing: float) -> Outcome:
    """Run greedy with local correlation over 9x9x9 voxels."""
    return _register_greedy(moving, fixed, spacing, GREEDY)


def register_greedy_svf(moving: Tensor, fixed: Tensor, spacing: float) -> Outcome:
    """Run greedy with stationary velocity fields and the same local correlation."""
    return _register_greedy(moving, fixed, spacing, f'{GREEDY} -sv')


def _register_ants(moving: Tensor, fixed: Tensor, spacing: float, kind: str) -> Outcome:
    import ants

    # Deterministic mode refuses SyN; the seed alone is heeded.
    ants.config.set_ants_deterministic(False, SEED)
    target, source = (
        ants.from_numpy(image.numpy(), spacing=[spacing] * 3) for image in (fixed, moving)
    )
    with TemporaryDirectory() as folder:
        with Stopwatch() as watch:
            found = ants.registration(
                target,
                source,
                type_of_transform=kind,
                initial_transform='Identity',
                outprefix=f'{folder}/',
            )
        displacement = _compose_ants(target, found['fwdtransforms'], Path(folder, 'forward'))
        inverse = _compose_ants(target, found['invtransforms'], Path(folder, 'inverse'))
    return Outcome(
        displacement=displacement / spacing,
        inverse=inverse / spacing,
        warped=torch.from_numpy(found['warpedmovout'].numpy()),
        cost=watch.cost,
        version=f'antspyx {version("antspyx")}',
    )


def _compose_ants(grid: Any, transforms: Sequence[str], prefix: Path) -> Tensor:
    """Compose warps and affines to a displacement in mm, (3, X, Y, Z).

    An affine comes first only in the chain of the inverse map, where it is to be inverted.
    """
    import ants

    inverted = [i == 0 and name.endswith('.mat') for i, name in enumerate(transforms)]
    if len(transforms) == 1:
        inverted = [False]
    field = ants.apply_transforms(
        grid, grid, list(transforms), whichtoinvert=inverted, compose=str(prefix)
    )
    return torch.from_numpy(ants.image_read(field).numpy()).movedim(-1, 0).contiguous()


def _register_greedy(moving: Tensor, fixed: Tensor, spacing: float, options: str) -> Outcome:
    from picsl_greedy import Greedy3D

    greedy = Greedy3D()
    images = {'fixed': _to_sitk(fixed, spacing), 'moving': _to_sitk(moving, spacing)}
    threads = torch.get_num_threads()
    with Stopwatch() as watch:
        # Without `-wp 0` greedy rounds its warps to a tenth of a voxel.
        greedy.execute(
            f'-i fixed moving {options} -threads {threads} -V 0 -wp 0 -o warp -oinv inverse',
            warp=None,
            inverse=None,
            **images,
        )
    greedy.execute('-V 0 -rf fixed -rm moving warped -r warp', warped=None)
    return Outcome(
        displacement=_from_sitk(greedy['warp']).movedim(-1, 0).contiguous() / spacing,
        inverse=_from_sitk(greedy['inverse']).movedim(-1, 0).contiguous() / spacing,
        warped=_from_sitk(greedy['warped']),
        cost=watch.cost,
        version=f'picsl_greedy {version("picsl_greedy")}',
    )


def _to_sitk(image: Tensor, spacing: float) -> Any:
    """Convert an array to an image of SimpleITK, whose arrays have the fastest axis last."""
    import SimpleITK as sitk  # noqa: N813

    result = sitk.GetImageFromArray(image.permute(2, 1, 0).numpy())
    result.SetSpacing([spacing] * 3)
    return result


def _from_sitk(image: Any) -> Tensor:
    """Return the values of an image, (X, Y, Z) or (X, Y, Z, components)."""
    import SimpleITK as sitk  # noqa: N813

    return torch.from_numpy(sitk.GetArrayFromImage(image)).transpose(0, 2).float()

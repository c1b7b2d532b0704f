"""Cohorts: the brains on which networks are trained, aligned with a template, in one file."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from deepreg_wf.errors import InputError
from deepreg_wf.lddmm import DEFAULT_METRIC, Metric
from deepreg_wf.utils.atomic import atomic_write

FORMAT = 'deepreg_wf cohort 1'
"""Name and version of the layout of the file."""

MAX_LEVEL = 255
"""Stored value of intensity 1; 8-bit images keep the file of a cohort small."""

TEMPLATE = 'template'
"""Name of the template among the images."""


class CohortError(InputError):
    """A file is not a cohort, or a cohort does not suffice for training."""


@dataclass(frozen=True)
class Cohort:
    """Brains on one grid, aligned with a template by affines.

    Attributes
    ----------
    images : mapping of str to Tensor, shape (X, Y, Z), uint8
        Extracted brains by name, normalised by `deepreg_wf.lddmm.normalise` and quantised. One of
        them is `TEMPLATE`.
    spacing : tuple of float, length 3
        Voxel size in mm.
    validation : tuple of str
        Names of the brains for validation, which are never trained on.
    source : str
        Dataset and template, for the model card.

    Raises
    ------
    CohortError
        If there is no template, no brain for training or validation, or the brains are not on one
        grid.
    """

    images: Mapping[str, Tensor]
    spacing: tuple[float, float, float]
    validation: tuple[str, ...]
    source: str = ''

    def __post_init__(self) -> None:
        if TEMPLATE not in self.images:
            raise CohortError('the cohort has no template', advice='make it again')
        shapes = {(tuple(image.shape), image.dtype) for image in self.images.values()}
        [(shape, dtype), *others] = shapes
        is_grid = len(shape) == 3 and all(math.isfinite(s) and s > 0 for s in self.spacing)
        if others or dtype is not torch.uint8 or not is_grid:
            raise CohortError('its brains are not on one grid', advice='make it again')
        if not self.training or not self.validation:
            raise CohortError(
                'the cohort is too small',
                advice='give at least one brain to train on and one to validate with',
            )

    @property
    def training(self) -> tuple[str, ...]:
        """Names of the brains to train on."""
        return tuple(n for n in sorted(self.images) if n not in (TEMPLATE, *self.validation))

    def metric_on(self, device: torch.device | str) -> Metric:
        """Return the default metric on the grid of the images.

        Parameters
        ----------
        device : torch.device or str
            Device of the tensors that the metric is applied to.

        Returns
        -------
        Metric
        """
        return Metric(self.images[TEMPLATE].shape, self.spacing, **DEFAULT_METRIC, device=device)

    def image(self, name: str) -> Tensor:
        """Return a brain with intensities in [0, 1].

        Parameters
        ----------
        name : str
            One of the names of `images`.

        Returns
        -------
        Tensor, shape (X, Y, Z), float32
        """
        return self.images[name].float() / MAX_LEVEL

    @property
    def digest(self) -> str:
        """Checksum of the images, which the names of stored results contain."""
        digest = hashlib.sha256()
        for name in sorted(self.images):
            digest.update(name.encode())
            digest.update(self.images[name].contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


def quantise(image: Tensor) -> Tensor:
    """Convert an image to the 8-bit levels of a cohort.

    Parameters
    ----------
    image : Tensor, shape (X, Y, Z)
        Intensities in [0, 1].

    Returns
    -------
    Tensor, shape (X, Y, Z), uint8
    """
    return (image * MAX_LEVEL).round().to(torch.uint8)


def choose_validation(names: Sequence[str], every: int = 6) -> tuple[str, ...]:
    """Choose the brains for validation at regular intervals in the order of their names.

    Parameters
    ----------
    names : sequence of str
        Names of all brains.
    every : int
        Interval; one in so many brains is chosen.

    Returns
    -------
    tuple of str
        At least one name, if there is any.
    """
    ordered = sorted(names)
    return tuple(ordered[every - 1 :: every]) or tuple(ordered[-1:])


def save_cohort(cohort: Cohort, path: str | Path) -> None:
    """Write a cohort atomically as one ``.safetensors`` file.

    Parameters
    ----------
    cohort : Cohort
        Brains to write.
    path : path-like
        File to write.
    """
    metadata = {
        'format': FORMAT,
        'spacing': json.dumps(cohort.spacing),
        'validation': json.dumps(cohort.validation),
        'source': cohort.source,
    }
    tensors = {name: image.contiguous() for name, image in cohort.images.items()}
    with atomic_write(path) as temporary:
        temporary.write_bytes(save(tensors, metadata))


def load_cohort(path: str | Path) -> Cohort:
    """Read a cohort that `save_cohort` wrote.

    Parameters
    ----------
    path : path-like
        ``.safetensors`` file.

    Returns
    -------
    Cohort

    Raises
    ------
    CohortError
        If the file is not a cohort, or the cohort does not suffice for training.
    """
    try:
        with safe_open(path, framework='pt') as file:
            metadata = file.metadata() or {}
            images = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, TypeError, ValueError, RuntimeError) as error:
        reason = ' '.join(str(error).split())
        raise CohortError(
            f'not a readable cohort ({reason})',
            advice='give a BIDS dataset, or the cohort.safetensors that an earlier training made',
            path=path,
        ) from error
    if metadata.get('format') != FORMAT:
        raise CohortError(
            'not a cohort', advice='give a BIDS dataset or a cohort.safetensors', path=path
        )
    try:
        x, y, z = map(float, json.loads(metadata['spacing']))
        validation = tuple(map(str, json.loads(metadata['validation'])))
        return Cohort(images, (x, y, z), validation, metadata['source'])
    except CohortError as error:
        raise error.at(path) from None
    except (KeyError, TypeError, ValueError, RecursionError):
        raise CohortError(
            'its metadata are invalid', advice='make the cohort again', path=path
        ) from None

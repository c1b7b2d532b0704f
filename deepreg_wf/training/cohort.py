"""The brains that networks are trained on, aligned with a template: one file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from deepreg_wf.lddmm import DEFAULT_METRIC, Metric
from deepreg_wf.utils.atomic import atomic_write

FORMAT = 'deepreg_wf cohort 1'
LEVELS = 255
"""Intensities are kept as whole numbers up to this: a cohort of brains is small enough to move."""

TEMPLATE = 'template'
"""Name of the template among the images."""


class CohortError(ValueError):
    """A file is not a cohort, or one that nothing can be learnt from."""


@dataclass(frozen=True)
class Cohort:
    """Brains on one grid, aligned with a template by affines.

    Attributes
    ----------
    images : mapping of str to Tensor, shape (X, Y, Z), uint8
        Extracted brains, as `deepreg_wf.lddmm.normalise` scales them, by name; `TEMPLATE` is one.
    spacing : tuple of 3 float
        Voxel size in mm.
    validation : tuple of str
        Names of the brains that nothing is trained on.
    source : str
        Where they come from, for the model card.
    """

    images: Mapping[str, Tensor]
    spacing: tuple[float, float, float]
    validation: tuple[str, ...]
    source: str = ''

    def __post_init__(self) -> None:
        if TEMPLATE not in self.images:
            raise CohortError('the cohort has no template')
        if not self.training or not self.validation:
            raise CohortError(
                'the cohort needs a brain to train on and one to validate with, at the least'
            )

    @property
    def training(self) -> tuple[str, ...]:
        """Names of the brains to train on."""
        return tuple(n for n in sorted(self.images) if n not in (TEMPLATE, *self.validation))

    def metric_on(self, device: torch.device | str) -> Metric:
        """The default metric on the grid of the images."""
        return Metric(self.images[TEMPLATE].shape, self.spacing, **DEFAULT_METRIC, device=device)

    def image(self, name: str) -> Tensor:
        """Brain in [0, 1], shape (X, Y, Z), float32."""
        return self.images[name].float() / LEVELS

    @property
    def digest(self) -> str:
        """Checksum of the images, by which results that belong to others are recognised."""
        digest = hashlib.sha256()
        for name in sorted(self.images):
            digest.update(name.encode())
            digest.update(self.images[name].contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


def quantise(image: Tensor) -> Tensor:
    """Bring an image in [0, 1] to whole numbers, as a cohort keeps it."""
    return (image * LEVELS).round().to(torch.uint8)


def split(names: Sequence[str], every: int = 6) -> tuple[str, ...]:
    """Choose the brains to validate with: every so many, in the order of their names."""
    ordered = sorted(names)
    return tuple(ordered[every - 1 :: every]) or tuple(ordered[-1:])


def save_cohort(cohort: Cohort, path: str | Path) -> None:
    """Write a cohort as one ``.safetensors`` file."""
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
    """Read what `save_cohort` wrote.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    Cohort

    Raises
    ------
    CohortError
        If it is no such file.
    """
    try:
        with safe_open(path, framework='pt') as file:
            metadata = file.metadata() or {}
            images = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CohortError(
            f'{path}: not a readable cohort ({error}); give a BIDS dataset, or the '
            'cohort.safetensors that an earlier training made of one'
        ) from error
    if metadata.get('format') != FORMAT:
        raise CohortError(f'{path}: not a cohort; give a BIDS dataset or a cohort.safetensors')
    x, y, z = json.loads(metadata['spacing'])
    validation = tuple(json.loads(metadata['validation']))
    return Cohort(images, (x, y, z), validation, metadata['source'])

"""Training of the localisation network on aligned brains that are moved by known affines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor

from deepreg_wf.affine.localisation_net import (
    LocalisationNet,
    resample_to_box,
    save_localisation_net,
)
from deepreg_wf.lddmm.images import block_average, pad_to_multiple
from deepreg_wf.training.augmentation import augment
from deepreg_wf.training.cohort import TEMPLATE, Cohort
from deepreg_wf.training.trainer import Trainer, TrainingSchedule

N_STEPS = 4
"""Steps of the recurrence in training."""

SMALL_ROTATION_PROBABILITY = 0.4
"""Probability of a small rotation; the others are uniformly distributed."""

SMALL_ROTATION_SD = 0.35
"""Standard deviation of the components of the rotation vector of a small rotation, in radians."""

STRAIN_SD = 0.07
"""Standard deviation of the logarithms of the scales, and of the shears."""

TRANSLATION_SD_MM = 4.0
"""Standard deviation of the translation along each axis: the error of the centre of a mask."""

CROP_PROBABILITY, MAX_CROP_MM = 0.25, 40.0
"""Probability that the lower end of a brain is cut off, and the largest height cut off."""

N_VALIDATION = 48
"""Affines in a validation."""

LOSS_UNIT_MM = 50.0
"""Error that has the loss 1."""

TOLERANCE_MM = 2.0
"""Error below which the loss is flat; the registration that follows corrects smaller ones."""

POINT_STRIDE = 97
"""Every so many voxels of the template is one of the points at which errors are measured."""


@dataclass(frozen=True)
class BrainFrame:
    """Brain with the coordinate system that its centre and volume define.

    The frame has its origin at the centroid of the brain and its unit such that the volume of the
    brain is that of the template in mm^3.

    Attributes
    ----------
    image : Tensor, shape (X, Y, Z)
        Brain on its voxels.
    to_voxels : Tensor, shape (4, 4)
        Affine from the frame to the voxels.
    to_world : Tensor, shape (4, 4)
        Affine from the frame to the coordinates in which the cohort is aligned, in mm.
    """

    image: Tensor
    to_voxels: Tensor
    to_world: Tensor


class KnownAffineObjective:
    """Objective: the distance between estimated and known affines.

    Parameters
    ----------
    training, validation : sequence of Tensor, shape (X, Y, Z)
        Brains aligned with the template.
    template : Tensor, shape (X, Y, Z)
        Brain of the template.
    spacing : float
        Voxel size of all images, in mm.
    factor : int
        Voxels that are averaged along each axis first.
    batch_size : int
        Brains in a step.
    device : str
        Device of the network.

    Notes
    -----
    Let A_k be the affine after step k of the recurrence, A the known one, and p_i points of the
    template. The error of a step is ``d_k = mean_i |A_k p_i - A p_i|`` in mm, and

        loss = mean_k sqrt(d_k^2 + t^2) / c,  t = TOLERANCE_MM, c = LOSS_UNIT_MM.

    The affine before a step is detached, so that a step learns from where the ones before it lead
    and not to make it easier for those after it.
    """

    def __init__(
        self,
        training: Sequence[Tensor],
        validation: Sequence[Tensor],
        template: Tensor,
        spacing: float,
        *,
        factor: int = 2,
        batch_size: int = 8,
        device: str = 'cpu',
    ) -> None:
        self.spacing, self.batch_size, self.device = spacing * factor, batch_size, device
        self.training, self.validation, (template,) = (
            [block_average(pad_to_multiple(image, factor), factor) for image in images]
            for images in (training, validation, [template])
        )
        self.volume = float((template > 0).sum())
        self.template = self._frame(template)
        inside = (template > 0).nonzero()[::POINT_STRIDE].float()
        ones = torch.ones(len(inside), 1)
        world = torch.cat([inside * self.spacing, ones], dim=1)
        self.points = world @ torch.linalg.inv(self.template.to_world).T

    def loss(
        self, network: LocalisationNet, step: int, generator: Generator
    ) -> tuple[Tensor, float]:
        """Compute the loss of a random batch.

        Parameters
        ----------
        network : LocalisationNet
            Network to train.
        step : int
            Number of the step; not used.
        generator : Generator
            Source of random numbers.

        Returns
        -------
        loss : Tensor, shape ()
        metric : float
            Mean error after the last step of the recurrence, in mm.
        """
        cases = [self._draw(self.training, generator, varied=True) for _ in range(self.batch_size)]
        errors = self._errors(network, cases)
        smoothed = (errors.square() + TOLERANCE_MM**2).sqrt()
        return smoothed.mean() / LOSS_UNIT_MM, float(errors[-1].mean().detach())

    def validate(self, network: LocalisationNet) -> float:
        """Compute the mean error after the last step on the brains for validation, in mm.

        Parameters
        ----------
        network : LocalisationNet
            Network to validate.

        Returns
        -------
        float
        """
        generator = Generator().manual_seed(0)
        cases = [self._draw(self.validation, generator, varied=False) for _ in range(N_VALIDATION)]
        return float(self._errors(network, cases)[-1].mean())

    def _errors(
        self, network: LocalisationNet, cases: Sequence[tuple[BrainFrame, Tensor]]
    ) -> Tensor:
        """Return the mean distances of the points in mm, shape (steps, cases)."""
        template = self.template
        fixed = resample_to_box(template.image, template.to_voxels, network).to(self.device)
        fixed = fixed.expand(len(cases), 1, *fixed.shape)
        affines = torch.eye(4).repeat(len(cases), 1, 1)
        truths = torch.stack([truth for _, truth in cases])
        targets = self.points @ truths.mT
        errors = []
        for _ in range(N_STEPS):
            moved = [
                resample_to_box(frame.image, frame.to_voxels @ affine, network)
                for (frame, _), affine in zip(cases, affines, strict=True)
            ]
            update = network(torch.stack(moved)[:, None].to(self.device), fixed).cpu()
            composed = affines @ update
            errors.append((self.points @ composed.mT - targets)[..., :3].norm(dim=-1).mean(-1))
            affines = composed.detach()
        return torch.stack(errors)

    def _draw(
        self, images: Sequence[Tensor], generator: Generator, *, varied: bool
    ) -> tuple[BrainFrame, Tensor]:
        """Draw a brain that is moved by a random affine, and the affine that undoes it."""
        image = images[int(torch.randint(len(images), (1,), generator=generator))]
        if varied:
            image = _crop(augment(image, generator), self.spacing, generator)
        frame = self._frame(image)
        moved = random_affine(generator)
        truth = moved @ torch.linalg.inv(frame.to_world) @ self.template.to_world
        to_voxels = frame.to_voxels @ torch.linalg.inv(moved)
        return BrainFrame(image, to_voxels, frame.to_world), truth

    def _frame(self, image: Tensor) -> BrainFrame:
        inside = (image > 0).nonzero().float()
        scale = (len(inside) / self.volume) ** (1 / 3)
        to_world = torch.diag(torch.tensor([scale, scale, scale, 1.0]))
        to_world[:3, 3] = self.spacing * inside.mean(dim=0)
        to_voxels = to_world.clone()
        to_voxels[:3] /= self.spacing
        return BrainFrame(image, to_voxels, to_world)


def random_affine(generator: Generator) -> Tensor:
    """Draw an affine between two brains of the same centre and volume.

    Parameters
    ----------
    generator : Generator
        Source of random numbers.

    Returns
    -------
    Tensor, shape (4, 4)
        A rotation, small or uniformly distributed, after moderate scales and shears that keep the
        volume, with a small translation.
    """
    normal = torch.randn(13, generator=generator)
    if float(torch.rand(1, generator=generator)) < SMALL_ROTATION_PROBABILITY:
        x, y, z = SMALL_ROTATION_SD * normal[:3]
        zero = torch.zeros(())
        # Rodrigues: the rotation is the matrix exponential of the rotation vector's cross product.
        cross = torch.stack(
            [torch.stack(row) for row in ((zero, -z, y), (z, zero, -x), (-y, x, zero))]
        )
        rotation = torch.linalg.matrix_exp(cross)
    else:
        # A normalised Gaussian vector in four dimensions is a uniformly distributed rotation.
        rotation = _rotation_matrix(normal[:4] / normal[:4].norm())
    scales = STRAIN_SD * normal[4:7]
    strain = torch.diag((scales - scales.mean()).exp())
    rows, columns = torch.triu_indices(3, 3, offset=1)
    strain[rows, columns] = STRAIN_SD * normal[7:10]
    affine = torch.eye(4)
    affine[:3, :3] = rotation @ strain
    affine[:3, 3] = TRANSLATION_SD_MM * normal[10:]
    return affine


def _rotation_matrix(quaternion: Tensor) -> Tensor:
    """Return the rotation matrix of a unit quaternion (w, x, y, z)."""
    w, x, y, z = quaternion
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row) for row in rows])


def _crop(image: Tensor, spacing: float, generator: Generator) -> Tensor:
    """Cut off the lower end of some brains."""
    probability, depth = torch.rand(2, generator=generator).tolist()
    if probability > CROP_PROBABILITY:
        return image
    lowest = int((image > 0).any(dim=0).any(dim=0).nonzero()[0])
    cropped = image.clone()
    cropped[:, :, : lowest + round(depth * MAX_CROP_MM / spacing)] = 0
    return cropped


def train_affine(
    cohort: Cohort,
    folder: Path,
    *,
    steps: int = 8_000,
    batch_size: int = 8,
    learning_rate: float = 2e-3,
    seed: int = 0,
    device: str = 'cpu',
    licence: str = '',
    log: Callable[[str], None] = print,
) -> LocalisationNet:
    """Train the network that aligns brains, or resume its training.

    Parameters
    ----------
    cohort : Cohort
        Brains to train on.
    folder : Path
        Folder of ``affine.safetensors``. An interrupted training resumes from the files in it.
    steps : int
        Number of steps.
    batch_size : int
        Brains in a step.
    learning_rate : float
        Largest learning rate.
    seed : int
        Seed of all random numbers.
    device : str
        Device of the network.
    licence : str
        Licence of the weights, for the model card.
    log : callable
        Function that takes a line of progress.

    Returns
    -------
    LocalisationNet
        Trained network in evaluation mode.
    """
    objective = KnownAffineObjective(
        [cohort.image(name) for name in cohort.training],
        [cohort.image(name) for name in cohort.validation],
        cohort.image(TEMPLATE),
        max(cohort.spacing),
        batch_size=batch_size,
        device=device,
    )
    torch.manual_seed(seed)
    network = LocalisationNet(volume=objective.volume * objective.spacing**3).to(device)
    schedule = TrainingSchedule(steps, learning_rate, seed)
    trainer = Trainer(network, schedule, lambda: objective, folder, 'affine')
    trainer.run(log)
    card = {
        'source': cohort.source,
        'licence': licence,
        'training': list(cohort.training),
        'validation': list(cohort.validation),
        'settings': {
            'steps': steps,
            'batch_size': batch_size,
            'learning_rate': learning_rate,
            'seed': seed,
        },
        'validation_error_mm': trainer.history[-1]['validation'],
    }
    save_localisation_net(network, folder / 'affine.safetensors', card)
    return network

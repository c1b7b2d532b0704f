"""Training on brains that are aligned, moved by affines that are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor

from deepreg_wf.affine.checkpoint import save
from deepreg_wf.affine.localisation_net import Localiser, look
from deepreg_wf.lddmm.images import block_average, pad_to_multiple
from deepreg_wf.training.augmentation import vary
from deepreg_wf.training.cohort import TEMPLATE, Cohort
from deepreg_wf.training.trainer import Fit, Plan

STEPS = 4
"""Of the recurrence."""

UPRIGHT = 0.4
"""Share of the brains that are turned a little and not anyhow."""

TILT = 0.35
"""Standard deviation of the rotation vector of those, along each axis, in radians."""

STRAIN = 0.07
"""Standard deviation of the logarithms of scales, and of shears."""

OFF_CENTRE = 4.0
"""Standard deviation of what the centre of a mask is wrong by, in mm, along each axis."""

CROPPED, CROP_MM = 0.25, 40.0
"""Share of the brains whose lower end is cut off, and by how much at the most."""

VALIDATION = 48
"""Affines that a network is validated with."""

UNIT_MM = 50.0
"""Error that costs one."""

ACCURACY_MM = 2.0
"""Errors below this do not matter: what follows is better than that at small ones."""


@dataclass(frozen=True)
class Frame:
    """Where a brain is, and how large: millimetres about its centre, at the size of the template.

    Attributes
    ----------
    image : Tensor, shape (X, Y, Z)
    to_voxels : Tensor, shape (4, 4)
        Millimetres of the frame to voxels of the image.
    to_world : Tensor, shape (4, 4)
        Millimetres of the frame to those in which the cohort is aligned.
    """

    image: Tensor
    to_voxels: Tensor
    to_world: Tensor


class KnownAffines:
    """Objective: to find affines that are known.

    Parameters
    ----------
    training, validation : sequence of Tensor, shape (X, Y, Z)
        Brains aligned with the template.
    template : Tensor, shape (X, Y, Z)
    spacing : float
        Of all of these, in mm.
    coarse : int
        Voxels that are averaged along each axis first.
    batch : int
    device : str
    """

    def __init__(
        self,
        training: Sequence[Tensor],
        validation: Sequence[Tensor],
        template: Tensor,
        spacing: float,
        *,
        coarse: int = 2,
        batch: int = 8,
        device: str = 'cpu',
    ) -> None:
        self.spacing, self.batch, self.device = spacing * coarse, batch, device
        self.training, self.validation, (template,) = (
            [block_average(pad_to_multiple(image, coarse), coarse) for image in images]
            for images in (training, validation, [template])
        )
        self.volume = float((template > 0).sum())
        self.template = self._frame(template)
        inside = (template > 0).nonzero()[::97].float()
        ones = torch.ones(len(inside), 1)
        world = torch.cat([inside * self.spacing, ones], dim=1)
        self.points = world @ torch.linalg.inv(self.template.to_world).T

    def loss(self, network: Localiser, step: int, generator: Generator) -> tuple[Tensor, float]:
        """Mean distance in mm after every step, on a batch; the figure is that after the last."""
        del step
        cases = [self._case(self.training, generator, varied=True) for _ in range(self.batch)]
        errors = self._errors(network, cases)
        near = (errors.square() + ACCURACY_MM**2).sqrt()
        return near.mean() / UNIT_MM, float(errors[-1].mean().detach())

    def validate(self, network: Localiser) -> float:
        """Mean distance in mm after the last step on brains that are not trained on."""
        generator = Generator().manual_seed(0)
        cases = [self._case(self.validation, generator, varied=False) for _ in range(VALIDATION)]
        return float(self._errors(network, cases)[-1].mean())

    def _errors(self, network: Localiser, cases: Sequence[tuple[Frame, Tensor]]) -> Tensor:
        """Mean distances of the points, in mm, shape (steps, cases)."""
        fixed = look(self.template.image, self.template.to_voxels, network).to(self.device)
        fixed = fixed.expand(len(cases), 1, *fixed.shape)
        affines = torch.eye(4).repeat(len(cases), 1, 1)
        truths = torch.stack([truth for _, truth in cases])
        targets = self.points @ truths.mT
        errors = []
        for _ in range(STEPS):
            seen = [
                look(frame.image, frame.to_voxels @ affine, network)
                for (frame, _), affine in zip(cases, affines, strict=True)
            ]
            found = network(torch.stack(seen)[:, None].to(self.device), fixed).cpu()
            found = affines @ found
            errors.append((self.points @ found.mT - targets)[..., :3].norm(dim=-1).mean(-1))
            # Steps learn from where those before them lead to, not to make it easy for others.
            affines = found.detach()
        return torch.stack(errors)

    def _case(
        self, images: Sequence[Tensor], generator: Generator, *, varied: bool
    ) -> tuple[Frame, Tensor]:
        """A brain in its frame, moved, and the affine that undoes it."""
        image = images[int(torch.randint(len(images), (1,), generator=generator))]
        if varied:
            image = _crop(vary(image, generator), self.spacing, generator)
        frame = self._frame(image)
        moved = random_affine(generator)
        truth = moved @ torch.linalg.inv(frame.to_world) @ self.template.to_world
        return Frame(image, frame.to_voxels @ torch.linalg.inv(moved), frame.to_world), truth

    def _frame(self, image: Tensor) -> Frame:
        inside = (image > 0).nonzero().float()
        scale = (len(inside) / self.volume) ** (1 / 3)
        to_world = torch.diag(torch.tensor([scale, scale, scale, 1.0]))
        to_world[:3, 3] = self.spacing * inside.mean(dim=0)
        to_voxels = to_world.clone()
        to_voxels[:3] /= self.spacing
        return Frame(image, to_voxels, to_world)


def random_affine(generator: Generator) -> Tensor:
    """Draw what is left between two brains once their centres and volumes are the same.

    Parameters
    ----------
    generator : Generator

    Returns
    -------
    Tensor, shape (4, 4)
        A rotation, any or a small one, after moderate scales and shears that keep the volume, and
        a small translation.
    """
    normal = torch.randn(13, generator=generator)
    if float(torch.rand(1, generator=generator)) < UPRIGHT:
        x, y, z = TILT * normal[:3]
        zero = torch.zeros(())
        spin = torch.stack(
            [torch.stack(row) for row in ((zero, -z, y), (z, zero, -x), (-y, x, zero))]
        )
        rotation = torch.linalg.matrix_exp(spin)
    else:
        rotation = _rotation(normal[:4] / normal[:4].norm())
    scales = STRAIN * normal[4:7]
    strain = torch.diag((scales - scales.mean()).exp())
    rows, columns = torch.triu_indices(3, 3, offset=1)
    strain[rows, columns] = STRAIN * normal[7:10]
    affine = torch.eye(4)
    affine[:3, :3] = rotation @ strain
    affine[:3, 3] = OFF_CENTRE * normal[10:]
    return affine


def _rotation(quaternion: Tensor) -> Tensor:
    """Rotation matrix of a unit quaternion, the scalar first."""
    w, x, y, z = quaternion
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row) for row in rows])


def _crop(image: Tensor, spacing: float, generator: Generator) -> Tensor:
    """Cut off the lower end of some brains."""
    share, depth = torch.rand(2, generator=generator).tolist()
    if share > CROPPED:
        return image
    lowest = int((image > 0).any(dim=0).any(dim=0).nonzero()[0])
    cropped = image.clone()
    cropped[:, :, : lowest + round(depth * CROP_MM / spacing)] = 0
    return cropped


def train_affine(
    cohort: Cohort,
    folder: Path,
    *,
    steps: int = 8_000,
    batch: int = 8,
    rate: float = 2e-3,
    seed: int = 0,
    device: str = 'cpu',
    licence: str = '',
    say: Callable[[str], None] = print,
) -> Localiser:
    """Train a network to align brains, or go on with it.

    Parameters
    ----------
    cohort : Cohort
    folder : Path
        Where it is kept, ``affine.safetensors``. A call that was cut off goes on from what it
        finds there.
    steps : int
    batch : int
        Brains a step.
    rate : float
        Largest learning rate.
    seed : int
        Of all that is random.
    device : str
    licence : str
        Of the weights.
    say : callable
        Takes lines of progress.

    Returns
    -------
    Localiser
    """
    objective = KnownAffines(
        [cohort.image(name) for name in cohort.training],
        [cohort.image(name) for name in cohort.validation],
        cohort.image(TEMPLATE),
        max(cohort.spacing),
        batch=batch,
        device=device,
    )
    torch.manual_seed(seed)
    network = Localiser(volume=objective.volume * objective.spacing**3).to(device)
    fit = Fit(network, Plan(steps, rate, seed), lambda: objective, folder, 'affine')
    fit.run(say)
    card = {
        'source': cohort.source,
        'licence': licence,
        'training': list(cohort.training),
        'validation': list(cohort.validation),
        'settings': {'steps': steps, 'batch': batch, 'rate': rate, 'seed': seed},
        'validation_error_mm': fit.history[-1]['validation'],
    }
    save(network, folder / 'affine.safetensors', card)
    return network

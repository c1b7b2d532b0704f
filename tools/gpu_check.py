"""Compare all computations with tensors on a GPU with the same ones on the CPU, and time both.

python tools/gpu_check.py [--device cuda:0] [--small]

It needs torch, numpy and safetensors alone. The exit status is 1 if a result differs by more than
rounding explains.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Generator, Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from deepreg_wf import lddmm  # noqa: E402
from deepreg_wf.affine.localisation_net import (  # noqa: E402
    estimate_affines,
    load_localisation_net,
    resample_to_box,
)
from deepreg_wf.checkpoints.locate import SHIPPED  # noqa: E402
from deepreg_wf.lddmm import diagnostics, fields  # noqa: E402
from deepreg_wf.lddmm.energy import Energy, ImagePair  # noqa: E402
from deepreg_wf.lddmm.lattice import Lattice  # noqa: E402
from deepreg_wf.quicksilver import (  # noqa: E402
    Checkpoint,
    NetworkSpec,
    correct,
    load_checkpoint,
    predict,
    prepare_image,
    sample_uncertainty,
)
from deepreg_wf.quicksilver.coarse_grid import CoarseGrid  # noqa: E402
from deepreg_wf.quicksilver.patches import (  # noqa: E402
    aggregate_patches,
    extract_patches,
    patch_origins,
)
from deepreg_wf.training.augmentation import augment  # noqa: E402
from deepreg_wf.training.end_to_end import EndToEndObjective  # noqa: E402
from deepreg_wf.training.examples import TrainingPair  # noqa: E402

Results = dict[str, Tensor]

ROUNDING = 1e-4
"""Relative difference of sums and products in single precision.

On the CPU, single and double precision differ by 1e-7 in the maps of a geodesic and by 2e-5 in the
gradient of the energy.
"""

ITERATED = 5e-2
"""The same after steps that depend on the difference of nearly equal numbers.

If the images change by their rounding errors, the velocity of a matching changes by 4e-3. TF32
changes the slope of the weights in training by 2e-2.
"""

TF32 = 1e-2
"""The same for networks, whose convolutions on a GPU have a mantissa of 10 bits (TensorFloat-32).

Weights and activations rounded to 10 bits on the CPU change a predicted momentum by 3e-4.
"""

RANDOM = 0.5
"""The same for statistics of few draws, since a GPU draws other random numbers."""


@dataclass(frozen=True)
class Scene:
    """Two synthetic brains on a device, and what is computed from them.

    Parameters
    ----------
    device : str
        Device of all tensors.
    small : bool
        Use voxels of 4 mm in place of 2 mm.
    """

    device: str
    small: bool = False

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm."""
        return (4.0, 4.0, 4.0) if self.small else (2.0, 2.0, 2.0)

    @cached_property
    def images(self) -> tuple[Tensor, Tensor]:
        """Moving and fixed brain, in [0, 1]."""
        shape = (24, 28, 24) if self.small else (88, 104, 88)
        axes = [torch.linspace(-1, 1, n) for n in shape]
        x, y, z = torch.meshgrid(*axes, indexing='ij')
        brains = []
        for bend in (0.0, 0.12):
            a, b, c = x + bend * torch.sin(3 * y), y - bend * torch.cos(2 * z), z + bend * x * y
            radius = ((a / 0.75) ** 2 + (b / 0.8) ** 2 + (c / 0.7) ** 2).sqrt()
            folds = torch.sin(9 * a) * torch.sin(8 * b) * torch.sin(9 * c)
            tissue = 0.7 + 0.2 * torch.tanh(8 * (0.75 + 0.1 * folds - radius))
            brains.append(torch.where(radius < 1, tissue, 0.0).to(self.device))
        return brains[0], brains[1]

    @cached_property
    def metric(self) -> lddmm.Metric:
        """Metric on the voxels of the brains."""
        return lddmm.Metric(self.images[0].shape, self.spacing, device=self.device)

    @cached_property
    def momentum(self) -> Tensor:
        """Momentum whose map moves points by a few millimetres, shape (3, X, Y, Z)."""
        moving, fixed = self.images
        force = (fixed - moving) * fields.gradient(moving)
        largest = self.metric.velocity(force).abs().max()
        return 4 / largest * force

    @cached_property
    def pair(self) -> ImagePair:
        """The brains, with weights of their voxels."""
        return ImagePair(*self.images, *((image > 0.1).float() for image in self.images))

    def checkpoint(self, name: str) -> Checkpoint:
        """Return a network of the package.

        Parameters
        ----------
        name : {'prediction', 'correction', 'probabilistic'}
            Name of its file.
        """
        return load_checkpoint(SHIPPED / f'{name}.safetensors', device=self.device)


@dataclass(frozen=True)
class Check:
    """A computation, and the relative difference that is allowed between two devices.

    Attributes
    ----------
    run : callable
        Takes a scene and returns tensors by name.
    tolerance : float
        Largest L2 norm of the difference, relative to that of the result on the CPU.
    """

    run: Callable[[Scene], Results]
    tolerance: float


def check_images(scene: Scene) -> Results:
    """Normalise, pad and average images."""
    moving = 700 * scene.images[0]
    return {
        'normalised': lddmm.normalise(moving),
        'equalised': prepare_image(moving, 'equalised'),
        'averaged': lddmm.images.block_average(lddmm.images.pad_to_multiple(moving, 3), 3),
    }


def check_resampling(scene: Scene) -> Results:
    """Interpolate an image, compose maps and differentiate them."""
    moving, warp = scene.images[0][None], 0.05 * scene.metric.velocity(scene.momentum)
    return {
        'linear': fields.interpolate(moving, warp),
        'composed': fields.compose(warp, warp),
        'determinant': fields.jacobian_determinant(warp),
        'distance': diagnostics.inverse_error(warp, -warp, scene.spacing),
    }


def check_measures(scene: Scene) -> Results:
    """Measure the agreement of two images."""
    moving, fixed = scene.images
    values = diagnostics.correlation(moving, fixed), diagnostics.dice(moving, fixed)
    return {'agreement': torch.tensor([*values, diagnostics.nonpositive_fraction(moving)])}


def check_shooting(scene: Scene) -> Results:
    """Shoot a momentum with a given number of steps and with the number that it needs."""
    given = lddmm.shoot(scene.momentum, scene.metric, steps=4)
    _, needed = lddmm.shoot_invertible(scene.momentum, scene.metric)
    return {'phi': given.phi, 'energy': given.energy, 'inverse': needed.phi_inverse}


def check_original_shooting(scene: Scene) -> Results:
    """Shoot a momentum by the scheme of the original Quicksilver."""
    metric = lddmm.Metric(
        scene.metric.shape, (1.0, 1.0, 1.0), device=scene.device, **lddmm.ORIGINAL_METRIC
    )
    momentum = metric.momentum(0.2 * scene.metric.velocity(scene.momentum))
    geodesic = lddmm.shoot_original(momentum, steps=2, inverse_iterations=4)
    return {'phi': geodesic.phi, 'inverse': geodesic.phi_inverse}


def check_energy(scene: Scene) -> Results:
    """Compute the energy of a momentum and its gradient."""
    lattice = Lattice.around(scene.metric)
    start = lattice.restrict(scene.momentum)
    results = {}
    for terms in (lddmm.DEFAULT_TERMS, lddmm.EnergyTerms(similarity=lddmm.SSD())):
        evaluated = Energy.from_pair(scene.pair, lattice, terms)(start)
        assert evaluated is not None
        name = type(terms.similarity).__name__
        results |= {f'{name} energy': torch.tensor(evaluated[0]), f'{name} slope': evaluated[1]}
    return results


def check_matching(scene: Scene) -> Results:
    """Match two images within masks, from a momentum."""
    pair = scene.pair
    found = lddmm.match(
        pair.moving,
        pair.fixed,
        scene.metric,
        terms=lddmm.DEFAULT_TERMS,
        schedule=lddmm.MatchingSchedule((1, 1)),
        moving_mask=pair.moving_weight,
        fixed_mask=pair.fixed_weight,
        initial_momentum=0.1 * scene.momentum,
    )
    energies = torch.tensor([levels[-1] for levels in found.energies])
    return {'velocity': scene.metric.velocity(found.momentum), 'energies': energies}


def check_patches(scene: Scene) -> Results:
    """Cut a volume into patches and aggregate them again."""
    volume = scene.images[0][None]
    origins = patch_origins(volume[0] > 0, (15, 15, 15), 9)
    patches = extract_patches(volume, origins, (15, 15, 15))
    return {'aggregated': aggregate_patches(patches, origins, volume.shape[1:])}


def check_prediction(scene: Scene) -> Results:
    """Predict a momentum, and correct it."""
    images = scene.images
    predicted = predict(scene.checkpoint('prediction'), *images, scene.metric, batch_size=4)
    corrected = correct(
        scene.checkpoint('correction'), predicted, *images, scene.metric, n_iterations=1
    )
    velocity = scene.metric.velocity
    return {'predicted': velocity(predicted), 'corrected': velocity(corrected)}


def check_original_prediction(scene: Scene) -> Results:
    """Predict by a network of the original kind: patch by patch, without gradient channels."""
    metric = lddmm.Metric(
        scene.metric.shape, scene.spacing, device=scene.device, **lddmm.ORIGINAL_METRIC
    )
    spec = NetworkSpec(
        features=4, spacing=scene.spacing[0], metric=metric.parameters, whitened=False
    )
    torch.manual_seed(0)
    checkpoint = Checkpoint(spec.new_network().eval(), spec).to(scene.device)
    return {'momentum': predict(checkpoint, *scene.images, metric, batch_size=4)}


def check_uncertainty(scene: Scene) -> Results:
    """Measure the spread of the maps of momenta that a network with dropout draws."""
    deviation = sample_uncertainty(
        scene.checkpoint('probabilistic'), *scene.images, scene.metric, samples=2
    )
    return {'mean': deviation.mean()}


def check_localisation(scene: Scene) -> Results:
    """Estimate the affine between two brains by the localisation network."""
    network = load_localisation_net(SHIPPED / 'affine.safetensors').to(scene.device)
    to_voxels = torch.diag(torch.tensor([1 / h for h in (*scene.spacing, 1.0)]))
    to_voxels[:3, 3] = (torch.tensor(scene.metric.shape) - 1) / 2
    to_voxels = to_voxels.to(scene.device)
    moving, fixed = scene.images
    with torch.inference_mode():
        box = resample_to_box(fixed, to_voxels, network)
        affines = estimate_affines(network, moving, to_voxels, box, steps=2)
    return {'box': box, 'affine': affines[-1]}


def check_training(scene: Scene) -> Results:
    """Augment an image, and propagate an energy back to the weights of a network."""
    checkpoint = scene.checkpoint('prediction')
    grid = CoarseGrid(scene.metric, checkpoint.spec.spacing)
    zero = torch.zeros(3, *grid.shape)
    pair = TrainingPair(torch.stack(scene.images).half(), zero, zero)
    objective = EndToEndObjective([pair], [pair], checkpoint.spec, grid)
    loss, _ = objective.loss(checkpoint.network, 0, Generator().manual_seed(0))
    loss.backward()
    slopes = [weight.grad for weight in checkpoint.network.parameters() if weight.grad is not None]
    return {
        'augmented': augment(scene.images[0], Generator().manual_seed(0)),
        'loss': loss.detach(),
        'slope': torch.stack([slope.norm() for slope in slopes]).norm(),
    }


CHECKS = {
    'images': Check(check_images, ROUNDING),
    'resampling': Check(check_resampling, ROUNDING),
    'measures': Check(check_measures, ROUNDING),
    'shooting': Check(check_shooting, ROUNDING),
    'original shooting': Check(check_original_shooting, ROUNDING),
    'energy': Check(check_energy, ROUNDING),
    'matching': Check(check_matching, ITERATED),
    'patches': Check(check_patches, ROUNDING),
    'prediction': Check(check_prediction, TF32),
    'original prediction': Check(check_original_prediction, TF32),
    'uncertainty': Check(check_uncertainty, RANDOM),
    'localisation': Check(check_localisation, TF32),
    'training': Check(check_training, ITERATED),
}
"""All checks, by name."""


def difference(result: Tensor, reference: Tensor) -> float:
    """Return the L2 norm of a difference, relative to that of the reference.

    Parameters
    ----------
    result, reference : Tensor
        Of the same shape, on any devices.

    Returns
    -------
    float
        Infinity where a value is not finite.
    """
    result, reference = result.detach().cpu().double(), reference.detach().cpu().double()
    relative = (result - reference).norm() / reference.norm().clamp_min(1e-12)
    return float(relative) if relative.isfinite() else float('inf')


def largest_difference(results: Results, reference: Results) -> float:
    """Return the largest `difference` of the results of a check.

    Parameters
    ----------
    results, reference : dict of str to Tensor
        Results of the same check on two devices.

    Returns
    -------
    float
    """
    return max(difference(results[name], reference[name]) for name in reference)


def timed(check: Check, scene: Scene) -> tuple[Results, float]:
    """Run a check and measure its time in seconds.

    Parameters
    ----------
    check : Check
        The check.
    scene : Scene
        Brains on a device.

    Returns
    -------
    results : dict of str to Tensor
    seconds : float
    """
    start = time.perf_counter()
    results = check.run(scene)
    if torch.device(scene.device).type == 'cuda':
        torch.cuda.synchronize(scene.device)
    return results, time.perf_counter() - start


def main(argv: list[str] | None = None) -> int:
    """Run all checks and print a table.

    Parameters
    ----------
    argv : list of str, optional
        Arguments; those of this process by default.

    Returns
    -------
    int
        0 if all results agree, else 1; 2 if there is no such device.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--device', default='cuda', help='cuda or cuda:N (default: %(default)s)')
    parser.add_argument('--small', action='store_true', help='voxels of 4 mm in place of 2 mm')
    options = parser.parse_args(argv)
    if torch.device(options.device).type == 'cuda' and not torch.cuda.is_available():
        print('There is no GPU that PyTorch can use.', file=sys.stderr)
        return 2
    cpu, device = Scene('cpu', options.small), Scene(options.device, options.small)
    print(f'{"":20} {"CPU s":>8} {"first s":>8} {"then s":>8} {"difference":>11} {"allowed":>8}')
    failed = 0
    for name, check in CHECKS.items():
        reference, cpu_seconds = timed(check, cpu)
        _, first_seconds = timed(check, device)
        results, seconds = timed(check, device)
        found = largest_difference(results, reference)
        failed += found > check.tolerance
        print(
            f'{name:20} {cpu_seconds:8.2f} {first_seconds:8.2f} {seconds:8.2f} {found:11.1e} '
            f'{check.tolerance:8.0e}{"  too much" if found > check.tolerance else ""}',
            flush=True,
        )
    return int(failed > 0)


if __name__ == '__main__':
    raise SystemExit(main())

"""Tests of the localisation network, which estimates the affine between two brains."""

from __future__ import annotations

import pytest
import torch

from deepreg_wf.affine.localisation_net import (
    LocalisationNet,
    affine_from_parameters,
    box_to_mm,
    estimate_affines,
    load_localisation_net,
    resample_to_box,
    save_localisation_net,
)
from deepreg_wf.checkpoints.locate import SHIPPED
from deepreg_wf.checkpoints.safetensors_file import WeightsError
from deepreg_wf.training import Cohort
from deepreg_wf.training.localisation import KnownAffineObjective, random_affine, train_affine


def brain(shape=(24, 28, 24), *, tilt=0.0):
    """Return an ellipsoid that is brighter in front, on voxels of 8 mm."""
    x, y, z = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in shape], indexing='ij')
    inside = (x / 0.6) ** 2 + ((y + tilt * z) / 0.8) ** 2 + (z / 0.55) ** 2 < 1
    return torch.where(inside, 0.6 + 0.3 * y, 0.0)


@pytest.fixture
def cohort():
    images = {'template': brain()} | {f'sub-{n}': brain(tilt=n / 20) for n in range(3)}
    images = {name: (255 * image).to(torch.uint8) for name, image in images.items()}
    return Cohort(images, (8.0, 8.0, 8.0), ('sub-2',), 'three ellipsoids')


def test_affines_have_a_positive_determinant():
    torch.testing.assert_close(affine_from_parameters(torch.zeros(1, 15))[0], torch.eye(4))
    generator = torch.Generator().manual_seed(0)
    parameters = 3 * torch.randn(100, 15, generator=generator, dtype=torch.float64)
    affines = affine_from_parameters(parameters)
    assert (torch.linalg.det(affines) > 0).all()


def test_box_is_centred_at_the_origin():
    corner = box_to_mm((24, 32, 24), 8.0) @ torch.tensor([0.0, 0, 0, 1])
    torch.testing.assert_close(corner[:3], -4.0 * torch.tensor([23.0, 31, 23]))


def test_resampling_moves_a_voxel_by_the_affine():
    network = LocalisationNet(2, shape=(24, 24, 24), spacing=4.0)
    image = torch.zeros(30, 30, 30)
    image[18, 12, 15] = 1
    to_voxels = torch.eye(4)
    to_voxels[:3] /= 4.0
    to_voxels[:3, 3] = torch.tensor([16.5, 10.5, 14.5])
    resampled = resample_to_box(image, to_voxels, network)
    # The bright voxel is 6, 6 and 2 mm from the centre of the box. The tolerance is for single
    # precision.
    assert float(resampled[13, 13, 12]) == pytest.approx(1, abs=1e-5)
    assert float(resampled.sum()) == pytest.approx(1, abs=1e-5)


def test_each_step_is_composed_with_the_affine_so_far():
    network = LocalisationNet(2, shape=(24, 24, 24))
    with torch.no_grad():
        network.last.bias[12] = 0.1
        steps = estimate_affines(
            network, torch.zeros(8, 8, 8), torch.eye(4), torch.zeros(24, 24, 24), steps=3
        )
    torch.testing.assert_close(
        torch.stack([step[0, 3] for step in steps]), torch.tensor([5.0, 10.0, 15.0])
    )


def test_box_with_sides_that_are_not_multiples_of_8_is_rejected():
    with pytest.raises(ValueError, match='multiples of 8'):
        LocalisationNet(shape=(20, 24, 24))


def test_random_affines_keep_the_volume_and_rotate_by_any_angle():
    generator = torch.Generator().manual_seed(0)
    affines = torch.stack([random_affine(generator) for _ in range(200)])
    torch.testing.assert_close(torch.linalg.det(affines), torch.ones(200), rtol=1e-4, atol=1e-4)
    # Some brains are upside down, some are hardly rotated.
    assert affines[:, 2, 2].min() < -0.8
    assert affines[:, 2, 2].max() > 0.95


def test_true_affine_has_no_error(cohort):
    images = [cohort.image(name) for name in cohort.training]
    objective = KnownAffineObjective(images, images, cohort.image('template'), 8.0, factor=1)

    class Oracle(LocalisationNet):
        """Network that returns the known affines."""

        def forward(self, moving, fixed):
            return torch.stack(truths) if moving.shape[0] else None

    seeds = (torch.Generator().manual_seed(n) for n in (0, 1))
    cases = [objective._draw(images, seed, varied=False) for seed in seeds]
    truths = [truth for _, truth in cases]
    errors = objective._errors(Oracle(2), cases)
    assert errors[0].max() < 1e-2


def test_complete_training_is_not_repeated(cohort, tmp_path):
    lines = []
    options = {'steps': 4, 'batch_size': 2, 'log': lines.append, 'licence': 'CC0-1.0'}
    whole = train_affine(cohort, tmp_path, **options)
    again = train_affine(cohort, tmp_path, **options)
    assert len(lines) == 4
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    stored = load_localisation_net(tmp_path / 'affine.safetensors')
    assert stored.volume == pytest.approx(whole.volume)
    for one, other in zip(whole.parameters(), stored.parameters(), strict=True):
        assert torch.equal(one, other)


def test_damaged_file_and_file_of_another_network_are_rejected(tmp_path):
    path = tmp_path / 'affine.safetensors'
    save_localisation_net(LocalisationNet(2, shape=(8, 8, 8)), path, {})
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match='damaged'):
        load_localisation_net(path)
    with pytest.raises(WeightsError, match='of this kind'):
        load_localisation_net(SHIPPED / 'prediction.safetensors')

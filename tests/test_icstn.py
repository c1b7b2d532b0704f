"""The network that sees by what affine a brain has to be moved."""

from __future__ import annotations

import pytest
import torch

from deepreg_wf.affine.checkpoint import load, save
from deepreg_wf.affine.localisation_net import Localiser, affine_of, box_to_mm, estimate, look
from deepreg_wf.checkpoints.files import WeightsError
from deepreg_wf.checkpoints.find import SHIPPED
from deepreg_wf.training import Cohort
from deepreg_wf.training.localisation import KnownAffines, random_affine, train_affine


def brain(shape=(24, 28, 24), *, tilt=0.0):
    """An ellipsoid, brighter in front, on voxels of 8 mm."""
    x, y, z = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in shape], indexing='ij')
    inside = (x / 0.6) ** 2 + ((y + tilt * z) / 0.8) ** 2 + (z / 0.55) ** 2 < 1
    return torch.where(inside, 0.6 + 0.3 * y, 0.0)


@pytest.fixture
def cohort():
    images = {'template': brain()} | {f'sub-{n}': brain(tilt=n / 20) for n in range(3)}
    images = {name: (255 * image).to(torch.uint8) for name, image in images.items()}
    return Cohort(images, (8.0, 8.0, 8.0), ('sub-2',), 'three ellipsoids')


def test_numbers_make_affines_that_never_mirror():
    torch.testing.assert_close(affine_of(torch.zeros(1, 15))[0], torch.eye(4))
    generator = torch.Generator().manual_seed(0)
    affines = affine_of(3 * torch.randn(100, 15, generator=generator, dtype=torch.float64))
    assert (torch.linalg.det(affines) > 0).all()


def test_the_box_is_about_its_centre():
    corner = box_to_mm((24, 32, 24), 8.0) @ torch.tensor([0.0, 0, 0, 1])
    torch.testing.assert_close(corner[:3], -4.0 * torch.tensor([23.0, 31, 23]))


def test_a_brain_is_seen_where_its_affine_puts_it():
    localiser = Localiser(2, shape=(24, 24, 24), spacing=4.0)
    image = torch.zeros(30, 30, 30)
    image[18, 12, 15] = 1
    to_voxels = torch.eye(4)
    to_voxels[:3] /= 4.0
    to_voxels[:3, 3] = torch.tensor([16.5, 10.5, 14.5])
    seen = look(image, to_voxels, localiser)
    # 6 mm along each axis but the last, 2 mm there: voxels have their centres 2 mm off the centre.
    # To the rounding of single precision: the grid is brought to the image by a matrix product.
    assert float(seen[13, 13, 12]) == pytest.approx(1, abs=1e-5)
    assert float(seen.sum()) == pytest.approx(1, abs=1e-5)


def test_each_step_composes_what_it_sees_with_what_it_has():
    localiser = Localiser(2, shape=(24, 24, 24))
    with torch.no_grad():
        localiser.last.bias[12] = 0.1
        steps = estimate(
            localiser, torch.zeros(8, 8, 8), torch.eye(4), torch.zeros(24, 24, 24), steps=3
        )
    torch.testing.assert_close(
        torch.stack([step[0, 3] for step in steps]), torch.tensor([5.0, 10.0, 15.0])
    )


def test_a_box_that_does_not_halve_is_refused():
    with pytest.raises(ValueError, match='multiples of 8'):
        Localiser(shape=(20, 24, 24))


def test_drawn_affines_keep_the_volume_and_turn_any_way():
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([random_affine(generator) for _ in range(200)])
    torch.testing.assert_close(torch.linalg.det(drawn), torch.ones(200), rtol=1e-4, atol=1e-4)
    # Some turn a brain upside down, some hardly at all.
    assert drawn[:, 2, 2].min() < -0.8
    assert drawn[:, 2, 2].max() > 0.95


def test_what_undoes_a_known_affine_has_no_error(cohort):
    images = [cohort.image(name) for name in cohort.training]
    objective = KnownAffines(images, images, cohort.image('template'), 8.0, coarse=1)

    class Oracle(Localiser):
        """Told the truth."""

        def forward(self, moving, fixed):
            return torch.stack(truths) if moving.shape[0] else None

    seeds = (torch.Generator().manual_seed(n) for n in (0, 1))
    cases = [objective._case(images, seed, varied=False) for seed in seeds]
    truths = [truth for _, truth in cases]
    errors = objective._errors(Oracle(2), cases)
    assert errors[0].max() < 1e-2


def test_training_goes_on_where_it_was_cut_off(cohort, tmp_path):
    lines = []
    plan = {'steps': 4, 'batch': 2, 'say': lines.append, 'licence': 'CC0-1.0'}
    whole = train_affine(cohort, tmp_path, **plan)
    again = train_affine(cohort, tmp_path, **plan)
    assert len(lines) == 4
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    stored = load(tmp_path / 'affine.safetensors')
    assert stored.volume == pytest.approx(whole.volume)
    for one, other in zip(whole.parameters(), stored.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_file_that_is_damaged_or_of_another_network_is_refused(tmp_path):
    path = tmp_path / 'affine.safetensors'
    save(Localiser(2, shape=(8, 8, 8)), path, {})
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match='damaged'):
        load(path)
    with pytest.raises(WeightsError, match='of this kind'):
        load(SHIPPED / 'prediction.safetensors')

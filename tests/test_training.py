"""Training, on a cohort of synthetic brains that is small enough for it to take seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import synthetic_brain
from safetensors import safe_open

from deepreg_wf.lddmm import Metric, fields, normalise, shoot
from deepreg_wf.quicksilver import Checkpoint, NetworkSpec, load_checkpoint
from deepreg_wf.quicksilver.architecture import N_GRADIENT_CHANNELS
from deepreg_wf.quicksilver.coarse_grid import CoarseGrid
from deepreg_wf.quicksilver.inputs import NetworkInput, mirror
from deepreg_wf.quicksilver.prediction import predict_update
from deepreg_wf.training import (
    Cohort,
    CohortError,
    TrainingSettings,
    load_cohort,
    quantise,
    save_cohort,
    choose_validation,
    train,
)
from deepreg_wf.training.augmentation import augment
from deepreg_wf.training.calibration import calibrate
from deepreg_wf.training.cohort import TEMPLATE
from deepreg_wf.training.examples import make_training_pairs, collate, advance, make_examples
from deepreg_wf.training.samples import Sample, known_geodesic
from deepreg_wf.training.targets import BrainPair, choose_pairs, compute_targets
from deepreg_wf.training.trainer import Trainer, TrainingSchedule

SHAPE, SPACING = (24, 28, 24), (6.0, 6.0, 6.0)
BLOCKS = 6.0
"""CoarseGrid of this size are voxels here."""

TINY = TrainingSettings(
    features=2,
    spacing=BLOCKS,
    between=1,
    geodesics=2,
    energy_spacing=BLOCKS,
    rounds=2,
    n_iterations=2,
    prediction_brains=40,
    prediction_pairs=3,
    correction_brains=16,
    correction_pairs=2,
    probabilistic_brains=8,
)


def deformed(image: torch.Tensor, seed: int) -> torch.Tensor:
    """An image under a random smooth geodesic."""
    metric = Metric(SHAPE, SPACING)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(3, *SHAPE, generator=generator) * (image > 0)
    momentum = CoarseGrid(metric, BLOCKS).unwhiten(metric.velocity(noise))
    momentum *= (40_000 / metric.energy(momentum)).sqrt().float()
    return fields.interpolate(image[None], shoot(momentum, metric).phi_inverse)[0]


@pytest.fixture(scope='module')
def cohort() -> Cohort:
    brain = synthetic_brain(SHAPE, SPACING).get_fdata(dtype='float32')
    template = normalise(torch.from_numpy(brain))
    images = {f'sub-{i}': quantise(deformed(template, i)) for i in range(4)}
    return Cohort({TEMPLATE: quantise(template), **images}, SPACING, ('sub-3',), 'made up')


@pytest.fixture(scope='module')
def trained(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp('trained')
    train(cohort, folder, TINY, licence='CC0-1.0', say=lambda line: None)
    return folder


# Cohorts


def test_a_cohort_comes_back_as_it_was(cohort: Cohort, tmp_path: Path) -> None:
    save_cohort(cohort, tmp_path / 'cohort')
    read = load_cohort(tmp_path / 'cohort')
    assert read.digest == cohort.digest
    assert (read.validation, read.spacing, read.source) == (('sub-3',), SPACING, 'made up')
    assert read.training == ('sub-0', 'sub-1', 'sub-2')


def test_what_is_no_cohort_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / 'text').write_text('nothing')
    with pytest.raises(CohortError, match=str(tmp_path / 'text')):
        load_cohort(tmp_path / 'text')


def test_a_cohort_needs_brains_on_both_sides(cohort: Cohort) -> None:
    with pytest.raises(CohortError, match='one to validate with'):
        Cohort(cohort.images, SPACING, ())
    with pytest.raises(CohortError, match='no template'):
        Cohort({'sub-0': cohort.images['sub-0']}, SPACING, ('sub-0',))


def test_some_brains_are_kept_for_validation_whatever_their_number() -> None:
    names = [f'sub-{i:02}' for i in range(12)]
    assert choose_validation(names) == ('sub-05', 'sub-11')
    assert choose_validation(['b', 'a']) == ('b',)


# Samples


def test_pairs_with_the_template_come_first() -> None:
    pairs = choose_pairs(['a', 'b', 'c'], 2, seed=0)
    assert pairs[:3] == [BrainPair(TEMPLATE, name) for name in 'abc']
    assert pairs[3:6] == [BrainPair(name, TEMPLATE) for name in 'abc']
    assert len(set(pairs)) == 8
    assert pairs == choose_pairs(['a', 'b', 'c'], 2, seed=0)


def test_teachers_are_kept_and_belong_to_their_cohort(cohort: Cohort, tmp_path: Path) -> None:
    blocks, said = CoarseGrid(cohort.metric_on('cpu'), BLOCKS), []
    pair = BrainPair(TEMPLATE, 'sub-0')
    first = compute_targets(cohort, [pair], blocks, tmp_path, said.append)
    again = compute_targets(cohort, [pair], blocks, tmp_path, said.append)
    assert torch.equal(first[pair], again[pair])
    assert len(said) == 1
    other = Cohort({**cohort.images, 'sub-1': cohort.images['sub-0']}, SPACING, ('sub-3',))
    compute_targets(other, [pair], blocks, tmp_path, said.append)
    assert len(said) == 2


def test_a_random_geodesic_carries_its_one_image_onto_the_other(cohort: Cohort) -> None:
    blocks = CoarseGrid(cohort.metric_on('cpu'), BLOCKS)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(3, *SHAPE, generator=generator) * (cohort.image(TEMPLATE) > 0)
    momentum = cohort.metric_on('cpu').square_root.velocity(noise)
    sample = known_geodesic(cohort, [0.1 * momentum / momentum.std()], blocks, generator)
    moving, fixed = sample.images.float()
    geodesic = shoot(blocks.unwhiten(sample.whitened), cohort.metric_on('cpu'))
    warped = fields.interpolate(moving[None], geodesic.phi_inverse)[0]
    # The lattice that makes geodesics is coarser than that of `shoot`, by no more than shows.
    assert (warped - fixed).abs().mean() < 0.1 * (moving - fixed).abs().mean()


def test_the_spread_is_made_as_large_as_the_error(cohort: Cohort) -> None:
    """Of a network that draws and does nothing else: it registers as it draws."""
    blocks = CoarseGrid(cohort.metric_on('cpu'), BLOCKS)
    torch.manual_seed(0)
    spec = NetworkSpec(
        features=2, gradient_channels=True, stride=0, spacing=BLOCKS, energy_spacing=BLOCKS, scale=0.003, dropout=0.2
    )
    network = Checkpoint(spec.new_network().eval(), spec)
    made = {'prediction': network, 'probabilistic': network}
    momenta = [0.01 * torch.randn(3, *blocks.shape)]
    found = calibrate(cohort, made, momenta, blocks, 0)
    inflated = replace(network, spec=replace(spec, uncertainty_scale=found))
    again = calibrate(cohort, made | {'probabilistic': inflated}, momenta, blocks, 0)
    assert found > 0
    assert again == pytest.approx(1, rel=1e-4)


def test_sides_change_for_images_and_momenta_alike(cohort: Cohort) -> None:
    """Shooting the mirrored momentum gives the mirrored image."""
    metric = cohort.metric_on('cpu')
    template, generator = cohort.image(TEMPLATE), torch.Generator().manual_seed(0)
    noise = torch.randn(3, *SHAPE, generator=generator)
    momentum = metric.velocity(noise * (template > 0))
    momentum *= (20_000 / metric.energy(momentum)).sqrt().float()
    warped = fields.interpolate(template[None], shoot(momentum, metric).phi_inverse)
    mirrored = mirror(torch.cat([template[None], warped, momentum]), 2)
    again = fields.interpolate(mirrored[:1], shoot(mirrored[2:], metric).phi_inverse)
    assert (again - mirrored[1:2]).abs().max() < 1e-3


def test_cases_are_led_to_where_a_network_wants_them(cohort: Cohort) -> None:
    """What is missing of a case is less by what the network says."""
    blocks = CoarseGrid(cohort.metric_on('cpu'), BLOCKS)
    sample = known_geodesic(
        cohort, [torch.randn(3, *blocks.shape) * 0.01], blocks, torch.Generator().manual_seed(0)
    )
    torch.manual_seed(0)
    spec = NetworkSpec(features=1, gradient_channels=True, stride=0, spacing=BLOCKS, energy_spacing=BLOCKS, scale=0.001)
    checkpoint = Checkpoint(spec.new_network().eval(), spec)
    (before,) = make_examples(make_training_pairs([sample], 0, 0), blocks, spec)
    (led,) = advance([before], checkpoint)
    said = predict_update(checkpoint, NetworkInput(before.channels.float(), 0.0)) / spec.scale
    assert said.abs().max() > 0
    # Exercises are kept at half precision.
    half = 2e-3 * float(before.target.abs().max())
    # The box of the next view may be another: the fixed image is warped back.
    box = tuple(slice(n, n + m) for n, m in zip(before.first, said.shape[1:], strict=True))
    missing = ((led.whitened - led.start) / spec.scale)[(..., *box)]
    assert torch.allclose(missing, before.target.float() - said, atol=half)


def test_batches_are_of_one_size_that_networks_take(cohort: Cohort) -> None:
    blocks = CoarseGrid(cohort.metric_on('cpu'), BLOCKS)
    nothing = torch.zeros(3, *blocks.shape)
    pairs = [torch.stack([cohort.image(TEMPLATE), cohort.image(f'sub-{i}')]) for i in (0, 1)]
    spec = NetworkSpec(gradient_channels=True, spacing=BLOCKS, energy_spacing=BLOCKS)
    shown = make_examples(make_training_pairs([Sample(pair, nothing) for pair in pairs], 1, 0), blocks, spec)
    channels, answers = collate(shown, torch.Generator().manual_seed(0))
    assert channels.shape[:2] == (2, 2 + N_GRADIENT_CHANNELS)
    assert answers.shape == (2, 3, *channels.shape[2:])
    assert all(side % 4 == 3 for side in channels.shape[2:])


def test_a_varied_brain_is_itself_in_its_place(cohort: Cohort) -> None:
    """All that is added lies within two voxels of it, and what is inside looks alike."""
    image = cohort.image('sub-0')
    brain = image > 0
    around = torch.nn.functional.max_pool3d(brain.float()[None, None], 5, stride=1, padding=2)[
        0, 0
    ]
    coated = 0
    for seed in range(20):
        varied = augment(image, torch.Generator().manual_seed(seed))
        assert varied[around == 0].eq(0).all()
        assert varied.min() >= 0
        assert not torch.allclose(varied, image)
        together = torch.stack([varied[brain], image[brain]])
        assert float(torch.corrcoef(together)[0, 1]) > 0.6
        coated += bool(varied[~brain].any())
    assert 0 < coated < 20


# Fitting


class _Line:
    """Find the value of the one bias that gives 3; draws make each step depend on its number."""

    def loss(self, network, step, generator):
        noise = float(torch.randn(1, generator=generator))
        error = (network.bias - 3 - 0.1 * noise).square().sum()
        return error, float(error.detach())

    def validate(self, network):
        return float((network.bias - 3).square().sum())


class _Interrupted(Exception):
    pass


def test_a_training_that_was_cut_off_ends_where_the_whole_one_does(tmp_path: Path) -> None:
    def fit(folder: Path) -> Trainer:
        torch.manual_seed(0)
        return Trainer(torch.nn.Linear(1, 1), TrainingSchedule(80, 0.05), _Line, folder, 'line')

    (tmp_path / 'whole').mkdir()
    (tmp_path / 'parts').mkdir()
    whole, parts = fit(tmp_path / 'whole'), fit(tmp_path / 'parts')
    whole.run(lambda line: None)

    def interrupt(line: str) -> None:
        if 'step 40 of' in line:
            raise _Interrupted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('deepreg_wf.training.trainer.SAVE_EVERY', 0.0)
        with pytest.raises(_Interrupted):
            parts.run(interrupt)
    resumed = fit(tmp_path / 'parts')
    steps = []
    resumed.run(steps.append)
    assert steps[0].startswith('line: step 40 of')
    assert torch.equal(resumed.network.bias, whole.network.bias)
    assert resumed.history == whole.history


def test_another_plan_starts_anew(tmp_path: Path) -> None:
    network = torch.nn.Linear(1, 1)
    Trainer(network, TrainingSchedule(10, 0.05), _Line, tmp_path, 'line').run(lambda line: None)
    other = Trainer(network, TrainingSchedule(12, 0.05), _Line, tmp_path, 'line')
    other.run(lambda line: None)
    assert other.history[0]['step'] < 12


def test_the_learning_rate_rises_and_falls() -> None:
    plan = TrainingSchedule(1000, 0.1)
    rates = [plan.learning_rate_at(step) for step in range(1000)]
    assert max(rates) == pytest.approx(0.1, rel=1e-3)
    assert rates.index(max(rates)) == pytest.approx(50, abs=2)
    assert rates[-1] < 1e-5


# The whole


def test_networks_learn_something_of_brains_they_have_not_seen(trained: Path) -> None:
    facts = json.loads((trained / 'training.json').read_text())
    missed = facts['histories']['prediction']['imitation'][-1]['validation']
    assert missed < 0.97  # predicting zero misses 1
    figures = facts['figures']
    assert figures['prediction']['mean_correlation'] > figures['affine']['mean_correlation']
    assert figures['prediction']['min_jacobian'] > 0


def test_training_leaves_networks_that_say_what_they_are(trained: Path) -> None:
    for name, role in (
        ('prediction', 'prediction'),
        ('correction', 'correction'),
        ('probabilistic', 'prediction'),
    ):
        checkpoint = load_checkpoint(trained / f'{name}.safetensors')
        assert checkpoint.spec.role == role
        assert checkpoint.spec.spacing == BLOCKS
        assert (checkpoint.spec.dropout > 0) == (name == 'probabilistic')
        assert (checkpoint.spec.uncertainty_scale != 1) == (name == 'probabilistic')
        assert checkpoint.card['validation'] == ['sub-3']
        assert checkpoint.card['licence'] == 'CC0-1.0'
    card = (trained / 'README.md').read_text()
    assert 'sub-0, sub-1, sub-2' in card
    assert 'CC0-1.0' in card


def test_the_same_call_again_changes_nothing(trained: Path, cohort: Cohort) -> None:
    names = ('prediction', 'correction', 'probabilistic')
    before = [_content(trained / f'{name}.safetensors') for name in names]
    train(cohort, trained, TINY, licence='CC0-1.0', say=lambda line: None)
    assert [_content(trained / f'{name}.safetensors') for name in names] == before


def _content(path: Path) -> tuple[str, str]:
    """Checksum of a network, and its card."""
    with safe_open(path, framework='pt') as file:
        return file.metadata()['sha256'], file.metadata()['card']


def test_a_cohort_is_trained_on_where_little_is_installed(cohort: Cohort, tmp_path: Path) -> None:
    """Torch, numpy, safetensors, and nothing else."""
    save_cohort(cohort, tmp_path / 'cohort.safetensors')
    absent = ['ants', 'bids', 'h5py', 'matplotlib', 'nibabel', 'nilearn', 'nipype', 'nitransforms']
    absent += ['niworkflows', 'nireports', 'scipy', 'templateflow', 'tomli_w']
    code = f"""
import sys
sys.modules.update(dict.fromkeys({absent}))
from deepreg_wf.cli.train import main
sys.exit(main())
"""
    plan = ['--features', 1, '--spacing', BLOCKS, '--prediction-brains', 4, '--between', 0]
    plan += ['--correction-brains', 0, '--probabilistic-brains', 0, '--geodesics', 1]
    plan += ['--affine-steps', 2]
    words = [tmp_path / 'cohort.safetensors', tmp_path / 'out', '--nprocs', 1, *plan]
    call = [sys.executable, '-c', code, *map(str, words)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert load_checkpoint(tmp_path / 'out' / 'prediction.safetensors').spec.features == 1


def test_the_picture_of_a_training_is_drawn(trained: Path) -> None:
    from matplotlib.image import imread

    from deepreg_wf.reports.training import draw_training

    assert imread(draw_training(trained)).std() > 0.1

"""Tests of the training, on a cohort of synthetic brains that is trained on in seconds."""

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

from deepreg_wf.lddmm import DEFAULT_TERMS, SSD, Metric, fields, normalise, shoot
from deepreg_wf.quicksilver import Checkpoint, NetworkSpec, load_checkpoint
from deepreg_wf.quicksilver.architecture import N_GRADIENT_CHANNELS
from deepreg_wf.quicksilver.coarse_grid import CoarseGrid
from deepreg_wf.quicksilver.inputs import mirror
from deepreg_wf.quicksilver.prediction import predict_update
from deepreg_wf.training import (
    Cohort,
    CohortError,
    TrainingSettings,
    calibration,
    choose_validation,
    load_cohort,
    quantise,
    save_cohort,
    train,
)
from deepreg_wf.training.augmentation import augment
from deepreg_wf.training.calibration import calibrate
from deepreg_wf.training.cohort import TEMPLATE
from deepreg_wf.training.examples import advance, collate, make_examples, make_pairs
from deepreg_wf.training.samples import Sample, known_geodesic
from deepreg_wf.training.targets import BrainPair, choose_pairs, compute_targets
from deepreg_wf.training.trainer import Trainer, TrainingSchedule

SHAPE, SPACING = (24, 28, 24), (6.0, 6.0, 6.0)
COARSE_SPACING = 6.0
"""Spacing of the coarse grid; it is that of the images."""

TINY = TrainingSettings(
    features=2,
    spacing=COARSE_SPACING,
    n_between=1,
    n_geodesics=2,
    energy_spacing=COARSE_SPACING,
    rounds=2,
    n_iterations=2,
    prediction_brains=40,
    prediction_pairs=3,
    correction_brains=16,
    correction_pairs=2,
    probabilistic_brains=8,
)


def deformed(image: torch.Tensor, seed: int) -> torch.Tensor:
    """Return an image deformed by a random smooth geodesic."""
    metric = Metric(SHAPE, SPACING)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(3, *SHAPE, generator=generator) * (image > 0)
    momentum = CoarseGrid(metric, COARSE_SPACING).unwhiten(metric.velocity(noise))
    momentum *= (40_000 / metric.energy(momentum)).sqrt().float()
    return fields.interpolate(image[None], shoot(momentum, metric).phi_inverse)[0]


def spec_for_cohort(**options: object) -> NetworkSpec:
    """Specification of a network on the grid of the cohort."""
    given = {'gradient_channels': True, 'stride': 0}
    given |= {'spacing': COARSE_SPACING, 'energy_spacing': COARSE_SPACING}
    return NetworkSpec(**given | options)


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
    train(cohort, folder, TINY, licence='CC0-1.0', log=lambda line: None)
    return folder


# Cohorts


def test_cohort_round_trip(cohort: Cohort, tmp_path: Path) -> None:
    save_cohort(cohort, tmp_path / 'cohort')
    read = load_cohort(tmp_path / 'cohort')
    assert read.digest == cohort.digest
    assert (read.validation, read.spacing, read.source) == (('sub-3',), SPACING, 'made up')
    assert read.training == ('sub-0', 'sub-1', 'sub-2')


def test_error_of_an_unusable_cohort_names_the_file(tmp_path: Path) -> None:
    (tmp_path / 'text').write_text('nothing')
    with pytest.raises(CohortError, match=str(tmp_path / 'text')):
        load_cohort(tmp_path / 'text')


def test_cohort_needs_a_template_and_brains_to_train_on_and_validate_with(cohort: Cohort) -> None:
    with pytest.raises(CohortError, match='one to validate with'):
        Cohort(cohort.images, SPACING, ())
    with pytest.raises(CohortError, match='no template'):
        Cohort({'sub-0': cohort.images['sub-0']}, SPACING, ('sub-0',))


def test_every_sixth_brain_and_at_least_one_is_for_validation() -> None:
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


def test_targets_are_kept_for_their_cohort_and_energy(cohort: Cohort, tmp_path: Path) -> None:
    coarse_grid, lines = CoarseGrid(cohort.metric_on('cpu'), COARSE_SPACING), []
    pair = BrainPair(TEMPLATE, 'sub-0')
    terms = DEFAULT_TERMS
    first = compute_targets(cohort, [pair], coarse_grid, terms, tmp_path, lines.append)
    again = compute_targets(cohort, [pair], coarse_grid, terms, tmp_path, lines.append)
    assert torch.equal(first[pair], again[pair])
    assert len(lines) == 1
    other = Cohort({**cohort.images, 'sub-1': cohort.images['sub-0']}, SPACING, ('sub-3',))
    compute_targets(other, [pair], coarse_grid, terms, tmp_path, lines.append)
    assert len(lines) == 2
    weaker = replace(terms, similarity=SSD())
    compute_targets(cohort, [pair], coarse_grid, weaker, tmp_path, lines.append)
    assert len(lines) == 3


def test_known_geodesic_carries_the_moving_onto_the_fixed_image(cohort: Cohort) -> None:
    coarse_grid = CoarseGrid(cohort.metric_on('cpu'), COARSE_SPACING)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(3, *SHAPE, generator=generator) * (cohort.image(TEMPLATE) > 0)
    momentum = cohort.metric_on('cpu').square_root.velocity(noise)
    sample = known_geodesic(cohort, [0.1 * momentum / momentum.std()], coarse_grid, generator)
    moving, fixed = sample.images.float()
    geodesic = shoot(coarse_grid.unwhiten(sample.whitened), cohort.metric_on('cpu'))
    warped = fields.interpolate(moving[None], geodesic.phi_inverse)[0]
    # The lattice of the coarse grid is coarser than that of `shoot`.
    assert (warped - fixed).abs().mean() < 0.1 * (moving - fixed).abs().mean()


def test_calibration_makes_the_spread_equal_to_the_error(
    cohort: Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a network that is used for the prediction and the uncertainty."""
    monkeypatch.setattr(calibration, 'N_GEODESICS', 2)
    monkeypatch.setattr(calibration, 'N_SAMPLES', 3)
    coarse_grid = CoarseGrid(cohort.metric_on('cpu'), COARSE_SPACING)
    torch.manual_seed(0)
    spec = spec_for_cohort(features=2, output_scale=0.003, dropout=0.2)
    network = Checkpoint(spec.new_network().eval(), spec)
    networks = {'prediction': network, 'probabilistic': network}
    momenta = [0.01 * torch.randn(3, *coarse_grid.shape)]
    scale = calibrate(cohort, networks, momenta, coarse_grid, 0)
    scaled = replace(network, spec=replace(spec, uncertainty_scale=scale))
    again = calibrate(cohort, networks | {'probabilistic': scaled}, momenta, coarse_grid, 0)
    assert scale > 0
    assert again == pytest.approx(1, rel=1e-4)


def test_mirroring_commutes_with_shooting(cohort: Cohort) -> None:
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


def test_advancing_a_pair_subtracts_the_output_from_its_target(cohort: Cohort) -> None:
    coarse_grid = CoarseGrid(cohort.metric_on('cpu'), COARSE_SPACING)
    momenta = [torch.randn(3, *coarse_grid.shape) * 0.01]
    sample = known_geodesic(cohort, momenta, coarse_grid, torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    spec = spec_for_cohort(features=1, output_scale=0.001)
    checkpoint = Checkpoint(spec.new_network().eval(), spec)
    (before,) = make_examples(make_pairs([sample], 0, 0), coarse_grid, spec)
    (advanced,) = advance([before], checkpoint)
    output = predict_update(checkpoint, before.channels.float()) / spec.output_scale
    assert output.abs().max() > 0
    # Examples are kept in half precision.
    half = 2e-3 * float(before.target.abs().max())
    # Compared in the crop of the example: that of the next one differs, since the fixed image is
    # warped back.
    crop = tuple(slice(n, n + m) for n, m in zip(before.origin, output.shape[1:], strict=True))
    target = ((advanced.optimum - advanced.current) / spec.output_scale)[(..., *crop)]
    assert torch.allclose(target, before.target.float() - output, atol=half)


def test_pair_that_folds_gives_no_example(cohort: Cohort) -> None:
    coarse_grid = CoarseGrid(cohort.metric_on('cpu'), COARSE_SPACING)
    zero = torch.zeros(3, *coarse_grid.shape)
    images = torch.stack([cohort.image(TEMPLATE), cohort.image('sub-0')])
    (pair,) = make_pairs([Sample(images, zero)], 0, 0)
    spec = spec_for_cohort()
    assert len(make_examples([pair], coarse_grid, spec)) == 1
    folding = replace(pair, current=torch.randn(zero.shape))
    assert make_examples([folding], coarse_grid, spec) == []


def test_batches_have_a_valid_patch_size(cohort: Cohort) -> None:
    coarse_grid = CoarseGrid(cohort.metric_on('cpu'), COARSE_SPACING)
    zero = torch.zeros(3, *coarse_grid.shape)
    images = [torch.stack([cohort.image(TEMPLATE), cohort.image(f'sub-{i}')]) for i in (0, 1)]
    pairs = make_pairs([Sample(pair, zero) for pair in images], 1, 0)
    examples = make_examples(pairs, coarse_grid, spec_for_cohort(stride=14))
    channels, targets = collate(examples, torch.Generator().manual_seed(0))
    assert channels.shape[:2] == (2, 2 + N_GRADIENT_CHANNELS)
    assert targets.shape == (2, 3, *channels.shape[2:])
    assert all(side % 4 == 3 for side in channels.shape[2:])


def test_augmented_brain_stays_in_place_and_correlates_with_the_original(cohort: Cohort) -> None:
    """Residual meninges lie within two voxels of the brain."""
    image = cohort.image('sub-0')
    brain = image > 0
    batch = brain.float()[None, None]
    dilated = torch.nn.functional.max_pool3d(batch, 5, stride=1, padding=2)[0, 0]
    with_meninges = 0
    for seed in range(20):
        augmented = augment(image, torch.Generator().manual_seed(seed))
        assert augmented[dilated == 0].eq(0).all()
        assert augmented.min() >= 0
        assert not torch.allclose(augmented, image)
        both = torch.stack([augmented[brain], image[brain]])
        assert float(torch.corrcoef(both)[0, 1]) > 0.6
        with_meninges += bool(augmented[~brain].any())
    assert 0 < with_meninges < 20


# Training loop


class _Line:
    """Objective that is least where the bias is 3; random noise makes each step another one."""

    def loss(self, network, step, generator):
        noise = float(torch.randn(1, generator=generator))
        error = (network.bias - 3 - 0.1 * noise).square().sum()
        return error, float(error.detach())

    def validate(self, network):
        return float((network.bias - 3).square().sum())


class _Interrupted(Exception):
    pass


def test_interrupted_training_gives_the_same_network(tmp_path: Path) -> None:
    def trainer(folder: Path) -> Trainer:
        torch.manual_seed(0)
        return Trainer(torch.nn.Linear(1, 1), TrainingSchedule(80, 0.05), _Line, folder, 'line')

    (tmp_path / 'whole').mkdir()
    (tmp_path / 'parts').mkdir()
    whole, parts = trainer(tmp_path / 'whole'), trainer(tmp_path / 'parts')
    whole.run(lambda line: None)

    def interrupt(line: str) -> None:
        if 'step 40 of' in line:
            raise _Interrupted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('deepreg_wf.training.trainer.SAVE_INTERVAL', 0.0)
        with pytest.raises(_Interrupted):
            parts.run(interrupt)
    resumed = trainer(tmp_path / 'parts')
    steps = []
    resumed.run(steps.append)
    assert steps[0].startswith('line: step 40 of')
    assert torch.equal(resumed.network.bias, whole.network.bias)
    assert resumed.history == whole.history


def test_another_schedule_starts_a_new_training(tmp_path: Path) -> None:
    network = torch.nn.Linear(1, 1)
    Trainer(network, TrainingSchedule(10, 0.05), _Line, tmp_path, 'line').run(lambda line: None)
    other = Trainer(network, TrainingSchedule(12, 0.05), _Line, tmp_path, 'line')
    other.run(lambda line: None)
    assert other.history[0]['step'] < 12


def test_learning_rate_rises_and_falls() -> None:
    schedule = TrainingSchedule(1000, 0.1)
    rates = [schedule.learning_rate_at(step) for step in range(1000)]
    assert max(rates) == pytest.approx(0.1, rel=1e-3)
    assert rates.index(max(rates)) == pytest.approx(50, abs=2)
    assert rates[-1] < 1e-5


# Whole training


def test_trained_networks_register_validation_brains(trained: Path) -> None:
    record = json.loads((trained / 'training.json').read_text())
    error = record['histories']['prediction']['supervised'][-1]['validation']
    assert error < 0.97  # a momentum of zero has the error 1
    measures = record['figures']
    assert measures['prediction']['mean_correlation'] > measures['affine']['mean_correlation']
    assert measures['prediction']['min_jacobian'] > 0


def test_trained_networks_describe_themselves(trained: Path) -> None:
    for name, role in (
        ('prediction', 'prediction'),
        ('correction', 'correction'),
        ('probabilistic', 'prediction'),
    ):
        checkpoint = load_checkpoint(trained / f'{name}.safetensors')
        assert checkpoint.spec.role == role
        assert checkpoint.spec.spacing == COARSE_SPACING
        assert (checkpoint.spec.dropout > 0) == (name == 'probabilistic')
        assert (checkpoint.spec.uncertainty_scale != 1) == (name == 'probabilistic')
        assert checkpoint.card['validation'] == ['sub-3']
        assert checkpoint.card['licence'] == 'CC0-1.0'
    card = (trained / 'README.md').read_text()
    assert 'sub-0, sub-1, sub-2' in card
    assert 'CC0-1.0' in card


def test_repeated_training_changes_nothing(trained: Path, cohort: Cohort) -> None:
    names = ('prediction', 'correction', 'probabilistic')
    before = [_content(trained / f'{name}.safetensors') for name in names]
    train(cohort, trained, TINY, licence='CC0-1.0', log=lambda line: None)
    assert [_content(trained / f'{name}.safetensors') for name in names] == before


def _content(path: Path) -> tuple[str, str]:
    """Checksum of a network, and its card."""
    with safe_open(path, framework='pt') as file:
        return file.metadata()['sha256'], file.metadata()['card']


def test_training_from_a_cohort_needs_few_packages(cohort: Cohort, tmp_path: Path) -> None:
    """Only torch, numpy and safetensors."""
    save_cohort(cohort, tmp_path / 'cohort.safetensors')
    absent = ['ants', 'bids', 'h5py', 'matplotlib', 'nibabel', 'nilearn', 'nipype', 'nitransforms']
    absent += ['niworkflows', 'nireports', 'scipy', 'templateflow', 'tomli_w']
    code = f"""
import sys
sys.modules.update(dict.fromkeys({absent}))
from deepreg_wf.cli.train import main
sys.exit(main())
"""
    options = [
        '--features',
        1,
        '--spacing',
        COARSE_SPACING,
        '--prediction-brains',
        4,
        '--between',
        0,
    ]
    options += ['--correction-brains', 0, '--probabilistic-brains', 0, '--geodesics', 1]
    options += ['--affine-steps', 2]
    words = [tmp_path / 'cohort.safetensors', tmp_path / 'out', '--nprocs', 1, *options]
    call = [sys.executable, '-c', code, *map(str, words)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert load_checkpoint(tmp_path / 'out' / 'prediction.safetensors').spec.features == 1


def test_figure_of_a_training_is_drawn(trained: Path) -> None:
    from matplotlib.image import imread

    from deepreg_wf.reports.training import draw_training

    assert imread(draw_training(trained)).std() > 0.1

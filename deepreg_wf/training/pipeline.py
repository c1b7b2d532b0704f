"""Training pipeline from a cohort to checkpoints; every stage is kept on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from deepreg_wf.lddmm import DEFAULT_TERMS
from deepreg_wf.quicksilver.architecture import QuicksilverNet
from deepreg_wf.quicksilver.checkpoint import Checkpoint, NetworkSpec, save_checkpoint
from deepreg_wf.quicksilver.coarse_grid import CoarseGrid
from deepreg_wf.training.calibration import calibrate
from deepreg_wf.training.cohort import Cohort
from deepreg_wf.training.end_to_end import EndToEndObjective
from deepreg_wf.training.examples import make_pairs
from deepreg_wf.training.model_card import model_card
from deepreg_wf.training.rollout import Groups, Rollout
from deepreg_wf.training.samples import known_geodesics, matched_samples
from deepreg_wf.training.supervised import SupervisedObjective
from deepreg_wf.training.targets import BrainPair, choose_pairs, compute_targets
from deepreg_wf.training.trainer import Objective, Trainer, TrainingSchedule
from deepreg_wf.training.validation import validate
from deepreg_wf.utils.atomic import atomic_write

RECORD_FILE, PANELS_FILE = 'training.json', 'panels.safetensors'
"""Files of the record of a training, and of slices of a registration of validation brains."""

PROBABILISTIC_DROPOUT = 0.2
"""Dropout rate of the probabilistic network, as in the original."""

FINE_TUNING_RATE = 0.3
"""Learning rate of end-to-end training, relative to that of supervised training."""

Log = Callable[[str], None]
History = list[dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Settings of the networks and of their training.

    Attributes
    ----------
    features : int
        Channels f of the first layer of the networks.
    gradient_channels : bool
        Whether the networks have gradient channels; see `QuicksilverNet`.
    spacing : float
        Spacing of the coarse grid, in mm.
    energy_spacing : float
        Voxel size in mm to which the images are averaged for the energy.
    rounds : int
        Rounds of the training of the correction network, each on the results of the one before.
    n_iterations : int
        Number of updates by the correction network in use.
    prediction_brains, correction_brains, probabilistic_brains : int
        Examples of the supervised training of each network; 0 leaves the network out.
    prediction_pairs, correction_pairs : int
        Pairs of the end-to-end training that follows.
    n_between : int
        Matched pairs of two subjects, in addition to those with the template.
    n_geodesics : int
        Synthetic pairs from random known geodesics.
    n_variants : int
        Augmented copies of each pair.
    learning_rate : float
        Largest learning rate.
    batch_size : int
        Examples in a step.
    seed : int
        Seed of all random numbers.
    """

    features: int = 8
    gradient_channels: bool = True
    spacing: float = 4.0
    energy_spacing: float = 2.0
    rounds: int = 2
    n_iterations: int = 5
    prediction_brains: int = 6_000
    prediction_pairs: int = 0
    correction_brains: int = 4_000
    correction_pairs: int = 0
    probabilistic_brains: int = 600
    n_between: int = 20
    n_geodesics: int = 40
    n_variants: int = 3
    learning_rate: float = 4e-3
    batch_size: int = 2
    seed: int = 0


def train(
    cohort: Cohort,
    folder: Path,
    settings: TrainingSettings,
    *,
    device: str = 'cpu',
    licence: str = '',
    log: Log = print,
) -> dict[str, Checkpoint]:
    """Train the prediction, correction and probabilistic networks, or resume their training.

    Parameters
    ----------
    cohort : Cohort
        Brains to train on.
    folder : Path
        Output folder. An interrupted training resumes from the files in it.
    settings : TrainingSettings
        Settings of the networks and of their training.
    device : str
        Device of the computation.
    licence : str
        Licence of the weights, for the model card.
    log : callable
        Function that takes a line of progress.

    Returns
    -------
    dict of str to Checkpoint
        Networks by name, 'prediction', 'correction' and 'probabilistic', as written to `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stages = _Stages(cohort, folder, settings, device, log)
    networks = {'prediction': stages.train_prediction()}
    if settings.correction_brains:
        networks['correction'] = stages.train_correction()
    if settings.probabilistic_brains:
        networks['probabilistic'] = stages.train_probabilistic()
        networks['probabilistic'] = stages.calibrate(networks)
    log('validating')
    measures, panels = validate(cohort, networks, stages.validation_pairs, device)
    with atomic_write(folder / PANELS_FILE) as temporary:
        temporary.write_bytes(save(panels))
    record = {
        'source': cohort.source,
        'licence': licence,
        'training': list(cohort.training),
        'validation': list(cohort.validation),
        'settings': asdict(settings),
        'figures': measures,
        'histories': stages.histories,
    }
    texts = {RECORD_FILE: json.dumps(record, indent=2), 'README.md': model_card(record)}
    for name, text in texts.items():
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text)
    for name, checkpoint in networks.items():
        card = {key: record[key] for key in ('source', 'licence', 'training', 'validation')}
        card |= {'settings': record['settings'], 'figures': measures[name]}
        networks[name] = replace(checkpoint, card=card)
        save_checkpoint(networks[name], folder / f'{name}.safetensors')
    return networks


class _Stages:
    """Stages of a training, with the samples and the rollout that they share."""

    def __init__(
        self, cohort: Cohort, folder: Path, settings: TrainingSettings, device: str, log: Log
    ) -> None:
        self.cohort, self.folder, self.settings = cohort, folder, settings
        self.device, self.log = device, log
        self.coarse_grid = CoarseGrid(cohort.metric_on(device), settings.spacing)
        self.histories: dict[str, dict[str, History]] = {}
        seed = settings.seed
        self.validation_pairs = choose_pairs(cohort.validation, 0, seed)
        targets = self._compute_targets(choose_pairs(cohort.training, settings.n_between, seed))
        self.momenta = momenta = list(targets.values())
        # With this scale the output of the networks has unit variance.
        self.output_scale = float(torch.stack(momenta).square().mean().sqrt())
        log(f'{settings.n_geodesics} random geodesics')
        synthetic = known_geodesics(
            cohort, momenta, self.coarse_grid, settings.n_geodesics, seed, folder / 'geodesics'
        )
        validation = matched_samples(cohort, self._compute_targets(self.validation_pairs))
        pairs = Groups(
            make_pairs(matched_samples(cohort, targets), settings.n_variants, seed),
            make_pairs(synthetic, settings.n_variants, seed + 1),
            make_pairs(validation, 0, seed),
        )
        specs = self._spec('prediction'), self._spec('correction')
        self.rollout = Rollout(pairs, self.coarse_grid, *specs, log)

    def _compute_targets(self, pairs: Sequence[BrainPair]) -> dict[BrainPair, Tensor]:
        folder = self.folder / 'teachers'
        return compute_targets(
            self.cohort, pairs, self.coarse_grid, DEFAULT_TERMS, folder, self.log
        )

    def train_prediction(self) -> Checkpoint:
        """Train the network that maps a pair of images to its momentum."""
        settings = self.settings
        checkpoint = self._new_checkpoint(self._spec('prediction'))
        self._train_supervised(
            'prediction', checkpoint, settings.prediction_brains, iterations=[0]
        )
        self._train_end_to_end('prediction', checkpoint, settings.prediction_pairs, iteration=0)
        self.rollout.add(checkpoint)
        return checkpoint

    def train_probabilistic(self) -> Checkpoint:
        """Train a prediction network with dropout."""
        spec = self._spec('prediction', dropout=PROBABILISTIC_DROPOUT)
        checkpoint = self._new_checkpoint(spec)
        self._train_supervised(
            'probabilistic', checkpoint, self.settings.probabilistic_brains, iterations=[0]
        )
        return checkpoint

    def calibrate(self, networks: Mapping[str, Checkpoint]) -> Checkpoint:
        """Return the probabilistic network with the scale of its uncertainty."""
        self.log('comparing the spread of drawn momenta with the error')
        probabilistic = networks['probabilistic']
        on_device = {name: network.to(self.device) for name, network in networks.items()}
        scale = calibrate(
            self.cohort, on_device, self.momenta, self.coarse_grid, self.settings.seed
        )
        return replace(probabilistic, spec=replace(probabilistic.spec, uncertainty_scale=scale))

    def train_correction(self) -> Checkpoint:
        """Train the network that corrects the prediction, and then its own results.

        Each round adds the iteration that the network of the round before has led to.
        """
        settings = self.settings
        checkpoint = self._new_checkpoint(self._spec('correction'))
        brains = settings.correction_brains // settings.rounds
        for number in range(1, settings.rounds + 1):
            self._train_supervised(
                f'correction-{number}', checkpoint, brains, iterations=range(1, number + 1)
            )
            self.rollout.add(checkpoint)
        self._train_end_to_end(
            'correction', checkpoint, settings.correction_pairs, iteration=settings.rounds
        )
        return checkpoint

    def _spec(self, role: str, *, dropout: float = 0.0) -> NetworkSpec:
        settings = self.settings
        return NetworkSpec(
            role=role,
            features=settings.features,
            gradient_channels=settings.gradient_channels,
            dropout=dropout,
            stride=0,
            spacing=settings.spacing,
            energy_spacing=settings.energy_spacing,
            energy_terms=DEFAULT_TERMS.to_dict(),
            n_iterations=1 if role == 'prediction' else settings.n_iterations,
            metric=self.coarse_grid.image_metric.parameters,
            output_scale=self.output_scale,
        )

    def _new_checkpoint(self, spec: NetworkSpec) -> Checkpoint:
        torch.manual_seed(self.settings.seed)
        return Checkpoint(spec.new_network(), spec)

    def _train_supervised(
        self, name: str, checkpoint: Checkpoint, brains: int, iterations: Sequence[int]
    ) -> None:
        """Train on known momenta, at some iterations of the rollout."""
        batch_size = self.settings.batch_size

        def make_objective() -> Objective[QuicksilverNet]:
            groups = [self.rollout.examples(iteration) for iteration in iterations]
            return SupervisedObjective(
                [example for group in groups for example in group.matched],
                [example for group in groups for example in group.synthetic],
                [example for group in groups for example in group.validation],
                batch_size,
                self.device,
            )

        steps = max(1, brains // batch_size)
        schedule = TrainingSchedule(steps, self.settings.learning_rate, self.settings.seed)
        self._train(name, 'supervised', checkpoint, schedule, make_objective)

    def _train_end_to_end(
        self, name: str, checkpoint: Checkpoint, n_pairs: int, iteration: int
    ) -> None:
        """Continue the training by the energy of the matching, at an iteration of the rollout."""
        if not n_pairs:
            return

        def make_objective() -> Objective[QuicksilverNet]:
            pairs = self.rollout.pairs(iteration)
            return EndToEndObjective(
                pairs.matched, pairs.validation, checkpoint.spec, self.coarse_grid
            )

        learning_rate = FINE_TUNING_RATE * self.settings.learning_rate
        schedule = TrainingSchedule(n_pairs, learning_rate, self.settings.seed)
        self._train(name, 'end-to-end', checkpoint, schedule, make_objective)

    def _train(
        self,
        name: str,
        stage: str,
        checkpoint: Checkpoint,
        schedule: TrainingSchedule,
        make_objective: Callable[[], Objective[QuicksilverNet]],
    ) -> None:
        """Train the network of a checkpoint in place, and keep its history."""
        network = checkpoint.network
        network.to(self.device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        trainer = Trainer(network, schedule, make_objective, self.folder, f'{name}-{stage}')
        trainer.run(self.log)
        self.histories.setdefault(name, {})[stage] = trainer.history

"""Training from a cohort to checkpoints, stage by stage, each kept on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from deepreg_wf.quicksilver.architecture import QuicksilverNet
from deepreg_wf.quicksilver.checkpoint import Checkpoint, Spec, save_checkpoint
from deepreg_wf.quicksilver.coarse_grid import Blocks
from deepreg_wf.training.calibration import calibrate
from deepreg_wf.training.cohort import Cohort
from deepreg_wf.training.end_to_end import EndToEnd
from deepreg_wf.training.examples import cases
from deepreg_wf.training.model_card import model_card
from deepreg_wf.training.rollout import Journey
from deepreg_wf.training.samples import known_geodesics, taught
from deepreg_wf.training.supervised import Imitation
from deepreg_wf.training.targets import Pair, choose_pairs, teach
from deepreg_wf.training.trainer import Fit, Objective, Plan
from deepreg_wf.training.validation import validate
from deepreg_wf.utils.atomic import atomic_write

FACTS, PANELS = 'training.json', 'panels.safetensors'
"""Files with all that there is to say of a training, and with pictures of a registration."""

PROBABILISTIC_DROPOUT = 0.2
"""That of the original."""

FINE_TUNING = 0.3
"""Learning rate of training end to end, in that of imitation."""

Say = Callable[[str], None]
Figures = list[dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """What is trained, and for how long.

    Attributes
    ----------
    features : int
        f of the networks.
    hints : bool
        Whether networks are shown what an optimiser would see; see `Scene`.
    spacing : float
        Blocks that they see, in mm.
    detail : float
        Voxels in mm that the gradient of the energy is taken at.
    rounds : int
        How often correction is trained on where it has led to.
    repeats : int
        How often it is applied in the end.
    prediction_brains, correction_brains, probabilistic_brains : int
        Brains that each network imitates teachers on; 0 leaves the network out.
    prediction_pairs, correction_pairs : int
        Pairs that each then registers end to end.
    between : int
        Matched pairs of two subjects, beside those with the template.
    geodesics : int
        Random known geodesics.
    variants : int
        How many times each pair is shown, with other contrast, bias field and noise.
    rate : float
        Learning rate.
    batch : int
        Brains a step.
    seed : int
    """

    features: int = 8
    hints: bool = True
    spacing: float = 4.0
    detail: float = 2.0
    rounds: int = 2
    repeats: int = 5
    prediction_brains: int = 6_000
    prediction_pairs: int = 0
    correction_brains: int = 4_000
    correction_pairs: int = 0
    probabilistic_brains: int = 600
    between: int = 20
    geodesics: int = 40
    variants: int = 3
    rate: float = 4e-3
    batch: int = 2
    seed: int = 0


def train(
    cohort: Cohort,
    folder: Path,
    settings: TrainingSettings,
    *,
    device: str = 'cpu',
    licence: str = '',
    say: Say = print,
) -> dict[str, Checkpoint]:
    """Train prediction, correction and probabilistic networks, or go on with it.

    Parameters
    ----------
    cohort : Cohort
    folder : Path
        Where everything is kept. A call that was cut off goes on from what it finds there.
    settings : TrainingSettings
    device : str
    licence : str
        Of the weights, for the model card.
    say : callable
        Takes lines of progress.

    Returns
    -------
    dict of str to Checkpoint
        By name: 'prediction', 'correction', 'probabilistic'; they are in `folder` too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    course = _Course(cohort, folder, settings, device, say)
    made = {'prediction': course.fit_prediction()}
    if settings.correction_brains:
        made['correction'] = course.fit_correction()
    if settings.probabilistic_brains:
        made['probabilistic'] = course.fit_probabilistic()
        made['probabilistic'] = course.calibrate(made)
    say('validating')
    figures, panels = validate(cohort, made, course.validation_pairs, device)
    with atomic_write(folder / PANELS) as temporary:
        temporary.write_bytes(save(panels))
    facts = {
        'source': cohort.source,
        'licence': licence,
        'training': list(cohort.training),
        'validation': list(cohort.validation),
        'settings': asdict(settings),
        'figures': figures,
        'histories': course.histories,
    }
    for name, text in {FACTS: json.dumps(facts, indent=2), 'README.md': model_card(facts)}.items():
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text)
    for name, checkpoint in made.items():
        card = {key: facts[key] for key in ('source', 'licence', 'training', 'validation')}
        card |= {'settings': facts['settings'], 'figures': figures[name]}
        made[name] = replace(checkpoint, card=card)
        save_checkpoint(made[name], folder / f'{name}.safetensors')
    return made


class _Course:
    """The stages, and the samples that they share."""

    def __init__(
        self, cohort: Cohort, folder: Path, settings: TrainingSettings, device: str, say: Say
    ) -> None:
        self.cohort, self.folder, self.settings = cohort, folder, settings
        self.device, self.say = device, say
        self.blocks = Blocks(cohort.metric_on(device), settings.spacing)
        self.histories: dict[str, dict[str, Figures]] = {}
        self.validation_pairs = choose_pairs(cohort.validation, 0, settings.seed)
        teachers = self._teach(choose_pairs(cohort.training, settings.between, settings.seed))
        self.momenta = momenta = list(teachers.values())
        self.scale = float(torch.stack(momenta).square().mean().sqrt())
        say(f'{settings.geodesics} random geodesics')
        folder = folder / 'geodesics'
        synthetic = known_geodesics(
            cohort, momenta, self.blocks, settings.geodesics, settings.seed, folder
        )
        validation = taught(cohort, self._teach(self.validation_pairs))
        start = (
            cases(taught(cohort, teachers), settings.variants, settings.seed),
            cases(synthetic, settings.variants, settings.seed + 1),
            cases(validation, 0, settings.seed),
        )
        specs = self._spec('prediction'), self._spec('correction')
        self.journey = Journey(start, self.blocks, *specs, say)

    def _teach(self, pairs: Sequence[Pair]) -> dict[Pair, Tensor]:
        return teach(self.cohort, pairs, self.blocks, self.folder / 'teachers', self.say)

    def fit_prediction(self) -> Checkpoint:
        """Fit the network that maps a pair of images to its momentum."""
        settings = self.settings
        made = self._new(self._spec('prediction'))
        made = self._imitate('prediction', made, settings.prediction_brains, stops=[0])
        made = self._tune('prediction', made, settings.prediction_pairs, stop=0)
        self.journey.go_on(made)
        return made

    def fit_probabilistic(self) -> Checkpoint:
        """Fit the same with dropout, which stays on in prediction."""
        made = self._new(self._spec('prediction', dropout=PROBABILISTIC_DROPOUT))
        brains = self.settings.probabilistic_brains
        return self._imitate('probabilistic', made, brains, stops=[0])

    def calibrate(self, made: Mapping[str, Checkpoint]) -> Checkpoint:
        """Let the probabilistic network know how large its spread has to be made."""
        self.say('comparing the spread of drawn momenta with the error')
        probabilistic = made['probabilistic']
        ready = {name: checkpoint.to(self.device) for name, checkpoint in made.items()}
        found = calibrate(self.cohort, ready, self.momenta, self.blocks, self.settings.seed)
        return replace(probabilistic, spec=replace(probabilistic.spec, inflation=found))

    def fit_correction(self) -> Checkpoint:
        """Fit the network that looks again, and again at what it has led to itself.

        Each round adds the stop that the network of the round before has led to.
        """
        settings = self.settings
        made = self._new(self._spec('correction'))
        brains = settings.correction_brains // settings.rounds
        for stop in range(1, settings.rounds + 1):
            stops = range(1, stop + 1)
            made = self._imitate(f'correction-{stop}', made, brains, stops=stops)
            self.journey.go_on(made)
        return self._tune('correction', made, settings.correction_pairs, stop=settings.rounds)

    def _spec(self, role: str, *, dropout: float = 0.0) -> Spec:
        settings = self.settings
        return Spec(
            role=role,
            features=settings.features,
            hints=settings.hints,
            dropout=dropout,
            stride=0,
            spacing=settings.spacing,
            detail=settings.detail,
            repeats=1 if role == 'prediction' else settings.repeats,
            metric=self.blocks.image.parameters,
            scale=self.scale,
        )

    def _new(self, spec: Spec) -> Checkpoint:
        torch.manual_seed(self.settings.seed)
        return Checkpoint(spec.new_network(), spec)

    def _imitate(
        self, name: str, checkpoint: Checkpoint, brains: int, stops: Sequence[int]
    ) -> Checkpoint:
        """Train on momenta that are known, at some stops of the journey."""
        batch = self.settings.batch

        def make_objective() -> Objective[QuicksilverNet]:
            shown = [self.journey.exercises(stop) for stop in stops]
            real, synthetic, validation = (
                [exercise for of_stop in shown for exercise in of_stop[group]]
                for group in range(3)
            )
            return Imitation(real, synthetic, validation, batch, self.device)

        plan = Plan(max(1, brains // batch), self.settings.rate, self.settings.seed)
        return self._fit(name, 'imitation', checkpoint, plan, make_objective)

    def _tune(self, name: str, checkpoint: Checkpoint, pairs: int, stop: int) -> Checkpoint:
        """Train on by the energy of the matching."""
        if not pairs:
            return checkpoint

        def make_objective() -> Objective[QuicksilverNet]:
            training, _, validation = self.journey.cases(stop)
            return EndToEnd(training, validation, checkpoint.spec, self.blocks)

        plan = Plan(pairs, FINE_TUNING * self.settings.rate, self.settings.seed)
        return self._fit(name, 'end-to-end', checkpoint, plan, make_objective)

    def _fit(
        self,
        name: str,
        stage: str,
        checkpoint: Checkpoint,
        plan: Plan,
        make_objective: Callable[[], Objective[QuicksilverNet]],
    ) -> Checkpoint:
        network = checkpoint.network
        network.to(self.device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        fit = Fit(network, plan, make_objective, self.folder, f'{name}-{stage}')
        fit.run(self.say)
        self.histories.setdefault(name, {})[stage] = fit.history
        return checkpoint

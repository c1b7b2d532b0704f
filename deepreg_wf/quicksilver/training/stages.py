"""Training from a cohort to checkpoints, stage by stage, each kept on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from ..blocks import Blocks
from ..prediction import apply_network, warp_back
from ..weights import Checkpoint, Spec, save_checkpoint
from .card import model_card
from .cohort import Cohort
from .end_to_end import EndToEnd, Task
from .fit import Fit, Objective, Plan
from .imitation import Imitation
from .samples import Sample, known_geodesics, taught
from .teachers import Pair, choose_pairs, teach
from .validation import validate

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
    forces : bool
        Whether networks are shown the first step of an optimiser; see `QuicksilverNet`.
    spacing : float
        Blocks that they see, in mm.
    stride : int
        Blocks from patch to patch in prediction, at most.
    prediction_patches, correction_patches, probabilistic_patches : int
        Patches that each network imitates teachers on; 0 leaves the network out.
    prediction_pairs, correction_pairs : int
        Pairs that each then registers end to end; a pair takes as long as some 80 patches.
    between : int
        Matched pairs of two subjects, beside those with the template.
    geodesics : int
        Random known geodesics.
    rate : float
        Learning rate.
    batch : int
        Patches a step.
    seed : int
    """

    features: int = 8
    forces: bool = True
    spacing: float = 4.0
    stride: int = 14
    prediction_patches: int = 24_000
    prediction_pairs: int = 0
    correction_patches: int = 24_000
    correction_pairs: int = 0
    probabilistic_patches: int = 16_000
    between: int = 20
    geodesics: int = 60
    rate: float = 4e-3
    batch: int = 32
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
    if settings.correction_patches:
        made['correction'] = course.fit_correction(made['prediction'])
    if settings.probabilistic_patches:
        made['probabilistic'] = course.fit_probabilistic()
    say('validating')
    figures, panels = validate(cohort, made, course.validation_pairs, device)
    (folder / PANELS).write_bytes(save(panels))
    facts = {
        'source': cohort.source,
        'licence': licence,
        'training': list(cohort.training),
        'validation': list(cohort.validation),
        'settings': asdict(settings),
        'figures': figures,
        'histories': course.histories,
    }
    (folder / FACTS).write_text(json.dumps(facts, indent=2))
    (folder / 'README.md').write_text(model_card(facts))
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
        self.metric = self.blocks.alone.image
        self.histories: dict[str, dict[str, Figures]] = {}
        self.validation_pairs = choose_pairs(cohort.validation, 0, settings.seed)
        pairs = choose_pairs(cohort.training, settings.between, settings.seed)
        teachers = self._teach(pairs)
        momenta = list(teachers.values())
        self.scale = _size(momenta)
        self.real = taught(cohort, teachers, self.blocks)
        say(f'{settings.geodesics} random geodesics')
        self.synthetic = known_geodesics(
            cohort, momenta, self.blocks, settings.geodesics, settings.seed, folder / 'geodesics'
        )
        self.validation = taught(cohort, self._teach(self.validation_pairs), self.blocks)

    def _teach(self, pairs: Sequence[Pair]) -> dict[Pair, Tensor]:
        return teach(self.cohort, pairs, self.blocks, self.folder / 'teachers', self.say)

    def fit_prediction(self) -> Checkpoint:
        """Fit the network that maps a pair of images to its momentum."""
        spec = self._spec('prediction')
        settings = self.settings
        checkpoint = self._imitate(
            'prediction',
            spec,
            settings.prediction_patches,
            (self.real, self.synthetic, self.validation),
        )
        tasks = [[_task(sample) for sample in group] for group in (self.real, self.validation)]
        return self._tune('prediction', checkpoint, settings.prediction_pairs, *tasks)

    def fit_probabilistic(self) -> Checkpoint:
        """Fit the same with dropout, which stays on in prediction."""
        spec = self._spec('prediction', dropout=PROBABILISTIC_DROPOUT)
        patches = self.settings.probabilistic_patches
        samples = (self.real, self.synthetic, self.validation)
        return self._imitate('probabilistic', spec, patches, samples)

    def fit_correction(self, prediction: Checkpoint) -> Checkpoint:
        """Fit the network that maps the fixed image, warped back, to what was missed."""
        self.say('shooting the predictions, for the correction to learn from')
        groups = (self.real, self.synthetic, self.validation)
        predicted = [[self._predicted(prediction, s) for s in group] for group in groups]
        real, synthetic, validation = (
            [_missed(*pair) for pair in zip(group, tasks, strict=True)]
            for group, tasks in zip(groups, predicted, strict=True)
        )
        spec = self._spec('correction', scale=_size([sample.whitened for sample in real]))
        settings = self.settings
        checkpoint = self._imitate(
            'correction', spec, settings.correction_patches, (real, synthetic, validation)
        )
        return self._tune(
            'correction', checkpoint, settings.correction_pairs, predicted[0], predicted[2]
        )

    def _predicted(self, prediction: Checkpoint, sample: Sample) -> Task:
        """What is left to do after a prediction."""
        spec = prediction.spec
        images = sample.images.to(self.device)
        whitened = spec.scale * apply_network(prediction.network, images, spec.stride)
        seen = warp_back(images, whitened, self.blocks)
        return Task(sample.images, seen.cpu(), whitened.cpu())

    def _spec(self, role: str, *, dropout: float = 0.0, scale: float | None = None) -> Spec:
        return Spec(
            role=role,
            features=self.settings.features,
            forces=self.settings.forces,
            dropout=dropout,
            stride=self.settings.stride,
            spacing=self.settings.spacing,
            metric=self.metric.parameters,
            scale=self.scale if scale is None else scale,
        )

    def _imitate(
        self,
        name: str,
        spec: Spec,
        patches: int,
        samples: tuple[Sequence[Sample], Sequence[Sample], Sequence[Sample]],
    ) -> Checkpoint:
        """Train a new network on momenta that are known."""
        torch.manual_seed(self.settings.seed)
        network = spec.new_network()
        batch = self.settings.batch
        objective = Imitation(*samples, spec.scale, spec.patch, batch, self.device)
        plan = Plan(max(1, patches // batch), self.settings.rate, self.settings.seed)
        return self._fit(name, 'imitation', Checkpoint(network, spec), plan, objective)

    def _tune(
        self,
        name: str,
        checkpoint: Checkpoint,
        pairs: int,
        training: Sequence[Task],
        validation: Sequence[Task],
    ) -> Checkpoint:
        """Train on by the energy of the matching."""
        if not pairs:
            return checkpoint
        objective = EndToEnd(training, validation, checkpoint.spec, self.metric)
        plan = Plan(pairs, FINE_TUNING * self.settings.rate, self.settings.seed)
        return self._fit(name, 'end-to-end', checkpoint, plan, objective)

    def _fit(
        self, name: str, stage: str, checkpoint: Checkpoint, plan: Plan, objective: Objective
    ) -> Checkpoint:
        network = checkpoint.network
        network.to(self.device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        fit = Fit(network, plan, objective, self.folder, f'{name}-{stage}')
        fit.run(self.say)
        self.histories.setdefault(name, {})[stage] = fit.history
        return checkpoint


def _task(sample: Sample) -> Task:
    """A prediction adds to nothing."""
    return Task(sample.images, sample.images, torch.zeros_like(sample.whitened))


def _missed(sample: Sample, task: Task) -> Sample:
    """What a correction should find, from the image warped back."""
    return Sample(task.seen, sample.whitened - task.start)


def _size(momenta: Sequence[Tensor]) -> float:
    """Root mean square."""
    return float(torch.stack(list(momenta)).square().mean().sqrt())

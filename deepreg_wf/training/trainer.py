"""Training loop that can be interrupted at any time and resumed with the same result."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import torch
from torch import Generator, Tensor, nn

from deepreg_wf.utils.atomic import atomic_write

N = TypeVar('N', bound=nn.Module)
N_contra = TypeVar('N_contra', bound=nn.Module, contravariant=True)

SAVE_INTERVAL = 120.0
"""Seconds between the states that an interrupted training resumes from."""

HISTORY_ENTRIES = 20
"""Entries in the history of a training."""

WARM_UP_SHARE = 0.05
"""Share of the steps over which the learning rate rises."""

MAX_GRADIENT_NORM = 1.0
"""Norm to which larger gradients are clipped."""


class Objective(Protocol[N_contra]):
    """Loss of a training and metric of its history."""

    def loss(self, network: N_contra, step: int, generator: Generator) -> tuple[Tensor, float]:
        """Compute the loss of a step, and the metric of that step for the history.

        Parameters
        ----------
        network : Module
            Network to train.
        step : int
            Number of the step.
        generator : Generator
            Source of all random numbers.

        Returns
        -------
        loss : Tensor, shape ()
        metric : float
        """

    def validate(self, network: N_contra) -> float:
        """Compute the metric on brains that are not trained on.

        Parameters
        ----------
        network : Module
            Network to validate.

        Returns
        -------
        float
        """


@dataclass(frozen=True)
class TrainingSchedule:
    """Number of steps and learning rate of a training.

    Attributes
    ----------
    steps : int
        Number of steps.
    learning_rate : float
        Largest learning rate of Adam. It rises linearly over `WARM_UP_SHARE` of the steps and
        falls along a cosine to zero.
    seed : int
        Seed of all random numbers.
    """

    steps: int
    learning_rate: float
    seed: int = 0

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of a step.

        Parameters
        ----------
        step : int
            Number of the step, from 0.

        Returns
        -------
        float
        """
        share = (step + 1) / self.steps
        if share < WARM_UP_SHARE:
            return self.learning_rate * share / WARM_UP_SHARE
        angle = math.pi * (share - WARM_UP_SHARE) / (1 - WARM_UP_SHARE)
        return self.learning_rate * (1 + math.cos(angle)) / 2


@dataclass
class Trainer(Generic[N]):
    """Training of a network, with its state on disk.

    Attributes
    ----------
    network : Module
        Network to train.
    schedule : TrainingSchedule
        Number of steps and learning rate.
    make_objective : callable
        Function that returns the objective; not called if the training is complete.
    folder : Path
        Folder of the state and of the history.
    name : str
        Name of the training and of its files.
    history : list of dict
        Step, and metric in training and validation, at regular intervals.
    """

    network: N
    schedule: TrainingSchedule
    make_objective: Callable[[], Objective[N]]
    folder: Path
    name: str
    history: list[dict[str, float]] = field(default_factory=list)
    _metrics: list[float] = field(default_factory=list)

    def run(self, log: Callable[[str], None]) -> None:
        """Train to the end of the schedule, from where an earlier call stopped.

        Parameters
        ----------
        log : callable
            Function that takes a line of progress.
        """
        optimiser = torch.optim.Adam(self.network.parameters())
        step = self._resume(optimiser)
        if step < self.schedule.steps:
            self._run_from(step, optimiser, log)
        self.network.eval()

    def _run_from(
        self, step: int, optimiser: torch.optim.Optimizer, log: Callable[[str], None]
    ) -> None:
        objective = self.make_objective()
        interval = max(1, self.schedule.steps // HISTORY_ENTRIES)
        saved = time.monotonic()
        while step < self.schedule.steps:
            self._metrics.append(self._step(objective, step, optimiser))
            step += 1
            if step % interval == 0 or step == self.schedule.steps:
                self._validate(objective, step, log)
            if time.monotonic() - saved > SAVE_INTERVAL or step == self.schedule.steps:
                self._save(step, optimiser)
                saved = time.monotonic()

    def _step(self, objective: Objective[N], step: int, optimiser: torch.optim.Optimizer) -> float:
        """Make one step and return its metric."""
        # Random numbers depend on the number of the step alone, so that a resumed training gives
        # the same network as an uninterrupted one.
        seed = self.schedule.seed * 1_000_003 + step
        torch.manual_seed(seed)  # for the dropout
        for group in optimiser.param_groups:
            group['lr'] = self.schedule.learning_rate_at(step)
        self.network.train()
        optimiser.zero_grad(set_to_none=True)
        loss, metric = objective.loss(self.network, step, Generator().manual_seed(seed))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), MAX_GRADIENT_NORM)
        optimiser.step()
        return metric

    def _validate(self, objective: Objective[N], step: int, log: Callable[[str], None]) -> None:
        """Add an entry to the history."""
        self.network.eval()
        with torch.no_grad():
            validation = objective.validate(self.network)
        training = sum(self._metrics) / len(self._metrics)
        self._metrics.clear()
        self.history.append({'step': step, 'training': training, 'validation': validation})
        log(
            f'{self.name}: step {step} of {self.schedule.steps}, error {training:.3f} in '
            f'training, {validation:.3f} in validation'
        )

    @property
    def _state_file(self) -> Path:
        return self.folder / f'{self.name}.state.pt'

    def _save(self, step: int, optimiser: torch.optim.Optimizer) -> None:
        state = {
            'step': step,
            'schedule': asdict(self.schedule),
            'network': self.network.state_dict(),
            'optimiser': optimiser.state_dict(),
            'history': self.history,
            'metrics': self._metrics,
        }
        # torch reports a full disk as a RuntimeError without a reason; Python gives the reason.
        buffer = BytesIO()
        torch.save(state, buffer)
        with atomic_write(self._state_file) as temporary:
            temporary.write_bytes(buffer.getbuffer())
        with atomic_write(self.folder / f'{self.name}.history.json') as temporary:
            temporary.write_text(json.dumps(self.history))

    def _resume(self, optimiser: torch.optim.Optimizer) -> int:
        """Restore the state of an earlier call with the same schedule; return its step."""
        if not self._state_file.exists():
            return 0
        state = torch.load(self._state_file, map_location='cpu', weights_only=True)
        if state.get('schedule') != asdict(self.schedule):
            return 0
        self.network.load_state_dict(state['network'])
        optimiser.load_state_dict(state['optimiser'])
        self.history[:], self._metrics[:] = state['history'], state['metrics']
        return int(state['step'])

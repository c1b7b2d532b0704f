"""The loop that fits a network; it can be cut off anywhere and goes on from there."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import torch
from torch import Generator, Tensor, nn

from deepreg_wf.utils.atomic import atomic_write

N = TypeVar('N', bound=nn.Module)
N_contra = TypeVar('N_contra', bound=nn.Module, contravariant=True)

SAVE_EVERY = 120.0
"""Seconds between the states that an interrupted training goes on from."""

REPORTS = 20
"""Entries of the history of a training."""

WARM_UP = 0.05
"""Share of the steps over which the learning rate rises."""

LARGEST_GRADIENT = 1.0
"""Norm that gradients are cut to."""


class Objective(Protocol[N_contra]):
    """What a network is fitted to."""

    def loss(self, network: N_contra, step: int, generator: Generator) -> tuple[Tensor, float]:
        """Loss of a step, and the figure of it that goes into the history.

        All that is random hangs on the generator and the step.
        """

    def validate(self, network: N_contra) -> float:
        """The figure of the history on brains that are not trained on."""


@dataclass(frozen=True)
class Plan:
    """How to fit a network.

    Attributes
    ----------
    steps : int
    rate : float
        Largest learning rate of Adam; it rises, then falls along a cosine to zero.
    seed : int
    """

    steps: int
    rate: float
    seed: int = 0

    def rate_at(self, step: int) -> float:
        """Learning rate of a step."""
        share = (step + 1) / self.steps
        if share < WARM_UP:
            return self.rate * share / WARM_UP
        return self.rate * (1 + math.cos(math.pi * (share - WARM_UP) / (1 - WARM_UP))) / 2


@dataclass
class Fit(Generic[N]):
    """A training on its way.

    Attributes
    ----------
    network : Module
    plan : Plan
    make_objective : callable
        Gives the objective; not called where there is nothing left to do.
    folder : Path
        Where the state is kept.
    name : str
        Of this training, and of its files.
    history : list of dict
        Figures so far.
    """

    network: N
    plan: Plan
    make_objective: Callable[[], Objective[N]]
    folder: Path
    name: str
    history: list[dict[str, float]] = field(default_factory=list)
    _figures: list[float] = field(default_factory=list)

    def run(self, say: Callable[[str], None]) -> None:
        """Train to the end of the plan, from where an earlier call stopped."""
        optimiser = torch.optim.Adam(self.network.parameters())
        step = self._resume(optimiser)
        if step < self.plan.steps:
            self._run_from(step, optimiser, say)
        self.network.eval()

    def _run_from(
        self, step: int, optimiser: torch.optim.Optimizer, say: Callable[[str], None]
    ) -> None:
        objective = self.make_objective()
        every = max(1, self.plan.steps // REPORTS)
        saved = time.monotonic()
        while step < self.plan.steps:
            self._figures.append(self._step(objective, step, optimiser))
            step += 1
            if step % every == 0 or step == self.plan.steps:
                self._report(objective, step, say)
            if time.monotonic() - saved > SAVE_EVERY or step == self.plan.steps:
                self._save(step, optimiser)
                saved = time.monotonic()

    def _step(self, objective: Objective[N], step: int, optimiser: torch.optim.Optimizer) -> float:
        # Everything random hangs on the step alone, so that a resumed training is the same one.
        seed = self.plan.seed * 1_000_003 + step
        torch.manual_seed(seed)  # dropout
        for group in optimiser.param_groups:
            group['lr'] = self.plan.rate_at(step)
        self.network.train()
        optimiser.zero_grad(set_to_none=True)
        loss, figure = objective.loss(self.network, step, Generator().manual_seed(seed))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), LARGEST_GRADIENT)
        optimiser.step()
        return figure

    def _report(self, objective: Objective[N], step: int, say: Callable[[str], None]) -> None:
        self.network.eval()
        with torch.no_grad():
            held_back = objective.validate(self.network)
        training = sum(self._figures) / len(self._figures)
        self._figures.clear()
        self.history.append({'step': step, 'training': training, 'validation': held_back})
        say(
            f'{self.name}: step {step} of {self.plan.steps}, missed {training:.3f} in training, '
            f'{held_back:.3f} held back'
        )

    @property
    def _state(self) -> Path:
        return self.folder / f'{self.name}.state.pt'

    def _save(self, step: int, optimiser: torch.optim.Optimizer) -> None:
        state = {
            'step': step,
            'plan': asdict(self.plan),
            'network': self.network.state_dict(),
            'optimiser': optimiser.state_dict(),
            'history': self.history,
            'figures': self._figures,
        }
        with atomic_write(self._state) as temporary:
            torch.save(state, temporary)
        with atomic_write(self.folder / f'{self.name}.history.json') as temporary:
            temporary.write_text(json.dumps(self.history))

    def _resume(self, optimiser: torch.optim.Optimizer) -> int:
        """Take up the state of an earlier call that had the same plan; return its step."""
        if not self._state.exists():
            return 0
        state = torch.load(self._state, map_location='cpu', weights_only=True)
        if state['plan'] != asdict(self.plan):
            return 0
        self.network.load_state_dict(state['network'])
        optimiser.load_state_dict(state['optimiser'])
        self.history[:], self._figures[:] = state['history'], state['figures']
        return int(state['step'])

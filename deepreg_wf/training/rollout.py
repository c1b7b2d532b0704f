"""The way of pairs from the identity towards their momenta, stop by stop."""

from __future__ import annotations

import copy
from collections.abc import Callable

from deepreg_wf.quicksilver.checkpoint import Checkpoint, Spec
from deepreg_wf.quicksilver.coarse_grid import Blocks
from deepreg_wf.training.examples import Case, Exercise, lead, show

Cases = tuple[list[Case], list[Case], list[Case]]
Exercises = tuple[list[Exercise], list[Exercise], list[Exercise]]
"""Of matched pairs, of known geodesics, and held back."""


class Journey:
    """Pairs that are led on by one network after another, as far as anyone asks.

    At the first stop, the identity, they are shown as prediction sees them; from then on as
    correction does. What has been shown once is kept.

    Parameters
    ----------
    cases : Cases
        At the identity.
    blocks : Blocks
    prediction, correction : Spec
    say : callable
        Takes lines of progress.
    """

    def __init__(
        self,
        cases: Cases,
        blocks: Blocks,
        prediction: Spec,
        correction: Spec,
        say: Callable[[str], None],
    ) -> None:
        self._start, self._blocks, self._say = cases, blocks, say
        self._specs = (prediction, correction)
        self._networks: list[Checkpoint] = []
        self._shown: dict[int, Exercises] = {}

    def go_on(self, checkpoint: Checkpoint) -> None:
        """Let a network, as it is now, lead on from the last stop."""
        self._networks.append(copy.deepcopy(checkpoint))

    def cases(self, stop: int) -> Cases:
        """Where all pairs are at a stop."""
        if not stop:
            return self._start
        network = self._networks[stop - 1]
        real, synthetic, validation = (lead(g, network) for g in self.exercises(stop - 1))
        return real, synthetic, validation

    def exercises(self, stop: int) -> Exercises:
        """What there is to see and to answer at a stop."""
        if stop not in self._shown:
            spec = self._specs[min(stop, 1)]
            cases = self.cases(stop)
            self._say(f'showing {sum(map(len, cases))} pairs to the networks')
            real, synthetic, validation = (show(group, self._blocks, spec) for group in cases)
            self._shown[stop] = real, synthetic, validation
        return self._shown[stop]

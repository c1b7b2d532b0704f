"""Rollout: the momenta that successive networks reach, as training data of the next network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from deepreg_wf.quicksilver.checkpoint import Checkpoint, NetworkSpec
from deepreg_wf.quicksilver.coarse_grid import CoarseGrid
from deepreg_wf.training.examples import TrainingExample, TrainingPair, advance, make_examples

T = TypeVar('T')
U = TypeVar('U')


@dataclass(frozen=True)
class Groups(Generic[T]):
    """Training pairs, or examples, by their origin.

    Attributes
    ----------
    matched : sequence
        Pairs of brains with momenta found by matching.
    synthetic : sequence
        Brains deformed by known geodesics.
    validation : sequence
        Pairs of brains for validation.
    """

    matched: Sequence[T]
    synthetic: Sequence[T]
    validation: Sequence[T]

    def map(self, function: Callable[[Sequence[T]], Sequence[U]]) -> Groups[U]:
        """Apply a function to each group.

        Parameters
        ----------
        function : callable
            Function from one sequence to another.

        Returns
        -------
        Groups
        """
        return Groups(function(self.matched), function(self.synthetic), function(self.validation))

    def __len__(self) -> int:
        return len(self.matched) + len(self.synthetic) + len(self.validation)


class Rollout:
    """Sequence of updates of training pairs, each by one more network.

    At iteration 0 the pairs are at the identity and their examples are for the prediction
    network; at iteration k they are where the first k networks have led, and their examples are
    for the correction network. A correction network is thus trained on the inputs that it
    meets in use, which contain the errors of the networks before it. Examples are computed when
    they are first needed and then kept.

    Parameters
    ----------
    pairs : Groups of TrainingPair
        Pairs at the identity.
    coarse_grid : CoarseGrid
        Coarse grid of the networks over the images.
    prediction, correction : NetworkSpec
        Specifications of the networks.
    log : callable
        Function that takes a line of progress.
    """

    def __init__(
        self,
        pairs: Groups[TrainingPair],
        coarse_grid: CoarseGrid,
        prediction: NetworkSpec,
        correction: NetworkSpec,
        log: Callable[[str], None],
    ) -> None:
        self._start, self._coarse_grid, self._log = pairs, coarse_grid, log
        self._prediction, self._correction = prediction, correction
        self._networks: list[Checkpoint] = []
        self._examples: dict[int, Groups[TrainingExample]] = {}

    def add(self, checkpoint: Checkpoint) -> None:
        """Append an iteration by a copy of a network in its present state.

        Parameters
        ----------
        checkpoint : Checkpoint
            Network that is applied after those before it.
        """
        self._networks.append(copy.deepcopy(checkpoint))

    def pairs(self, iteration: int) -> Groups[TrainingPair]:
        """Return the pairs at the momenta that an iteration has reached.

        Parameters
        ----------
        iteration : int
            Number of networks that have been applied.

        Returns
        -------
        Groups of TrainingPair
        """
        if not iteration:
            return self._start
        network = self._networks[iteration - 1]
        return self.examples(iteration - 1).map(lambda group: advance(group, network))

    def examples(self, iteration: int) -> Groups[TrainingExample]:
        """Return the examples at the momenta that an iteration has reached.

        Parameters
        ----------
        iteration : int
            Number of networks that have been applied.

        Returns
        -------
        Groups of TrainingExample
        """
        if iteration not in self._examples:
            spec = self._correction if iteration else self._prediction
            pairs = self.pairs(iteration)
            self._log(f'computing the network input of {len(pairs)} pairs')
            self._examples[iteration] = pairs.map(
                lambda group: make_examples(group, self._coarse_grid, spec)
            )
        return self._examples[iteration]

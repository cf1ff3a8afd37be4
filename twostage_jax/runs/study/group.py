"""Group of arms that are computed together, and the input that all groups share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from twostage_jax.runs.own_code import call_named, find_function
from twostage_jax.runs.study.arms import Arm
from twostage_jax.runs.study.draws import Draws
from twostage_jax.runs.study.parallel import Parallel
from twostage_jax.runs.study.solved import Numbers
from twostage_jax.runs.study.sources import Source
from twostage_jax.stages.families import HEADS
from twostage_jax.stages.signature import check_head
from twostage_jax.stages.stage import Head


class Choice(NamedTuple):
    """Chosen strengths (or quarters of the training) `[A, R]`, and the method of the choice."""

    values: np.ndarray
    how: str


@dataclass(frozen=True, eq=False)
class Work:
    """Input that all groups share.

    Attributes:
        source: data, encoder and features.
        parallel: compiles and runs.
        seed: seed of the study.
        counts: numbers of labels.
        draws: number of draws.
        select_on_validation: True to choose on the validation split.
    """

    source: Source
    parallel: Parallel
    seed: int
    counts: tuple[int, ...]
    draws: int
    select_on_validation: bool

    def most_draws(self, count: int) -> int:
        """Return the number of draws for a number of labels: one if all examples are labelled."""
        return 1 if count == self.source.labelled else self.draws

    def drawn(self, draws: Draws) -> Draws:
        """Return the draws that an arm without a budget uses."""
        return draws.first(self.most_draws(draws.count))


class Group(NamedTuple):
    """Arms with one head on features of one width, or a network that is trained end to end.

    Attributes:
        name: name of the group, for its cells.
        arms: the A arms.
        choose: chooses strengths for every arm and draw, while the test split is locked.
        predict: fits every arm and draw; returns `predicted` int32 `[A, R, T]`.
    """

    name: str
    arms: tuple[Arm, ...]
    choose: Callable[[Draws], Choice]
    predict: Callable[[Draws, Choice], dict[str, np.ndarray]]


def make_head_function(protocol: str, work: Work) -> Callable[[Numbers], Head]:
    """Make `numbers -> Head` of a protocol, with its default options."""
    function = find_function(protocol, HEADS)
    offered = {"classes": len(work.source.classes)}

    def make(numbers: Numbers) -> Head:
        return check_head(call_named(protocol, function, offered, dict(numbers)), protocol)

    return make

"""Trials of a run: members with their own seeds, at each point of a sweep.

A trial is one training of a head. Trials that differ only in head settings share one encoder.
`--share encoder` makes all trials share it.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from twostage_jax.config.schema import Config
from twostage_jax.config.sweep import grid, point_name, swept
from twostage_jax.runs.build import OPTIMISER
from twostage_jax.runs.networks import Networks
from twostage_jax.stages.stage import Key, new_key

# Folded into the key of the seed: each purpose has random numbers of its own, and adding a purpose
# changes no other.
STAGES = {"pretrain": 1, "head": 2, "noise": 3}
INITIAL = 0  # folded into the key of the stage
TRAINING = 1


class Trial(NamedTuple):
    """One training of a head.

    Attributes:
        member: number from 0.
        seed: seed of the single run that equals this trial.
        point: number of its point in the sweep.
        values: swept values at that point.
        encoder: number of its encoder.
    """

    member: int
    seed: int
    point: int
    values: dict[str, float]
    encoder: int

    @property
    def name(self) -> str:
        """Name in messages and reports."""
        return f"member {self.member} (seed {self.seed}){_at(self.values)}"


class Pretraining(NamedTuple):
    """One training of an encoder: its seed, and the swept values of stage 1."""

    seed: int
    values: dict[str, float]

    @property
    def name(self) -> str:
        """Name in messages and reports."""
        return f"encoder of seed {self.seed}{_at(self.values)}"


def _at(values: Mapping[str, float]) -> str:
    return f" at {point_name(values)}" if values else ""


class Trials(NamedTuple):
    """All trainings of a run, point by point, and within a point member by member.

    Attributes:
        heads: trainings of heads, R of them.
        encoders: trainings of encoders, E of them.
        tuned: True if stage 2 trains the encoder, so that each trial has its own there.
    """

    heads: tuple[Trial, ...]
    encoders: tuple[Pretraining, ...]
    tuned: bool = False

    def trainings(self, stage: str) -> tuple[Trial, ...] | tuple[Pretraining, ...]:
        """Return the trainings of a stage."""
        return self.encoders if stage == "pretrain" else self.heads

    def names(self, stage: str) -> list[str]:
        """Return the names of the trainings of a stage."""
        return [training.name for training in self.trainings(stage)]

    def keys(self, stage: str, purpose: int) -> Key:
        """Return a key for each training of a stage, equal to that of the run with its seed."""
        return jnp.stack([stage_key(x.seed, stage, purpose) for x in self.trainings(stage)])

    def numbers(self, stage: str, defaults: Mapping[str, float]) -> dict[str, np.ndarray]:
        """Return the swept numbers of a stage, one value for each training.

        Args:
            stage: `pretrain` or `head`.
            defaults: numbers of its function; an int as default asks for int32, else float32.
        """
        trainings = self.trainings(stage)
        numbers = {}
        for name in trainings[0].values:
            prefix, _, field = name.partition(".")
            if prefix != stage:
                continue
            field = field.replace("-", "_")
            # A number of neighbours is whole, in a traced program too.
            dtype = np.int32 if isinstance(defaults.get(field), int) else np.float32
            numbers[field] = np.array([x.values[name] for x in trainings], dtype)
        return numbers

    @property
    def encoder_numbers(self) -> np.ndarray:
        """Number of each trial's encoder, int `[R]`."""
        return np.array([trial.encoder for trial in self.heads])


def own_numbers(trials: Trials, networks: Networks) -> dict[str, np.ndarray]:
    """Return the swept numbers that the head itself takes, without those of the optimiser."""
    numbers = trials.numbers("head", networks.head_numbers)
    return {name: values for name, values in numbers.items() if name not in OPTIMISER}


def first_numbers(numbers: Mapping[str, np.ndarray]) -> dict[str, np.generic]:
    """Return the numbers of the first training."""
    return {name: values[0] for name, values in numbers.items()}


def stage_key(seed: int, stage: str, purpose: int) -> Key:
    """Return the key for the initial values or for the training of a stage."""
    key = jax.random.fold_in(new_key(seed), STAGES[stage])
    return jax.random.fold_in(key, purpose)


def make_trials(config: Config) -> Trials:
    """List the trials of a resolved config."""
    one_encoder = "encoder" in config.share or config.encoder_run is not None
    encoders: dict[tuple, int] = {}
    pretrainings: list[Pretraining] = []
    heads = []
    for point, values in enumerate(grid(swept(config))):
        stage_1 = {name: x for name, x in values.items() if name.startswith("pretrain.")}
        for member in range(config.members):
            # Member m is the single run with seed + m.
            seed = config.seed + member
            encoder_seed = config.seed if one_encoder else seed
            key = (encoder_seed, *stage_1.items())
            if key not in encoders:
                encoders[key] = len(encoders)
                pretrainings.append(Pretraining(encoder_seed, stage_1))
            heads.append(Trial(member, seed, point, values, encoders[key]))
    return Trials(tuple(heads), tuple(pretrainings))

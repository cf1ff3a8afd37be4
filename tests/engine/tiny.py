"""Tiny data, stages and compiled programs for the tests of the engine."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

import twostage_jax as ts
from twostage_jax.engine.compile import compile_all
from twostage_jax.engine.loop import Progress, fit, fit_trials
from twostage_jax.engine.members import (
    Axes,
    Numbers,
    Recipe,
    StagePrograms,
    TrialData,
    lower_stage,
    start_states,
)
from twostage_jax.engine.placement import Placement, make_mesh
from twostage_jax.engine.state import TrainState
from twostage_jax.stages.stage import Key
from twostage_jax.trees import PyTree, shapes_of

ENCODER = ts.MLP((8, 5))
DECODER = ts.MLP((8, 16))
HEAD = ts.MLP((6, 3))
CLASSIFIER = ts.classifier(ENCODER, HEAD)
AUTOENCODER = ts.autoencoder(ENCODER, DECODER)
# The host loop with the shortest calls: one step each.
fit_step_by_step = partial(fit, seconds_per_call=0)


def make_split(count: int, shape: tuple[int, ...] = (4, 4, 1)) -> dict[str, np.ndarray]:
    """Images of three classes that differ in brightness."""
    random = np.random.RandomState(0)
    label = np.arange(count, dtype=np.int32) % 3
    brightness = label.reshape(-1, *[1] * len(shape))
    image = random.randint(0, 80, (count, *shape)) + 80 * brightness
    return {"image": image.astype(np.uint8), "label": label}


SPLIT = make_split(70)  # in batches of 32: two full ones and a remainder of 6


def member_keys(seed: int, count: int) -> Key:
    """Keys of the first members; the same for any number of members."""
    return jax.random.split(jax.random.key(seed), 16)[:count]


class Trial(NamedTuple):
    """Everything that one training is made from."""

    recipe: Recipe
    data: TrialData
    batch_size: int = 32
    numbers: Numbers = {}
    pretrained: Mapping[str, PyTree] = {}
    state_axes: PyTree = 0
    order: int | None = 0
    validation: TrialData | None = None

    def few(self) -> dict[str, np.ndarray]:
        """Examples for `stage.init`."""
        rows = self.data.rows(np.array([0]))
        return {n: x[0][:2] if n in self.data.per_trial else x[:2] for n, x in rows.items()}


def plain(stage: ts.Stage, split: Mapping[str, np.ndarray] = SPLIT, rate: float = 1e-2) -> Trial:
    """A stage on shared data, trained with Adam."""
    return Trial(lambda _: (stage, ts.adam(rate)), TrialData(split, {}))


def compile_members(
    trial: Trial, members: int, chunk: int, mesh: Mapping[str, int] | None = None
) -> StagePrograms:
    """Programs of a stage for so many members, `chunk` at a time."""
    data = trial.data
    rows = shapes_of(data.rows(np.array([0])))
    shapes = {
        name: jax.ShapeDtypeStruct(x.shape[1:], x.dtype) if name in data.per_trial else x
        for name, x in rows.items()
    }
    validation = trial.validation
    data_axes = {name: 0 if name in data.per_trial else None for name in shapes}
    lowered = lower_stage(
        trial.recipe,
        {name: values[0] for name, values in trial.numbers.items()},
        trial.few(),
        shapes_of(dict(trial.pretrained)),
        shapes,
        trial.batch_size,
        Axes(trial.state_axes, data_axes, trial.order, validation.axes if validation else {}),
        Placement(make_mesh(members, mesh), members, chunk),
        validation.shapes if validation else None,
    )
    return compile_all(lowered)


class Training:
    """Members in training: `start` makes their states, `go` trains them."""

    def __init__(self, trial: Trial, programs: StagePrograms) -> None:
        members = programs.placement.members
        self.trial = trial
        self.programs = programs
        self.numbers = {name: values[:members] for name, values in trial.numbers.items()}
        self.start_keys = member_keys(0, members)
        self.keys = member_keys(1, members)

    def start(self) -> TrainState:
        """States before the first step."""
        few = self.trial.few()
        pretrained = dict(self.trial.pretrained)
        return start_states(self.programs, self.numbers, self.start_keys, few, pretrained)

    def go(
        self,
        epochs: int,
        state: TrainState | None = None,
        sums: Mapping[str, np.ndarray] | None = None,
        wanted: Callable[[], bool] = lambda: True,
        fit: Callable[..., Iterator[Progress]] = fit,
    ) -> Iterator[Progress]:
        """Positions until `epochs` are complete."""
        return fit_trials(
            self.programs,
            self.start() if state is None else state,
            self.trial.data,
            self.numbers,
            self.keys,
            epochs,
            self.programs.zeros if sums is None else sums,
            wanted,
            fit,
            self.trial.validation,
        )


def train_members(
    trial: Trial,
    members: int,
    chunk: int,
    epochs: int = 2,
    mesh: Mapping[str, int] | None = None,
    **options,
) -> tuple[TrainState, dict[str, np.ndarray]]:
    """Final states of all members, and their metrics `[M, epochs]`."""
    training = Training(trial, compile_members(trial, members, chunk, mesh))
    return finish(training.go(epochs, **options))


def finish(positions: Iterator[Progress]) -> tuple[TrainState, dict[str, np.ndarray]]:
    """The last state of a training, and the metrics `[M, epochs]` of all epochs."""
    means = []
    state = None
    for progress in positions:
        state = progress.state
        if progress.metrics is not None:
            means.append(progress.metrics)
    assert state is not None
    return state, {name: np.stack([x[name] for x in means], axis=1) for name in means[0]}


class Alone:
    """Single trainings with `make_train`, as a user would call it; compiled once."""

    def __init__(self, trial: Trial, epochs: int = 2) -> None:
        self.trial = trial

        def train(numbers: Numbers, state: TrainState, data, key: Key, order):
            stage, tx = trial.recipe(numbers)
            return ts.make_train(stage, tx, trial.batch_size, epochs)(state, data, key, order)

        self._train = jax.jit(train, compiler_options=ts.compiler_options())

    def __call__(
        self, member: int, order: np.ndarray | None = None
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """State of one member, and its metrics `[epochs]`."""
        trial = self.trial
        numbers = {name: values[member] for name, values in trial.numbers.items()}
        rows = trial.data.rows(np.array([member]))
        data = {n: x[0] if n in trial.data.per_trial else x for n, x in rows.items()}
        first = member_keys(0, member + 1)[member]
        stage, tx = trial.recipe(numbers)
        state = ts.init_state(stage, tx, first, trial.few(), **trial.pretrained)
        return self._train(numbers, state, data, member_keys(1, member + 1)[member], order)


def select_member(tree: PyTree, member: int) -> PyTree:
    """One member of a tree `[M, ...]`."""
    return jax.tree.map(lambda leaf: leaf[member], tree)

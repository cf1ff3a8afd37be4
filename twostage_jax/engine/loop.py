"""Host loop over compiled epochs, in short calls so that signals are handled between them.

The states of all members are on the host and move to the devices one chunk per epoch, so a chunk
can be small enough for the cache. If there is one chunk, its state stays on the devices. Each
member's position is in its own state, so a training that was cut anywhere continues from there.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from twostage_jax.engine.epoch import Epoch
from twostage_jax.engine.measure import Measurement
from twostage_jax.engine.members import Numbers, StagePrograms, TrialData, finished_params, repeat
from twostage_jax.engine.placement import (
    Placement,
    axis_map,
    padded,
    put,
    put_everywhere,
    take,
)
from twostage_jax.engine.state import TrainState
from twostage_jax.stages.stage import Key
from twostage_jax.trees import PyTree


class Progress(NamedTuple):
    """Position of a training between two calls to the device.

    Attributes:
        state: training state. From `fit` it is on the device, and its buffers are given up when the
            next position is asked for. From `fit_trials` it is on the host, or None if unwanted.
        sums: sums of the metrics of the unfinished epoch; zeros between epochs.
        epoch: completed epochs.
        fraction: completed epochs, including the part of the epoch in progress.
        metrics: on the host, for the epoch that has just been completed; None within an epoch.
        seconds: time spent on this epoch so far, in this process, without validation.
        validation: metrics `[M]` on the validation split after a completed epoch, on the host, and
            figures of the encoder if they are watched; empty within an epoch.
    """

    state: TrainState | None
    sums: Mapping[str, PyTree]
    epoch: int
    fraction: float
    metrics: dict[str, np.ndarray] | None
    seconds: float
    validation: Mapping[str, np.ndarray] = {}


def fit(
    epoch: Epoch,
    state: TrainState,
    data: Mapping[str, jax.Array],
    key: Key,
    epochs: int,
    sums: Mapping[str, PyTree],
    put: Callable[[PyTree], PyTree],
    seconds_per_call: float = 0.5,
) -> Iterator[Progress]:
    """Train until `epochs` are complete, in calls of about `seconds_per_call`, and yield between.

    The position at which an epoch is cut does not change a bit: calls of any length run the same
    compiled loop.

    Args:
        epoch: compiled functions of an epoch.
        state: initial state, possibly within an epoch; it stays the caller's.
        data: the split, on the device.
        key: key of the stage.
        epochs: number of epochs that are complete at the end.
        sums: metrics of the unfinished epoch.
        put: moves arrays from the host to the devices.
        seconds_per_call: longest time that the host should wait for the device.
    """
    # Compiled calls may take over the buffers of their arguments.
    copy = partial(jax.device_put, may_alias=False)
    state = copy(state)
    totals = copy(sums)
    done, start = divmod(int(np.max(jax.device_get(state.step))), epoch.steps)
    # The first call is short: nobody knows yet how long a step takes.
    length = 1
    current = _start_epoch(epoch, key, put, done) if done < epochs else None
    while current:
        began = time.perf_counter()
        # Sorting takes a while, so the next order is made while this epoch trains.
        upcoming = _start_epoch(epoch, key, put, done + 1) if done + 1 < epochs else None
        while start < epoch.full:
            called = time.perf_counter()
            stop = min(epoch.full, start + length)
            bounds = put((np.int32(start), np.int32(stop)))
            state, totals = epoch.advance(state, totals, data, *current, *bounds)
            # Waiting measures the call, and gives signals a moment to take effect.
            jax.block_until_ready(totals)
            rate = (stop - start) / (time.perf_counter() - called)
            # At most twice as many steps as the call that was just measured.
            length = max(1, min(2 * length, int(rate * seconds_per_call)))
            start = stop
            if start < epoch.steps:
                fraction = done + start / epoch.steps
                yield Progress(state, totals, done, fraction, None, time.perf_counter() - began)
        state, means = epoch.finish(state, totals, data, *current)
        metrics = jax.device_get(means)
        totals = copy(put(epoch.zeros))
        done += 1
        start = 0
        current = upcoming
        yield Progress(state, totals, done, done, metrics, time.perf_counter() - began)


def _start_epoch(
    epoch: Epoch, key: Key, put: Callable[[PyTree], PyTree], number: int
) -> tuple[jax.Array, Key]:
    """Return the order of epoch `number`, and its key."""
    return epoch.shuffle(key, put(np.int32(number)))


def fit_trials(
    programs: StagePrograms,
    state: TrainState,
    data: TrialData,
    numbers: Numbers,
    keys: Key,
    epochs: int,
    sums: Mapping[str, np.ndarray],
    wanted: Callable[[], bool] = lambda: True,
    fit: Callable[..., Iterator[Progress]] = fit,
    validation: TrialData | None = None,
    watch: TrialData | None = None,
) -> Iterator[Progress]:
    """Train all members until `epochs` are complete, a chunk at a time.

    Args:
        programs: compiled.
        state: states of all members, on the host.
        data: examples of all members.
        numbers: swept numbers, `[M]` each.
        keys: keys of the stage, `[M]`.
        epochs: number of epochs that are complete at the end.
        sums: metrics of the unfinished epoch, `[M]` each; of members that finished it, its means.
        wanted: True if the caller wants the state within an epoch; if not, it is None there.
        fit: the loop that trains a chunk.
        validation: validation examples of all members, if the programs have been made for them.
        watch: examples for the figures of the encoder, under the same condition.

    Yields:
        `Progress` on the host, metrics `[M]` each. Its arrays are overwritten later.
    """
    state = _host_copy(state)
    sums = _host_copy(dict(sums))
    chunks = _Chunks(programs, data, numbers, keys, fit)
    validate = Measurement(programs, programs.validate, validation, numbers, keys)
    observe = Measurement(programs, programs.watch, watch, numbers, keys)
    steps = programs.epoch.steps
    number = int(state.step.min()) // steps
    while number < epochs:
        began = time.perf_counter()
        end = (number + 1) * steps
        pieces = _pieces(programs.placement, np.asarray(state.step))
        behind = [piece for piece in pieces if state.step[piece[0]] < end]
        # A chunk of all members stays on the devices to the end; several take turns each epoch.
        resident = len(behind[0]) == len(state.step)
        target = epochs if resident else number + 1  # epochs complete after this round
        ahead = 0 if resident else int((state.step >= end).sum())
        for piece in behind:
            for progress in chunks.train(piece, state, sums, target):
                complete = progress.metrics is not None
                # Copying a large state to the host for nobody would cost more than a call.
                current = complete or wanted()
                if current:
                    _write_back(programs, state, sums, piece, progress)
                number = progress.epoch
                seconds = progress.seconds if resident else time.perf_counter() - began
                if complete and piece is behind[-1]:
                    metrics = _take_means(sums)
                    # Training does not read statistics: those on the devices stay as they are.
                    finished = finished_params(programs, numbers, state.params, data)
                    state = state._replace(params=finished)
                    # With several chunks, parameters return in turn, so members that were trained
                    # by an earlier process are measured too.
                    resident_state = progress.state if resident and not programs.finish else None
                    figures = validate(finished, resident_state) | observe(finished, resident_state)
                    yield Progress(state, sums, number, number, metrics, seconds, figures)
                elif not complete:
                    part = (progress.fraction - number) * len(piece) + ahead
                    fraction = number + min(1.0, part / len(state.step))
                    shown = state if current else None
                    yield Progress(shown, sums, number, fraction, None, seconds)
            ahead += len(piece)
            # The state on the devices must go before the next chunk comes.
            progress = None


def _take_means(sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the means of the epoch that all members have finished, and set the sums to zero."""
    means = {name: sums[name].copy() for name in sums if name != "count"}
    for values in sums.values():
        values.fill(0)
    return means


def _pieces(placement: Placement, step: np.ndarray) -> list[np.ndarray]:
    """Return the members that train together; members at different steps are separated.

    Steps differ after a training was cut with chunks of another size.
    """
    pieces = []
    for piece in placement.pieces:
        pieces += [piece[step[piece] == value] for value in np.unique(step[piece])]
    return pieces


class _Chunks:
    """Everything that the chunks of one stage share on the devices."""

    def __init__(
        self, programs: StagePrograms, data: TrialData, numbers: Numbers, keys: Key, fit: Callable
    ) -> None:
        self._programs = programs
        self._data = data
        self._numbers = dict(numbers)
        self._keys = keys
        self._fit = fit
        self._shared = {
            name: put_everywhere(programs.placement, values) for name, values in data.shared.items()
        }
        # With a shared order, every member shuffles with the key of the first.
        self._first_key = put(programs.placement, None, take(0, 0, keys))
        self._placed: dict[bytes, dict[str, jax.Array]] = {}

    def train(
        self,
        piece: np.ndarray,
        state: TrainState,
        sums: Mapping[str, np.ndarray],
        epochs: int,
    ) -> Iterator[Progress]:
        """Train the members of a chunk until `epochs` are complete; yields their progress."""
        placement = self._programs.placement
        axes = self._programs.axes
        epoch = self._programs.epoch
        all_axes = (axes.state, 0, 0, 0)
        members = (state, dict(sums), self._keys, self._numbers)
        chunk = put(placement, all_axes, take(padded(placement, piece), all_axes, members))
        chunk_state, totals, keys, numbers = chunk
        epoch = epoch._replace(
            zeros=repeat(epoch.zeros, placement.width),
            shuffle=partial(epoch.shuffle, self._first_key),
            advance=partial(epoch.advance, numbers),
            finish=partial(epoch.finish, numbers),
        )
        bring = partial(_put_by_rank, placement)
        return self._fit(epoch, chunk_state, self._examples(piece), keys, epochs, totals, bring)

    def _examples(self, piece: np.ndarray) -> dict[str, jax.Array]:
        """Return the examples of a chunk, on the devices; kept for the next epoch."""
        name = piece.tobytes()
        if name not in self._placed:
            placement = self._programs.placement
            members = padded(placement, piece)
            per_trial = {name: rows(members) for name, rows in self._data.per_trial.items()}
            self._placed[name] = {**self._shared, **put(placement, 0, per_trial)}
        return self._placed[name]


def _host_copy(tree: PyTree) -> PyTree:
    """Return a copy on the host that may be written to."""
    return jax.tree.map(np.array, jax.device_get(tree))


def _write_back(
    programs: StagePrograms,
    state: TrainState,
    sums: Mapping[str, np.ndarray],
    piece: np.ndarray,
    progress: Progress,
) -> None:
    """Copy the members of a chunk to their places among all members, arrays of the host."""

    def below(axis: int | None, whole: PyTree, part: PyTree) -> None:
        if axis is None:
            return
        for target, values in zip(jax.tree.leaves(whole), jax.tree.leaves(part), strict=True):
            target[piece] = values[: len(piece)]

    axis_map(below, programs.axes.state, state, jax.device_get(progress.state))
    values = jax.device_get(progress.sums)
    if progress.metrics is not None:
        # A member that has finished the epoch keeps its means here, as sums over one example.
        values = {**progress.metrics, "count": np.ones(programs.placement.width)}
    axis_map(below, 0, dict(sums), values)


def _put_by_rank(placement: Placement, tree: PyTree) -> PyTree:
    """Move scalars to every device, and split arrays `[M]`."""
    axes = jax.tree.map(lambda leaf: 0 if np.ndim(leaf) else None, tree)
    return put(placement, axes, tree)

"""Figures of all members between two epochs, a chunk at a time."""

from collections.abc import Callable

import jax
import numpy as np

from twostage_jax.engine.members import Numbers, StagePrograms, TrialData
from twostage_jax.engine.placement import (
    first_members,
    join_members,
    padded,
    put,
    put_everywhere,
    take,
)
from twostage_jax.engine.state import TrainState
from twostage_jax.stages.stage import Key, Metrics, Params
from twostage_jax.trees import PyTree


class Measurement:
    """Measurement of the parameters of all members after an epoch.

    Args:
        programs: programs of the stage.
        program: `(numbers, params, data, key) -> figures` of the members of a chunk; None to
            measure nothing.
        data: examples of all members, or None.
        numbers: swept numbers, `[M]` each.
        keys: keys of the stage, `[M]`.
    """

    def __init__(
        self,
        programs: StagePrograms,
        program: Callable[..., Metrics] | None,
        data: TrialData | None,
        numbers: Numbers,
        keys: Key,
    ) -> None:
        self._programs = programs
        self._program = program
        self._data = data
        self._numbers = dict(numbers)
        self._keys = keys
        shared = data.shared if data else {}
        self._shared = {name: put_everywhere(programs.placement, x) for name, x in shared.items()}
        self._placed: dict[bytes, tuple[PyTree, dict[str, jax.Array], Key]] = {}

    def __call__(self, params: Params, resident: TrainState | None) -> dict[str, np.ndarray]:
        """Return metrics `[M]` on the host.

        Args:
            params: parameters of all members, on the host.
            resident: the same in a state on the devices, if all members are one chunk.
        """
        measure = self._program
        if measure is None or self._data is None:
            return {}
        placement = self._programs.placement
        axes = self._programs.axes.params
        parts = []
        for piece in placement.pieces:
            if resident is not None:
                chunk = resident.params
            else:
                members = padded(placement, piece)
                chunk = put(placement, axes, take(members, axes, params))
            numbers, data, keys = self._arguments(self._data, piece)
            parts.append(first_members(len(piece), 0, measure(numbers, chunk, data, keys)))
        return join_members(0, parts)

    def _arguments(
        self, data: TrialData, piece: np.ndarray
    ) -> tuple[PyTree, dict[str, jax.Array], Key]:
        """Return the other arguments of a chunk, on the devices; kept for the next epoch."""
        name = piece.tobytes()
        if name not in self._placed:
            placement = self._programs.placement
            members = padded(placement, piece)
            numbers, keys = put(placement, 0, take(members, 0, (self._numbers, self._keys)))
            per_trial = {name: rows(members) for name, rows in data.per_trial.items()}
            examples = {**self._shared, **put(placement, 0, per_trial)}
            self._placed[name] = (numbers, examples, keys)
        return self._placed[name]

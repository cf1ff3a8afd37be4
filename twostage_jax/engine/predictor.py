"""Trained trials that predict: an encoder, a head, and the compiled passes of both."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np

from twostage_jax.engine.compile import compile_all
from twostage_jax.engine.passes import Pass, apply_pass, lower_pass
from twostage_jax.engine.placement import MEMBER, Placement, make_mesh, map_members
from twostage_jax.stages.stage import Params
from twostage_jax.trees import PyTree, shapes_of

# Trials that one device predicts with at a time. More would need more memory and save nothing.
LANES = 8
Numbers = Mapping[str, PyTree]


class Network(NamedTuple):
    """Functions of one trial.

    Attributes:
        logits: `((numbers, params), image) -> logits [B, K]`.
        features: `(params of the encoder, image) -> features [B, ...]`.
    """

    logits: Callable[[tuple[Numbers, Params], jax.Array], jax.Array]
    features: Callable[[Params, jax.Array], jax.Array]


class Predictor:
    """Trials whose logits and features can be computed for any number of images.

    Each program is compiled at most once, for the first images that need it.

    Args:
        network: functions of one trial.
        numbers: swept numbers of the heads, `[R]` each.
        params: groups `encoder` and `head`, on the host.
        axes: 0 for groups `[R, ...]`, None for groups that all trials share.
        image_shape: shape of one image.
        largest: number of images in the largest split to come.
        logits: the compiled program, if there is one.
        width: number of trials that the program is compiled for; by default all of `params`.
    """

    def __init__(
        self,
        network: Network,
        numbers: Mapping[str, np.ndarray],
        params: Params,
        axes: dict[str, int | None],
        image_shape: tuple[int, ...],
        largest: int,
        logits: Pass | None = None,
        width: int | None = None,
    ) -> None:
        self._network = network
        self._image_shape = image_shape
        self._largest = largest
        self._axes = axes
        self._logits = logits
        self._features: Pass | None = None
        self.numbers = dict(numbers)
        self.params = {name: jax.device_get(params[name]) for name in axes}
        self._width = width or self.trials

    @property
    def trials(self) -> int:
        """Number of trials."""
        return _trials(self._axes, self.params)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Return logits float32 `[R, N, K]` of images uint8 `[N, H, W, C]`."""
        if self._logits is None:
            lowered = lower_logits(
                self._network,
                map_members(_first, 0, shapes_of(self.numbers)),
                map_members(_first, self._axes, shapes_of(self.params)),
                self._axes,
                self._image_shape,
                self._largest,
                self._width,
            )
            self._logits = compile_all(lowered)
        arguments = (self.numbers, self.params)
        # The program's width is fixed; any number of trials goes through it in chunks.
        placement = self._logits.placement._replace(members=self.trials)
        return apply_pass(self._logits._replace(placement=placement), arguments, images)

    def features(self, images: np.ndarray) -> np.ndarray:
        """Return features `[E, N, D]` of the frozen encoders; `E` is 1 if the trials share one."""
        axis = self._axes["encoder"]
        encoder = self.params["encoder"]
        encoders = self.trials if axis == 0 else 1
        if self._features is None:
            shapes = map_members(_first, axis, shapes_of(encoder))
            placement = place_passes(encoders)
            lowered = lower_pass(
                self._network.features, shapes, self._image_shape, self._largest, placement, axis
            )
            self._features = compile_all(lowered)
        features = apply_pass(self._features, encoder, images)
        # Not -1, which no images leave undetermined.
        return features.reshape(*features.shape[:2], math.prod(features.shape[2:]))

    def select(self, trials: np.ndarray) -> "Predictor":
        """Return a predictor of some of the trials, with the same programs."""
        selected = Predictor(
            self._network,
            {name: values[trials] for name, values in self.numbers.items()},
            map_members(lambda leaf: leaf[trials], self._axes, self.params),
            self._axes,
            self._image_shape,
            self._largest,
            self._logits,
            # A program of another width rounds in another way.
            self._width,
        )
        # A shared encoder is the same for any selection; own encoders have another placement.
        selected._features = None if self._axes["encoder"] == 0 else self._features
        return selected


def _trials(axes: dict[str, int | None], params: Params) -> int:
    """Return the length of the trial axis of the head."""
    return len(jax.tree.leaves(params["head"])[0]) if axes["head"] == 0 else 1


def _first(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """Return the shape of one member."""
    return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)


def place_passes(members: int) -> Placement:
    """Return the placement of the passes of so many members."""
    mesh = make_mesh(members)
    return Placement(mesh, members, min(members, LANES * mesh.shape[MEMBER]))


def lower_logits(
    network: Network,
    numbers: Numbers,
    params: Params,
    axes: dict[str, int | None],
    image_shape: tuple[int, ...],
    largest: int,
    trials: int,
) -> Pass:
    """Lower the logits of all trials, for `compile_all`.

    Args:
        network: functions of one trial.
        numbers: swept numbers of one trial, any values.
        params: shapes of the groups of one trial.
        axes: 0 for groups that trials have of their own.
        image_shape: shape of one image.
        largest: number of images in the largest split.
        trials: number of trials.
    """
    return lower_pass(
        network.logits,
        (dict(numbers), {name: params[name] for name in axes}),
        image_shape,
        largest,
        place_passes(trials),
        (0, axes),
    )

"""Trained trials that predict: an encoder, a head, and the compiled passes of both."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np
from jax.typing import DTypeLike

from twostage_jax.engine.compile import compile_all
from twostage_jax.engine.passes import Pass, apply_pass, choose_batch, lower_pass
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
        decode: `(params, image) -> reconstruction [B, H, W, C]`; None without a decoder.
    """

    logits: Callable[[tuple[Numbers, Params], jax.Array], jax.Array]
    features: Callable[[Params, jax.Array], jax.Array]
    decode: Callable[[Params, jax.Array], jax.Array] | None = None


class Predictor:
    """Trials whose logits and features can be computed for any number of images.

    Images are uint8 `[N, H, W, C]`, or float32 in [-1, 1]. Each program is compiled at most once
    for each type, for the first images that need it. The arguments are attributes, too.

    Args:
        network: functions of one trial.
        numbers: swept numbers of the heads, `[R]` each.
        params: groups `encoder`, `head` (for logits) and `decoder` (for reconstructions), on the
            host.
        axes: 0 for groups `[R, ...]`, None for groups that all trials share.
        image_shape: shape of one image.
        largest: number of images in the largest split to come.
        logits: the compiled program for uint8, if there is one.
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
        self.network = network
        self.image_shape = image_shape
        self._largest = largest
        self.axes = axes
        # By the type of the images, and by the name of the result.
        self._logits = {} if logits is None else {np.dtype(np.uint8): logits}
        self._passes: dict[tuple[str, np.dtype], Pass] = {}
        self.numbers = dict(numbers)
        self.params = {name: jax.device_get(params[name]) for name in axes}
        self.width = width or self.trials

    @property
    def trials(self) -> int:
        """Number of trials."""
        return _trials(self.axes, self.params)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Return logits float32 `[R, N, K]`."""
        if images.dtype not in self._logits:
            lowered = lower_logits(
                self.network,
                map_members(_first, 0, shapes_of(self.numbers)),
                map_members(_first, self.axes, shapes_of(self.params)),
                self.axes,
                self.image_shape,
                self._largest,
                self.width,
                images.dtype,
            )
            self._logits[images.dtype] = compile_all(lowered)
        compiled = self._logits[images.dtype]
        # The program's width is fixed; any number of trials goes through it in chunks.
        placement = compiled.placement._replace(members=self.trials)
        arguments = (self.numbers, self.params)
        return apply_pass(compiled._replace(placement=placement), arguments, images)

    def features(self, images: np.ndarray) -> np.ndarray:
        """Return features `[E, N, D]` of the frozen encoders; `E` is 1 if the trials share one."""
        encoder = self.params["encoder"]
        features = self._apply(
            "features", self.network.features, encoder, self.axes["encoder"], images
        )
        # Not -1, which no images leave undetermined.
        return features.reshape(*features.shape[:2], math.prod(features.shape[2:]))

    def reconstructions(self, images: np.ndarray) -> np.ndarray:
        """Return decoded images float32 `[E, N, H, W, C]`, on the scale [-1, 1]."""
        assert self.network.decode is not None, "the network has no decoder"
        names = ("encoder", "decoder")
        params = {name: self.params[name] for name in names}
        axes = {name: self.axes[name] for name in names}
        return self._apply("reconstructions", self.network.decode, params, axes, images)

    def _apply(
        self, name: str, function: Callable, params: PyTree, axes: PyTree, images: np.ndarray
    ) -> np.ndarray:
        """Apply a function of the encoder to images, for all encoders."""
        key = (name, images.dtype)
        if key not in self._passes:
            encoders = self.trials if self.axes["encoder"] == 0 else 1
            lowered = lower_pass(
                function,
                map_members(_first, axes, shapes_of(params)),
                self.image_shape,
                self._largest,
                place_passes(encoders),
                axes,
                images.dtype,
            )
            self._passes[key] = compile_all(lowered)
        return apply_pass(self._passes[key], params, images)

    def select(self, trials: np.ndarray) -> "Predictor":
        """Return a predictor of some of the trials, with the same programs."""
        selected = Predictor(
            self.network,
            {name: values[trials] for name, values in self.numbers.items()},
            map_members(lambda leaf: leaf[trials], self.axes, self.params),
            self.axes,
            self.image_shape,
            self._largest,
            # A program of another width rounds in another way.
            width=self.width,
        )
        selected._logits = self._logits
        # A shared encoder is the same for any selection; own encoders have another placement.
        if self.axes["encoder"] is None:
            selected._passes = self._passes
        return selected

    @property
    def batch_size(self) -> int:
        """Number of images that a program takes at a time."""
        return choose_batch(self._largest)

    def with_batches(self, largest: int) -> "Predictor":
        """Return a predictor of the same trials whose programs take at most so many images."""
        return Predictor(
            self.network,
            self.numbers,
            self.params,
            self.axes,
            self.image_shape,
            min(largest, self._largest),
            width=self.width,
        )


def _trials(axes: dict[str, int | None], params: Params) -> int:
    """Return the length of the trial axis of a group that has one, else 1."""
    leaves = jax.tree.leaves([params[name] for name, axis in axes.items() if axis == 0])
    return len(leaves[0]) if leaves else 1


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
    dtype: DTypeLike = np.uint8,
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
        dtype: type of the images.
    """
    return lower_pass(
        network.logits,
        (dict(numbers), {name: params[name] for name in axes}),
        image_shape,
        largest,
        place_passes(trials),
        (0, axes),
        dtype,
    )

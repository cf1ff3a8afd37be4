"""Noisy labels of a noise study: kinds of noise, and draws for training and validation."""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from twostage_jax.data.labels import flip_by_matrix, flip_labels, flip_to_next
from twostage_jax.data.transition import read_transition
from twostage_jax.runs.trials import INITIAL, TRAINING, stage_key
from twostage_jax.stages.heads.losses import check_transition

SYMMETRIC = "symmetric"
ASYMMETRIC = "asymmetric"
MATRIX = "transition"
RATES = (0.0, 0.2, 0.4, 0.6, 0.8)
ASYMMETRIC_RATES = (0.2, 0.4)


class Noise(NamedTuple):
    """Kind of noise and its rate; a transition matrix has no rate."""

    kind: str
    rate: float | None = None

    @property
    def name(self) -> str:
        """Name in files, such as `symmetric-0.4`."""
        return self.kind if self.rate is None else f"{self.kind}-{self.rate:g}"


def list_noises(
    rates: tuple[float, ...] | None, asymmetric: tuple[float, ...] | None, transition: str | None
) -> list[Noise]:
    """Return the noises of a study; None stands for the default rates."""
    symmetric = RATES if rates is None else rates
    to_next = ASYMMETRIC_RATES if asymmetric is None else asymmetric
    noises = [Noise(SYMMETRIC, rate) for rate in symmetric]
    # Without noise, both kinds are the same.
    noises += [Noise(ASYMMETRIC, rate) for rate in to_next if rate or 0.0 not in symmetric]
    return [*noises, Noise(MATRIX)] if transition else noises


def load_transition(path: str | None, classes: int) -> np.ndarray | None:
    """Read a transition matrix `[K, K]`; None without a file.

    Raises:
        UserError: a file without a matrix, or a matrix that is not stochastic.
    """
    return None if path is None else check_transition(read_transition(Path(path)), classes)


def draw_noisy(
    label: np.ndarray,
    noises: list[Noise],
    seeds: list[int],
    classes: int,
    transition: np.ndarray | None,
    validation: bool = False,
) -> np.ndarray:
    """Return noisy labels int32 `[G, R, N]` of G noises and R draws.

    The draws are nested: with the same seed, labels that a smaller rate flips are also flipped by a
    larger one. Training labels of a symmetric noise are those of `twostage run --noise` with the
    same seed.

    Args:
        label: true labels `[N]`.
        noises: kinds and rates.
        seeds: a seed for each draw.
        classes: number of classes K.
        transition: matrix `[K, K]`, for the kind `transition`.
        validation: True for the labels of the validation split, which have their own random noise.
    """
    purpose = TRAINING if validation else INITIAL
    clean = jnp.asarray(label)
    flips = {
        SYMMETRIC: jax.jit(partial(flip_labels, classes=classes)),
        ASYMMETRIC: jax.jit(partial(flip_to_next, classes=classes)),
    }
    noisy = []
    for noise in noises:
        for seed in seeds:
            key = stage_key(seed, "noise", purpose)
            if noise.rate is None:
                assert transition is not None
                flipped = flip_by_matrix(key, clean, transition)
            else:
                flipped = flips[noise.kind](key, clean, np.float32(noise.rate))
            noisy.append(jax.device_get(flipped))
    return np.stack(noisy).reshape(len(noises), len(seeds), len(label))

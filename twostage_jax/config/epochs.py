"""Number of epochs that follows from the number of examples, in the presets of `presets.STEPS`."""

import dataclasses
from collections.abc import Mapping

from twostage_jax.config.choices import SOLVED
from twostage_jax.config.groups import GROUPS
from twostage_jax.config.presets import LEAST_STEPS, MOST_EPOCHS, STEPS
from twostage_jax.config.schema import Config


def default_epochs(steps: int, examples: int, batch_size: int) -> int:
    """Return the number of epochs whose steps come close to `steps`, within limits.

    There are at most `MOST_EPOCHS` epochs, or more if they have fewer than `LEAST_STEPS` steps.

    >>> default_epochs(3870, 55_000, 256), default_epochs(3870, 1295, 256)
    (18, 300)
    """
    steps_per_epoch = -(-examples // batch_size)
    steps = min(steps, max(LEAST_STEPS, MOST_EPOCHS * steps_per_epoch))
    return max(1, round(steps / steps_per_epoch))


def resolve_epochs(config: Config, examples: Mapping[str, int]) -> Config:
    """Fill in the numbers of epochs that are not given and follow from the number of examples.

    Args:
        config: resolved by `layers.resolve`.
        examples: number of training examples of each stage, by name.
    """
    if config.preset not in STEPS:
        return config
    for group in GROUPS:
        stage = getattr(config, group)
        if stage.epochs is None and getattr(stage, "protocol", None) not in SOLVED:
            epochs = default_epochs(STEPS[config.preset], examples[group], stage.batch_size)
            stage = dataclasses.replace(stage, epochs=epochs)
            config = dataclasses.replace(config, **{group: stage})
    return config

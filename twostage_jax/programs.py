"""All programs of a run, compiled at once: both stages, and the encoding pass between them."""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np

from twostage_jax.compilation import compile_all
from twostage_jax.config import Config
from twostage_jax.data import Dataset
from twostage_jax.encoding import Encoding, choose_encoding, lower_encoding
from twostage_jax.optimiser import adam
from twostage_jax.runs import Nets, encoder_shapes
from twostage_jax.stage import Params, freeze
from twostage_jax.training import Programs, lower_stage


class Compiled(NamedTuple):
    """The programs of a run; None stands for what it does without."""

    pretrain: Programs | None
    encoding: Encoding | None
    head: Programs | None


def compile_run(
    config: Config,
    dataset: Dataset,
    nets: Nets,
    data: Any,
    pretrained: Params | None,
    pretrain_only: bool,
) -> Compiled:
    """All programs of the run at once, both stages and the pass between them."""
    few, settings = few_examples(dataset), config.head
    lowered = Compiled(None, None, None)
    if pretrained is None:
        stage, tx = nets.pretrain, adam(config.pretrain.learning_rate)
        size = config.pretrain.batch_size
        lowered = lowered._replace(pretrain=lower_stage(stage, tx, few, {}, data, size))
    if not pretrain_only:
        stage, tx = nets.classify, freeze(adam(settings.learning_rate), "encoder")
        encoder = encoder_shapes(nets, dataset.image_shape)
        if settings.encode == "once":
            encoding = lower_encoding(nets.encode, encoder, data["image"])
            lowered = lowered._replace(encoding=encoding)
            stage, data = nets.classify_features, {**data, "image": encoding.features}
        groups, size = {"encoder": encoder}, settings.batch_size
        lowered = lowered._replace(head=lower_stage(stage, tx, few, groups, data, size))
    return compile_all(lowered)


def settle_encoding(config: Config, nets: Nets, dataset: Dataset) -> tuple[Config, str]:
    """`config` with `head.encode` settled, and when the encoder runs, and why, in words.

    It is settled before the config is written, so that a run that is resumed or repeated where
    memory is short computes the same bits.
    """
    images = jax.ShapeDtypeStruct(dataset.train["image"].shape, np.float32)
    features = jax.eval_shape(nets.encode, encoder_shapes(nets, dataset.image_shape), images)
    once, words = choose_encoding(config.head.encode, features)
    head = dataclasses.replace(config.head, encode="once" if once else "loop")
    return dataclasses.replace(config, head=head), words


def few_examples(dataset: Dataset) -> dict[str, np.ndarray]:
    """Two training examples, for what only needs shapes."""
    return {part: values[:2] for part, values in dataset.train.items()}

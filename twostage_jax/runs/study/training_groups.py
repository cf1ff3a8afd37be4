"""Groups of arms that are trained by gradient descent: heads, and networks end to end."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import numpy as np
import optax

from twostage_jax.runs.study.arms import Arm
from twostage_jax.runs.study.budget import share_draws
from twostage_jax.runs.study.draws import Draws
from twostage_jax.runs.study.group import Choice, Group, Work, make_head_function
from twostage_jax.runs.study.representations import Representation, features_of
from twostage_jax.runs.study.trained import (
    Data,
    Recipe,
    choose_durations,
    images_of,
    steps_of,
    train_draws,
)
from twostage_jax.runs.views import make_augment
from twostage_jax.stages.freezing import by_group
from twostage_jax.stages.heads.trained import attach, mlp
from twostage_jax.stages.modules import forward
from twostage_jax.stages.nets.mlp import Identity
from twostage_jax.stages.optimiser import adam
from twostage_jax.stages.pretrain.two_views import Augment
from twostage_jax.stages.stage import Batch, Head, Params, Stage

LEARNING_RATE = 1e-3
ENCODER_RATE = 1e-4  # learning rate of a pretrained encoder that is fine-tuned
WEIGHT_DECAY = 1e-3
# Budget of an end-to-end arm for all numbers of labels together, in images of a training step. With
# the encoder `conv`, 1,000 of them take 1.1 CPU seconds on cores that other jobs share.
IMAGES = 500_000
# Largest number of labels for which the duration is chosen. A choice for a network costs as much as
# its training, so with more labels the budget is spent on a longer training.
HEAD_CHOICE_LIMIT = 3000
NETWORK_CHOICE_LIMIT = 100


def train_group(
    work: Work, name: str, arms: Sequence[Arm], banks: Sequence[Representation]
) -> Group:
    """Group of a head that is trained on features."""
    head = make_head_function(arms[0].protocol, work)({})
    recipe = Recipe(
        name=name,
        programs=name,
        stage=attach(Identity(), head, frozen=True),
        tx=_head_optimiser,
        rates=(LEARNING_RATE,),
        apply=_head_logits(head),
        pretrained={},
        steps=partial(steps_of, fewest=500, root=30, epochs=4),
        choose_below=HEAD_CHOICE_LIMIT,
    )

    def data(with_test: bool) -> Data:
        test = features_of(banks, "test") if with_test else []
        return Data(features_of(banks, "train", work.source.labelled), test)

    return _training_group(work, recipe, arms, data, None)


def _head_optimiser(rates: jax.Array) -> optax.GradientTransformation:
    return adam(rates[0], weight_decay=WEIGHT_DECAY)


def _network_optimiser(rates: jax.Array) -> optax.GradientTransformation:
    """AdamW with a learning rate for the encoder and one for the head."""
    encoder_rate, head_rate = rates
    return by_group(
        {
            "encoder": adam(encoder_rate, weight_decay=WEIGHT_DECAY),
            "head": adam(head_rate, weight_decay=WEIGHT_DECAY),
        }
    )


def _head_logits(head: Head) -> Callable[[Params, jax.Array], jax.Array]:
    def logits(params: Params, features: jax.Array) -> jax.Array:
        return head.logits(params["head"], features)

    return logits


def end_to_end_group(work: Work, arm: Arm) -> Group:
    """Group of a network that is trained end to end, from scratch or from the pretrained encoder.

    The head is linear. Everything is trained by AdamW; a pretrained encoder has a tenth of the
    learning rate.
    """
    networks = work.source.networks
    head = mlp(len(work.source.classes), widths=())
    stage = attach(networks.encoder, head)
    augment = make_augment(work.source.run.config, networks.image_shape)
    if augment is not None:
        stage = _augmented(stage, augment)
    pretrained = {}
    encoder_rate = LEARNING_RATE
    if arm.name == "finetuned":
        pretrained = {"encoder": work.source.run.params["encoder"]}
        encoder_rate = ENCODER_RATE

    def logits(params: Params, image: jax.Array) -> jax.Array:
        return head.logits(params["head"], forward(networks.encoder, params["encoder"], image))

    recipe = Recipe(
        name=arm.name,
        programs="end-to-end",
        stage=stage,
        tx=_network_optimiser,
        rates=(encoder_rate, LEARNING_RATE),
        apply=logits,
        pretrained=pretrained,
        steps=partial(steps_of, fewest=120, root=10, epochs=2),
        choose_below=NETWORK_CHOICE_LIMIT,
    )

    def data(with_test: bool) -> Data:
        test = [work.source.split_images("test")] if with_test else []
        return Data([work.source.dataset.train["image"]], test)

    return _training_group(work, recipe, [arm], data, IMAGES)


def _augmented(stage: Stage, augment: Augment) -> Stage:
    """Stage that uses a random view of each image, as in the pretraining."""

    def loss(params: Params, key: jax.Array, batch: Batch):
        view_key, loss_key = jax.random.split(key)
        image = augment(view_key, batch["image"])
        return stage.loss(params, loss_key, {**batch, "image": image})

    return stage._replace(loss=loss)


def _training_group(
    work: Work,
    recipe: Recipe,
    arms: Sequence[Arm],
    data: Callable[[bool], Data],
    images: int | None,
) -> Group:
    """Group of a training; `images` is its budget, see `budget.share_draws`."""
    repeats = {count: work.most_draws(count) for count in work.counts}
    if images is not None:
        tested = work.source.lockbox.count
        classes = len(work.source.classes)
        costs = {count: images_of(recipe, count, classes, tested) for count in work.counts}
        repeats = share_draws(costs, repeats, images)

    def drawn(draws: Draws) -> Draws:
        return draws.first(repeats[draws.count])

    def choose(draws: Draws) -> Choice:
        chosen = choose_durations(work.parallel, recipe, drawn(draws), data(False), work.seed)
        return Choice(*chosen)

    def predict(draws: Draws, choice: Choice) -> dict[str, np.ndarray]:
        arguments = (choice.values, drawn(draws), data(True), work.seed)
        return {"predicted": train_draws(work.parallel, recipe, *arguments)}

    return Group(recipe.name, tuple(arms), choose, predict)

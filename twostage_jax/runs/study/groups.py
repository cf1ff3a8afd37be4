"""Groups of arms that are computed in one `vmap`: the same head on features of the same width."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
import optax

from twostage_jax.runs.own_code import call_named, find_function
from twostage_jax.runs.study import representations
from twostage_jax.runs.study.arms import Arm
from twostage_jax.runs.study.budget import share_draws
from twostage_jax.runs.study.cells import cell_name
from twostage_jax.runs.study.draws import Draws
from twostage_jax.runs.study.parallel import Parallel
from twostage_jax.runs.study.representations import Representation, load_features, scaled
from twostage_jax.runs.study.solved import (
    GRIDS,
    Graph,
    Heldout,
    Numbers,
    choose_values,
    predict_draws,
    predict_on_graph,
)
from twostage_jax.runs.study.sources import Source
from twostage_jax.runs.study.trained import (
    VERSION,
    Data,
    Recipe,
    choose_durations,
    images_of,
    steps_of,
    train_draws,
)
from twostage_jax.runs.views import make_augment
from twostage_jax.stages.families import HEADS
from twostage_jax.stages.heads.trained import attach, mlp
from twostage_jax.stages.modules import forward
from twostage_jax.stages.optimiser import adam
from twostage_jax.stages.pretrain.two_views import Augment
from twostage_jax.stages.signature import check_head
from twostage_jax.stages.stage import Batch, Head, Params, Stage

LEARNING_RATE = 1e-3
ENCODER_RATE = 1e-4  # learning rate of a pretrained encoder that is fine-tuned
WEIGHT_DECAY = 1e-3
# Budget of an end-to-end arm, for all numbers of labels together: images of trainings and choices,
# and a third of the images that are predicted. See `budget.share_draws`.
IMAGES = 500_000
CHOICE_LIMIT = 3000  # end-to-end arms choose their duration up to this number of labels


class Choice(NamedTuple):
    """Chosen strengths (or quarters of the training) `[A, R]`, and the method of the choice."""

    values: np.ndarray
    how: str


@dataclass(frozen=True, eq=False)
class Work:
    """Input that all groups share.

    Attributes:
        source: data, encoder and features.
        parallel: compiles and runs.
        seed: seed of the study.
        counts: numbers of labels.
        draws: number of draws.
        select_on_validation: True to choose on the validation split.
    """

    source: Source
    parallel: Parallel
    seed: int
    counts: tuple[int, ...]
    draws: int
    select_on_validation: bool

    def most_draws(self, count: int) -> int:
        """Return the number of draws for a number of labels: one if all examples are labelled."""
        return 1 if count == self.source.labelled else self.draws

    def drawn(self, draws: Draws) -> Draws:
        """Return the draws that an arm without a budget uses."""
        return draws.first(self.most_draws(draws.count))


class Group(NamedTuple):
    """Arms with one head on features of one width, or a network that is trained end to end.

    Attributes:
        name: name of the group, for its cells.
        arms: the A arms.
        choose: chooses strengths for every arm and draw, while the test split is locked.
        predict: fits every arm and draw; returns `predicted` int32 `[A, R, T]`.
    """

    name: str
    arms: tuple[Arm, ...]
    choose: Callable[[Draws], Choice]
    predict: Callable[[Draws, Choice], dict[str, np.ndarray]]


def make_groups(work: Work, arms: Sequence[Arm]) -> list[Group]:
    """Group arms by head and width, so that arms of one shape are computed together."""
    groups = []
    by_shape: dict[tuple[str, int], list[Arm]] = {}
    features: dict[str, Representation] = {}
    for arm in arms:
        if not arm.representation:
            groups.append(_end_to_end(work, arm))
            continue
        if arm.representation not in features:
            features[arm.representation] = scaled(_representation(work, arm))
        width = features[arm.representation].features("train").shape[1]
        by_shape.setdefault((arm.protocol, width), []).append(arm)
    for (protocol, width), same in by_shape.items():
        head = make_head_function(protocol, work)({})
        banks = [features[arm.representation] for arm in same]
        if head.prepare is not None:
            # Each graph is as large as its features, so graphs are not stacked.
            groups += map(partial(_prepared, work, head), same, banks)
            continue
        make = _trained if head.solve is None else _solved
        groups.append(make(work, f"{protocol}-{width}", same, banks))
    return groups


def make_head_function(protocol: str, work: Work) -> Callable[[Numbers], Head]:
    """Make `numbers -> Head` of a protocol, with its default options."""
    function = find_function(protocol, HEADS)
    offered = {"classes": len(work.source.classes)}

    def make(numbers: Numbers) -> Head:
        return check_head(call_named(protocol, function, offered, dict(numbers)), protocol)

    return make


def _representation(work: Work, arm: Arm) -> Representation:
    source = work.source
    if arm.file is not None:
        return _of_file(source, arm)
    if arm.representation == "frozen":
        return representations.frozen(source)
    if arm.representation == "random":
        # Not the seed of the pretraining: it would give the same initial values.
        return representations.random(source, work.seed + 1)
    if arm.representation == "pixels":
        return representations.pixels(source)
    return representations.pca(source, source.networks.feature_shape[0])


def _of_file(source: Source, arm: Arm) -> Representation:
    """Features from a file, in the order of the source."""
    path = arm.file
    assert path is not None

    def features(split: str) -> np.ndarray:
        dataset = source.dataset
        if split == "test":
            source.split_images("test")  # raises an error while the split is locked
        rows = dataset.rows["test"] if split == "test" else None
        return load_features(path, dataset, source.lockbox.count, rows)[split]

    return Representation(arm.representation, features, covers_pool=False)


def _stacked(banks: Sequence[Representation], split: str, count: int | None = None) -> np.ndarray:
    """Features `[A, N, D]` of a split, of the first `count` examples."""
    return np.stack([bank.features(split)[:count] for bank in banks])


def _solved(work: Work, name: str, arms: Sequence[Arm], banks: Sequence[Representation]) -> Group:
    """Group of a head that is solved in one call."""
    protocol = arms[0].protocol
    make_head = make_head_function(protocol, work)
    grid = GRIDS.get(protocol)
    labelled = work.source.labelled

    def choose(draws: Draws) -> Choice:
        drawn = work.drawn(draws)
        if grid is None:
            return Choice(np.zeros((len(arms), len(drawn.index)), np.float32), "default")
        heldout = None
        if work.select_on_validation:
            label = work.source.dataset.validation["label"]
            heldout = Heldout(_stacked(banks, "validation"), label)
        train = _stacked(banks, "train", labelled)
        return Choice(*choose_values(work.parallel, name, make_head, grid, drawn, train, heldout))

    def predict(draws: Draws, choice: Choice) -> dict[str, np.ndarray]:
        predicted = predict_draws(
            work.parallel,
            name,
            make_head,
            grid.number if grid else None,
            choice.values,
            work.drawn(draws),
            _stacked(banks, "train", labelled),
            _stacked(banks, "test"),
        )
        return {"predicted": predicted}

    return Group(name, tuple(arms), choose, predict)


def _prepared(work: Work, head: Head, arm: Arm, bank: Representation) -> Group:
    """Group of a head on a graph of all training images, labelled or not."""
    source = work.source

    def choose(draws: Draws) -> Choice:
        shape = (1, len(work.drawn(draws).index))
        return Choice(np.zeros(shape, np.float32), "default")

    def predict(draws: Draws, choice: Choice) -> dict[str, np.ndarray]:
        features = bank.features("train")
        assert head.prepare is not None
        prepare = partial(head.prepare, features)
        prepared = source.cached_arrays(f"graph-{cell_name(arm.name)}", prepare)
        return predict_on_graph(
            work.parallel,
            arm.name,
            head,
            work.drawn(draws),
            Graph(features, prepared, bank.features("test"), source.dataset.train["label"]),
        )

    return Group(cell_name(arm.name), (arm,), choose, predict)


def _trained(work: Work, name: str, arms: Sequence[Arm], banks: Sequence[Representation]) -> Group:
    """Group of a head that is trained on features."""
    head = make_head_function(arms[0].protocol, work)({})
    recipe = Recipe(
        name=name,
        programs=name,
        stage=_on_features(head),
        tx=_head_optimiser,
        rates=(LEARNING_RATE,),
        apply=_head_logits(head),
        pretrained={},
        steps=partial(steps_of, fewest=500, root=30, epochs=4),
        choose_below=CHOICE_LIMIT,
    )

    def data(with_test: bool) -> Data:
        train = _stacked(banks, "train", work.source.labelled)
        return Data(train, _stacked(banks, "test") if with_test else train[:, :0])

    return _training_group(work, recipe, arms, data, None)


def _head_optimiser(rates: jax.Array) -> optax.GradientTransformation:
    return adam(rates[0], weight_decay=WEIGHT_DECAY)


def _network_optimiser(rates: jax.Array) -> optax.GradientTransformation:
    """AdamW with a learning rate for the encoder and one for the head."""
    names = ("encoder", "head")
    parts = {
        name: adam(rate, weight_decay=WEIGHT_DECAY) for name, rate in zip(names, rates, strict=True)
    }
    return optax.multi_transform(parts, {name: name for name in names})


def _on_features(head: Head) -> Stage:
    """Stage of a trained head alone, on batches that hold features."""
    stage = head.stage
    assert stage is not None, "a solved head has no stage"

    def init(key: jax.Array, batch: Batch) -> Params:
        return {"head": stage.init(key, batch)}

    def loss(params: Params, key: jax.Array, batch: Batch):
        return stage.loss(params["head"], key, batch)

    return Stage(init, loss)


def _head_logits(head: Head) -> Callable[[Params, jax.Array], jax.Array]:
    def logits(params: Params, features: jax.Array) -> jax.Array:
        return head.logits(params["head"], features)

    return logits


def _end_to_end(work: Work, arm: Arm) -> Group:
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
        steps=partial(steps_of, fewest=100, root=10, epochs=2),
        choose_below=CHOICE_LIMIT,
    )

    def data(with_test: bool) -> Data:
        train = work.source.dataset.train["image"][None]
        test = work.source.split_images("test")[None] if with_test else train[:, :0]
        return Data(train, test)

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
        costs = {count: images_of(recipe, count) + tested // 3 for count in work.counts}
        repeats = share_draws(costs, repeats, images)

    def drawn(draws: Draws) -> Draws:
        return draws.first(repeats[draws.count])

    def choose(draws: Draws) -> Choice:
        chosen = choose_durations(work.parallel, recipe, drawn(draws), data(False), work.seed)
        return Choice(*chosen)

    def predict(draws: Draws, choice: Choice) -> dict[str, np.ndarray]:
        arguments = (choice.values, drawn(draws), data(True), work.seed)
        return {"predicted": train_draws(work.parallel, recipe, *arguments)}

    return Group(f"{recipe.name}-v{VERSION}", tuple(arms), choose, predict)

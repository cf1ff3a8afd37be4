"""Groups of arms that are computed together: the same head on features of the same width."""

from collections.abc import Sequence
from functools import cache, partial

import numpy as np

from twostage_jax.runs.study import representations
from twostage_jax.runs.study.arms import Arm
from twostage_jax.runs.study.cells import cell_name
from twostage_jax.runs.study.draws import Draws, make_draws
from twostage_jax.runs.study.group import Choice, Group, Work, make_head_function
from twostage_jax.runs.study.on_graph import Graph, predict_on_graph
from twostage_jax.runs.study.representations import (
    Representation,
    features_of,
    load_features,
    scaled,
)
from twostage_jax.runs.study.solved import GRIDS, Heldout, choose_values, predict_draws
from twostage_jax.runs.study.sources import Source
from twostage_jax.runs.study.training_groups import end_to_end_group, train_group
from twostage_jax.stages.stage import Head


def make_groups(work: Work, arms: Sequence[Arm]) -> list[Group]:
    """Group arms by head and width, so that arms of one shape are computed together."""
    groups = []
    by_shape: dict[tuple[str, int], list[Arm]] = {}
    features: dict[str, Representation] = {}
    for arm in arms:
        if not arm.representation:
            groups.append(end_to_end_group(work, arm))
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
        make = train_group if head.solve is None else _solved
        groups.append(make(work, f"{protocol}-{width}", same, banks))
    return groups


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
            heldout = [Heldout(part, label) for part in features_of(banks, "validation")]
        train = features_of(banks, "train", labelled)
        return Choice(*choose_values(work.parallel, name, make_head, grid, drawn, train, heldout))

    def predict(draws: Draws, choice: Choice) -> dict[str, np.ndarray]:
        predicted = predict_draws(
            work.parallel,
            name,
            make_head,
            grid,
            choice.values,
            work.drawn(draws),
            features_of(banks, "train", labelled),
            features_of(banks, "test"),
        )
        return {"predicted": predicted}

    return Group(name, tuple(arms), choose, predict)


def _prepared(work: Work, head: Head, arm: Arm, bank: Representation) -> Group:
    """Group of a head on a graph of all training images, labelled or not."""
    source = work.source

    def choose(draws: Draws) -> Choice:
        shape = (1, len(work.drawn(draws).index))
        return Choice(np.zeros(shape, np.float32), "default")

    @cache
    def predict_all() -> dict[int, dict[str, np.ndarray]]:
        """Results for all numbers of labels, which share the search for the test images."""
        features = bank.features("train")
        assert head.prepare is not None
        prepare = partial(head.prepare, features)
        prepared = source.cached_arrays(f"graph-{cell_name(arm.name)}", prepare)
        graph = Graph(features, prepared, bank.features("test"), source.dataset.train["label"])
        draws = [
            work.drawn(make_draws(source.dataset, count, work.seed, work.draws))
            for count in work.counts
        ]
        results = predict_on_graph(work.parallel, arm.protocol, head, draws, graph)
        return dict(zip(work.counts, results, strict=True))

    def predict(draws: Draws, choice: Choice) -> dict[str, np.ndarray]:
        return predict_all()[draws.count]

    return Group(cell_name(arm.name), (arm,), choose, predict)

"""`twostage study noise`: accuracy under wrong labels, and advice from noisy validation labels.

Training and validation labels have the same kind of noise, because a user has no clean labels. The
advice only uses predictions on validation. Clean test labels measure the quality of the advice.
"""

import csv
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from twostage_jax.config.studies import NOISE_DRAWS, NoiseStudy
from twostage_jax.data.dataset import Dataset
from twostage_jax.errors import UserError
from twostage_jax.runs.study.cells import cell_name, npz_bytes
from twostage_jax.runs.study.context import Context, Values
from twostage_jax.runs.study.noise_arms import NoiseArm, default_arms, parse_arms
from twostage_jax.runs.study.noise_labels import Noise, draw_noisy, list_noises, load_transition
from twostage_jax.runs.study.noise_train import (
    END_TO_END_EPOCHS,
    EPOCHS,
    Images,
    Labels,
    epochs_of,
    normalised,
    predict_head,
    predict_network,
)
from twostage_jax.runs.study.parallel import Parallel
from twostage_jax.runs.study.sources import Source
from twostage_jax.scores.advice import advise, rank
from twostage_jax.scores.figures import compute_scores
from twostage_jax.show.noise import plot_noise, show_noise
from twostage_jax.store.atomic import write_bytes

SCORES = "scores.csv"
PREDICTIONS = "predictions"
FIGURES = ("accuracy", "balanced_accuracy", "worst_class_accuracy")


def check_noise(study: NoiseStudy, dataset: Dataset) -> None:
    """Check the options of a study against its data.

    Raises:
        UserError: no validation examples, no noise, an unknown arm, or a matrix that is not
            stochastic.
    """
    if not len(dataset.validation["label"]):
        raise UserError(
            "the advice of a noise study needs validation examples: give --validation N"
        )
    if not _noises(study):
        raise UserError(
            "--rates none and --asymmetric none leave no noise: give at least one rate, or "
            "--transition FILE"
        )
    load_transition(study.transition, len(dataset.classes))
    _arms(study, dataset)


def _noises(study: NoiseStudy) -> list[Noise]:
    rates: Any = study.rates
    asymmetric: Any = study.asymmetric
    return list_noises(rates, asymmetric, study.transition)


def _arms(study: NoiseStudy, dataset: Any) -> list[NoiseArm]:
    examples = len(dataset.train["label"])
    return parse_arms(study.arms or default_arms(examples), examples)


def study_noise(context: Context[NoiseStudy]) -> Values:
    """Compute, print and write a noise study; return the results for `study.json`."""
    study = context.study
    source = context.source
    noises = _noises(study)
    arms = _arms(study, source.dataset)
    draws = study.draws or NOISE_DRAWS
    seeds = [(study.seed or 0) + draw for draw in range(draws)]
    # There is nothing to choose on test: all settings are fixed, and the advice uses validation.
    test = source.unlock()
    labels = _noisy_labels(source, noises, seeds, study.transition)
    parallel = Parallel()
    rows = []
    for arm in arms:
        repeats = draws if arm.representation else 1
        with context.terminal.status(f"fitting {arm.name}"):
            arrays = context.cells.compute(
                f"arm-{arm.name}",
                lambda arm=arm, repeats=repeats: _predict(
                    context, parallel, arm, _members(labels, repeats)
                ),
            )
        shaped = {name: values.reshape(len(noises), repeats, -1) for name, values in arrays.items()}
        rows += _score(arm, shaped, noises, seeds, labels, test["label"], len(source.classes))
        _write_predictions(context, arm, shaped, labels, test["label"], noises)
    held_out = len(source.dataset.validation["label"])
    results = _summarise(rows, arms, noises, draws, source.classes, held_out)
    write_bytes(context.folder / SCORES, _csv(rows))
    for kind in ("png", "svg"):
        write_bytes(context.folder / f"noise.{kind}", plot_noise(results, kind))
    show_noise(results, context.terminal)
    return results


def _noisy_labels(
    source: Source, noises: list[Noise], seeds: list[int], transition: str | None
) -> dict[str, np.ndarray]:
    """Return noisy labels int32 `[G, R, ...]` of `train` and `validation`."""
    classes = len(source.classes)
    matrix = load_transition(transition, classes)
    dataset = source.dataset
    return {
        "train": draw_noisy(dataset.train["label"], noises, seeds, classes, matrix),
        "validation": draw_noisy(
            dataset.validation["label"], noises, seeds, classes, matrix, validation=True
        ),
    }


def _members(labels: dict[str, np.ndarray], repeats: int) -> Labels:
    """Return the labels of all noises and of the first draws, as members."""
    parts = {name: values[:, :repeats] for name, values in labels.items()}
    groups = len(parts["train"])
    draw = np.tile(np.arange(repeats, dtype=np.int32), groups)
    flat = {name: values.reshape(groups * repeats, -1) for name, values in parts.items()}
    return Labels(flat["train"], flat["validation"], draw)


def _predict(
    context: Context[NoiseStudy], parallel: Parallel, arm: NoiseArm, labels: Labels
) -> dict[str, np.ndarray]:
    study = context.study
    source = context.source
    labelled = len(source.dataset.train["label"])
    classes = len(source.classes)
    seed = study.seed or 0
    if not arm.representation:
        images = Images(
            source.dataset.train["image"],
            source.dataset.validation["image"],
            source.split_images("test"),
        )
        epochs = epochs_of(study.end_to_end_epochs, labelled, END_TO_END_EPOCHS)
        encoder = source.networks.encoder
        predicted = predict_network(parallel, arm, encoder, images, labels, classes, epochs, seed)
    else:
        features = source.features
        if arm.representation == "random":
            # Not the seed of the pretraining: it would give the same initial values.
            def features(split: str) -> np.ndarray:
                return source.random_features(split, seed + 1)

        images = Images(features("train")[:labelled], features("validation"), features("test"))
        epochs = epochs_of(study.epochs, labelled, EPOCHS)
        predicted = predict_head(parallel, arm, normalised(images), labels, classes, epochs, seed)
    small = np.uint8 if classes <= 256 else np.int32
    return {name: values.astype(small) for name, values in predicted.items()}


def _score(
    arm: NoiseArm,
    predicted: dict[str, np.ndarray],
    noises: list[Noise],
    seeds: list[int],
    labels: dict[str, np.ndarray],
    test: np.ndarray,
    classes: int,
) -> list[Values]:
    """Return the figures of an arm, one dict for each noise and draw."""
    rows = []
    for group, noise in enumerate(noises):
        for draw in range(predicted["test"].shape[1]):
            scores = compute_scores(_one_hot(predicted["test"][group, draw], classes), test)
            assert scores.per_class_accuracy is not None and scores.worst_class is not None
            right = predicted["validation"][group, draw] == labels["validation"][group, draw]
            rows.append(
                {
                    "arm": arm.name,
                    "noise": noise.kind,
                    "rate": noise.rate,
                    "draw": draw,
                    "seed": seeds[draw],
                    "accuracy": scores.accuracy,
                    "balanced_accuracy": scores.balanced_accuracy,
                    "worst_class": scores.worst_class,
                    "worst_class_accuracy": scores.per_class_accuracy[scores.worst_class],
                    "noisy_validation_accuracy": float(right.mean()),
                }
            )
    return rows


def _one_hot(predicted: np.ndarray, classes: int) -> np.ndarray:
    return np.eye(classes)[predicted]


def _summarise(
    rows: Sequence[Values],
    arms: Sequence[NoiseArm],
    noises: Sequence[Noise],
    draws: int,
    classes: Sequence[str],
    held_out: int,
) -> Values:
    """Return means over draws, and the advice; `held_out` counts the validation examples."""
    table = []
    for arm in arms:
        for noise in noises:
            matching = [x for x in rows if (x["arm"], x["noise"], x["rate"]) == (arm.name, *noise)]
            entry: Values = {"arm": arm.name, "noise": noise.name, "draws": len(matching)}
            for name in (*FIGURES, "noisy_validation_accuracy"):
                values = [float(x[name]) for x in matching]
                entry[name] = {
                    "mean": float(np.mean(values)),
                    "lowest": min(values),
                    "highest": max(values),
                }
            table.append(entry)
    examples = {x["arm"]: x["draws"] * held_out for x in table}
    validation = [_column(table, noise.name, "noisy_validation_accuracy") for noise in noises]
    test = [_column(table, noise.name, "accuracy") for noise in noises]
    order = rank(validation)
    advice = [
        {"noise": noise.name, **advise(seen, measured, examples, order)._asdict()}
        for noise, seen, measured in zip(noises, validation, test, strict=True)
    ]
    chosen = order[0]
    hindsight = rank(test)[0]
    return {
        "arms": [arm.name for arm in arms],
        "noises": [noise.name for noise in noises],
        "draws": draws,
        "classes": list(classes),
        "table": table,
        "advice": advice,
        "overall": {
            "chosen": chosen,
            "best": hindsight,
            "mean_accuracy": float(np.mean([cell[chosen] for cell in test])),
            "best_mean_accuracy": float(np.mean([cell[hindsight] for cell in test])),
            "mean_gap": float(np.mean([entry["gap"] for entry in advice])),
            "largest_gap": float(max(entry["gap"] for entry in advice)),
        },
    }


def _column(table: Sequence[Values], noise: str, figure: str) -> dict[str, float]:
    """Return the mean of a figure for each arm, under one noise."""
    return {x["arm"]: x[figure]["mean"] for x in table if x["noise"] == noise}


def _write_predictions(
    context: Context[NoiseStudy],
    arm: NoiseArm,
    predicted: dict[str, np.ndarray],
    labels: dict[str, np.ndarray],
    test: np.ndarray,
    noises: Sequence[Noise],
) -> None:
    """Write `predictions/ARM.npz`, from which all figures can be computed again."""
    repeats = predicted["test"].shape[1]
    dataset = context.source.dataset
    arrays = {
        "noise": np.array([noise.name for noise in noises]),
        "test": predicted["test"],
        "test_label": test,
        "test_index": dataset.rows["test"],
        "validation": predicted["validation"],
        "validation_label": dataset.validation["label"],
        "validation_noisy_label": labels["validation"][:, :repeats],
        "validation_index": dataset.rows["validation"],
    }
    (context.folder / PREDICTIONS).mkdir(exist_ok=True)
    write_bytes(context.folder / PREDICTIONS / f"{cell_name(arm.name)}.npz", npz_bytes(arrays))


def _csv(rows: Sequence[Values]) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()

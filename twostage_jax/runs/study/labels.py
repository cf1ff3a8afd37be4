"""`twostage study labels`: error against the number of labels, for every arm.

All choices are made first, with labels of the draws or of the validation split. Then the test split
is unlocked, and every arm is fitted with its choices and predicts the test split.
"""

import csv
import io
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np

from twostage_jax.config.studies import ALL, COUNTS, DRAWS, LabelStudy
from twostage_jax.data.dataset import Dataset, TrainingData
from twostage_jax.errors import UserError
from twostage_jax.runs.study.arms import Arm, make_arms
from twostage_jax.runs.study.cells import cell_name, npz_bytes
from twostage_jax.runs.study.context import Context, Values
from twostage_jax.runs.study.draws import Draws, make_draws
from twostage_jax.runs.study.group import Choice, Group, Work
from twostage_jax.runs.study.groups import make_groups
from twostage_jax.runs.study.parallel import Parallel
from twostage_jax.runs.study.representations import check_features
from twostage_jax.runs.study.sources import Source
from twostage_jax.runs.study.summary import summarise
from twostage_jax.show.curves import plot_label_curves
from twostage_jax.show.study import show_label_study
from twostage_jax.store.atomic import write_bytes

ERRORS = "errors.csv"
TABLE = "table.csv"
PREDICTIONS = "predictions"
VERSION = 2  # part of the names of cells; a larger one if their content changes


def resolve_counts(study: LabelStudy, dataset: TrainingData) -> tuple[list[int], list[int]]:
    """Return the numbers of labels in ascending order, and the defaults that do not fit.

    Raises:
        UserError: a requested number does not fit the data.
    """
    available = len(dataset.train["label"])
    asked: tuple[int, ...] = study.counts or COUNTS  # pyright: ignore[reportAssignmentType]
    numbers = sorted({available if count == ALL else count for count in asked})
    classes = len(dataset.classes)
    wrong = [count for count in numbers if not classes <= count <= available]
    if wrong and study.counts:
        raise UserError(
            f"--counts {wrong[0]} does not fit {available:,} labelled training examples in "
            f"{classes} classes, and each class needs a label: give numbers from {classes} to "
            f"{available:,}"
        )
    return [count for count in numbers if count not in wrong], wrong


def check_labels(study: LabelStudy, dataset: Dataset) -> None:
    """Check the options of a study against its data.

    Raises:
        UserError: numbers of labels, arms, protocols or files of features that do not fit.
    """
    counts, _ = resolve_counts(study, dataset)
    if not counts:
        raise UserError(
            f"{dataset.name} has {len(dataset.train['label'])} labelled training examples in "
            f"{len(dataset.classes)} classes, too few for a study: give more labels"
        )
    # A class without a label is reported here, before the training.
    make_draws(dataset, counts[0], 0, 1)
    for path in {arm.file for arm in make_arms(study) if arm.file}:
        check_features(path, dataset, len(dataset.test["label"]))
    if study.select == "validation" and not len(dataset.validation["label"]):
        raise UserError("--select validation needs validation examples: give --validation N")


def study_label_counts(context: Context[LabelStudy]) -> Values:
    """Compute, print and write a label study; return the results for `study.json`."""
    study = context.study
    source = context.source
    counts, unfit = resolve_counts(study, source.dataset)
    if unfit:
        words = ", ".join(f"{count:,}" for count in unfit)
        context.terminal.line(
            f"numbers of labels: {', '.join(f'{n:,}' for n in counts)} ({words} do not fit)", hang=2
        )
    arms = make_arms(study)
    seed = study.seed or 0
    work = Work(
        source,
        Parallel(),
        seed,
        tuple(counts),
        study.draws or DRAWS,
        select_on_validation=study.select == "validation",
    )
    groups = make_groups(work, arms)
    draws = {n: make_draws(source.dataset, n, seed, work.draws) for n in counts}
    with context.terminal.status("choosing strengths"):
        choices = {
            (group.name, n): _choose(context, group, draws[n]) for group in groups for n in counts
        }
    test = source.unlock()
    predictions: dict[tuple[str, int], dict[str, np.ndarray]] = {}
    with context.terminal.status("fitting and predicting"):
        for n in counts:
            for group in groups:
                choice = choices[group.name, n]
                fit = partial(group.predict, draws[n], choice)
                arrays = context.cells.compute(f"fit-{group.name}-{n}-v{VERSION}", fit)
                for number, arm in enumerate(group.arms):
                    predictions[arm.name, n] = _prediction(
                        source, arrays, number, choice, draws[n], test["label"]
                    )
    rows = [
        _row(arm, n, predictions[arm.name, n], choices[_group_of(groups, arm), n], draws[n], seed)
        for arm in arms
        for n in counts
    ]
    _write_predictions(context.folder, predictions)
    results = summarise(rows, source.dataset, work.select_on_validation, arms)
    write_bytes(context.folder / ERRORS, _errors_csv(rows))
    write_bytes(context.folder / TABLE, _table_csv(results["table"]))
    for kind in ("png", "svg"):
        write_bytes(context.folder / f"curve.{kind}", plot_label_curves(results, kind))
    show_label_study(results, context.terminal)
    return results


def _group_of(groups: Iterable[Group], arm: Arm) -> str:
    return next(group.name for group in groups if arm in group.arms)


def _choose(context: Context[LabelStudy], group: Group, draws: Draws) -> Choice:
    """Return the choices of a group; kept in a cell."""
    words = {}

    def make() -> dict[str, np.ndarray]:
        choice = group.choose(draws)
        words["how"] = choice.how
        return {"values": choice.values, "how": np.array(choice.how)}

    arrays = context.cells.compute(f"choose-{group.name}-{draws.count}-v{VERSION}", make)
    return Choice(arrays["values"], str(arrays["how"]))


def _prediction(
    source: Source,
    arrays: dict[str, np.ndarray],
    number: int,
    choice: Choice,
    draws: Draws,
    label: np.ndarray,
) -> dict[str, np.ndarray]:
    """Arrays of a file of predictions: those of one arm and number of labels."""
    predicted = arrays["predicted"][number]
    small = np.uint8 if len(source.classes) <= 256 else np.int32
    rows = source.dataset.rows
    result = {
        "predicted": predicted.astype(small),
        "label": label,
        "index": rows["test"],
        "labelled": rows["train"][draws.index[: len(predicted)]].astype(np.int32),
        "strength": choice.values[number][: len(predicted)],
    }
    if "transductive" in arrays:
        result["transductive"] = arrays["transductive"][number]
    return result


def _row(
    arm: Arm,
    count: int,
    prediction: dict[str, np.ndarray],
    choice: Choice,
    draws: Draws,
    seed: int,
) -> Values:
    """Errors of one arm and number of labels."""
    wrong = prediction["predicted"] != prediction["label"][None]
    return {
        "arm": arm.name,
        "count": count,
        "errors": wrong.mean(1),
        "wrong": wrong,
        "seeds": [seed + number for number in range(len(wrong))],
        "strength": prediction["strength"],
        "how": choice.how,
        "transductive": prediction.get("transductive"),
        "smallest": draws.smallest,
    }


def _write_predictions(folder: Path, predictions: dict[tuple[str, int], dict]) -> None:
    """Write `predictions/ARM-COUNT.npz`."""
    (folder / PREDICTIONS).mkdir(exist_ok=True)
    for (name, count), arrays in predictions.items():
        path = folder / PREDICTIONS / f"{cell_name(name)}-{count}.npz"
        write_bytes(path, npz_bytes(arrays))


def _errors_csv(rows: list[Values]) -> bytes:
    """One line for each arm, number of labels and draw."""
    lines = []
    for row in rows:
        for number, error in enumerate(row["errors"]):
            inside = row["transductive"]
            lines.append(
                {
                    "arm": row["arm"],
                    "labels": row["count"],
                    "draw": number,
                    "seed": row["seeds"][number],
                    "test_error": repr(float(error)),
                    "test_wrong": int(row["wrong"][number].sum()),
                    "transductive_error": "" if inside is None else repr(float(inside[number])),
                    "strength": f"{row['strength'][number]:g}",
                    "chosen_by": row["how"],
                }
            )
    return _csv(lines)


def _table_csv(table: list[Values]) -> bytes:
    """One line for each arm and number of labels."""
    lines = []
    for entry in table:
        line = {name: value for name, value in entry.items() if name != "minus"}
        for control, interval in entry["minus"].items():
            for part, value in zip(("", "_low", "_high"), interval, strict=True):
                line[f"minus_{control}{part}"] = value
        lines.append(line)
    return _csv(lines)


def _csv(lines: list[Values]) -> bytes:
    names = list(dict.fromkeys(name for line in lines for name in line))
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, names, restval="")
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue().encode()

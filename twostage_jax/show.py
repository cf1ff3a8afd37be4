"""The tables of a run: records in, lines on a terminal out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from twostage_jax.config import Config
from twostage_jax.data import Dataset, duplicates
from twostage_jax.terminal import Terminal

PARTS = ("train", "validation", "test")


def show_data(dataset: Dataset, config: Config, device: str, terminal: Terminal) -> None:
    """One line each on the data and the settings of a run."""
    counts = ", ".join(f"{len(getattr(dataset, part)['label']):,} {part}" for part in PARTS)
    shape = "x".join(map(str, dataset.image_shape))
    terminal.line(f"{dataset.name}: {counts}; {shape} images, {len(dataset.classes)} classes")
    terminal.line(f"preset {config.preset}, seed {config.seed}, on {device}")


def show_groups(stage: str, groups: Sequence[tuple], terminal: Terminal) -> None:
    """The parameter groups of a stage, as `stage.group_sizes` gives them."""
    terminal.line()
    terminal.table(f"{stage}: parameter groups", ("group", "state", "parameters", "bytes"), groups)


def show_result(record: dict[str, Any], folder: Path, terminal: Terminal) -> None:
    """The table of results of a run, the proof of freezing, and where it all is."""
    terminal.line()
    show_scores("results", {part: record[part] for part in ("validation", "test")}, terminal)
    loss = record["pretrain"]["loss"]
    terminal.line(
        f"stage 1   {record['pretrain']['objective']}, {record['pretrain']['epochs']} epochs"
        + ("" if loss is None else f", loss {loss:.4f}")
    )
    terminal.line(f"encoder   frozen in stage 2, unchanged: {record['frozen']['after']}")
    seconds = record["seconds"]
    spent = ", ".join(f"{name} {s:.1f}" for name, s in seconds.items() if s and name != "total")
    terminal.line(f"seconds   {seconds['total']:.1f} in all ({spent})")
    terminal.line(f"run       {folder}")


def show_scores(title: str, parts: dict[str, dict[str, Any]], terminal: Terminal) -> None:
    """A row of scores for each part."""
    names = ["accuracy", "nll", "ece", "brier"]
    if any("reconstruction" in scores for scores in parts.values()):
        names.append("reconstruction")
    rows = []
    for part, scores in parts.items():
        values = [scores.get(name) for name in names]
        rows.append((part, *("-" if v is None else f"{v:.4f}" for v in values), scores["count"]))
    terminal.table(title, ("part", *names, "count"), rows)


def show_classes(scores: dict[str, Any], classes: Sequence[str], terminal: Terminal) -> None:
    """Accuracy of each class, how many examples it has, and what it is most often taken for."""
    rows = []
    for index, name in enumerate(classes):
        counts = np.array(scores["confusion"][index])
        wrong = np.where(np.arange(len(counts)) == index, 0, counts)
        other = f"{classes[int(wrong.argmax())]} ({wrong.max()})" if wrong.any() else "-"
        accuracy = scores["per_class_accuracy"][index]
        shown = "-" if accuracy is None else f"{accuracy:.4f}"
        rows.append((name, shown, int(counts.sum()), other))
    terminal.table("by class", ("class", "accuracy", "count", "most often taken for"), rows)


def show_dataset(dataset: Dataset, terminal: Terminal) -> None:
    """What `twostage data` prints."""
    shape = "x".join(map(str, dataset.image_shape))
    terminal.line(f"{dataset.name}: uint8 images {shape}, {len(dataset.classes)} classes")
    counts = {
        part: np.bincount(getattr(dataset, part)["label"], minlength=len(dataset.classes))
        for part in PARTS
    }
    rows = [
        (name, *(int(counts[part][index]) for part in PARTS))
        for index, name in enumerate(dataset.classes)
    ]
    rows.append(("all", *(int(counts[part].sum()) for part in PARTS)))
    terminal.table("examples", ("class", *PARTS), rows)
    for part in PARTS:
        image = getattr(dataset, part)["image"]
        if image.size:
            terminal.line(f"{part}: values {image.min()} to {image.max()}, mean {image.mean():.2f}")
    terminal.line("images that occur in two parts, byte for byte:")
    for pair, count in duplicates(dataset).items():
        terminal.line(f"  {pair}: {count}")
    terminal.line(f"fingerprint {dataset.fingerprint}")

"""The tables of a run: records in, lines on a terminal out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from twostage_jax.config.schema import Config
from twostage_jax.data.dataset import PARTS, Dataset, TrainingData, duplicates
from twostage_jax.engine.memory import Need
from twostage_jax.engine.placement import Placement
from twostage_jax.show.terminal import Terminal


def show_data(dataset: TrainingData, tested: int, config: Config, terminal: Terminal) -> None:
    """One line each on the data, `tested` examples of which are for the end, and the settings."""
    sizes = {part: len(getattr(dataset, part)["label"]) for part in PARTS[:2]} | {"test": tested}
    counts = ", ".join(f"{size:,} {part}" for part, size in sizes.items())
    shape = "x".join(map(str, dataset.image_shape))
    terminal.line(f"{dataset.name}: {counts}; {shape} images, {len(dataset.classes)} classes")
    devices = jax.devices()
    count = f"{len(devices)} x " if len(devices) > 1 else ""
    device = f"{count}{devices[0].device_kind}"
    terminal.line(f"preset {config.preset}, seed {config.seed}, on {device}")


def show_plan(
    placed: Mapping[str, tuple[Placement, Need]], encode_when: str | None, terminal: Terminal
) -> None:
    """Where the members of each stage train, what they need, and when the encoder runs."""
    for name, (placement, need) in placed.items():
        axes = ", ".join(f"{axis} {size}" for axis, size in placement.mesh.shape.items())
        terminal.line(
            f"{name}  {placement.members} members, {placement.chunk} at a time, on {axes}; "
            f"{need.member / 1e6:.2f} MB each, {need.common / 1e6:.1f} MB shared"
        )
    if encode_when:
        terminal.line(f"in stage 2 the encoder runs {encode_when}")


def show_groups(stage: str, groups: Sequence[tuple], terminal: Terminal) -> None:
    """The parameter groups of a stage, as `stage.group_sizes` gives them."""
    terminal.line()
    terminal.table(f"{stage}: parameter groups", ("group", "state", "parameters", "bytes"), groups)


def show_result(record: dict[str, Any], folder: Path, terminal: Terminal) -> None:
    """The table of results of a run, the proof of freezing, and where it all is."""
    terminal.line()
    show_scores("results", {part: record[part] for part in ("validation", "test")}, terminal)
    if "ensemble" in record:
        members = record["ensemble"]
        show_members(record["summary"], len(members["rows"]), "test", terminal)
        for name in members["diverged"]:
            terminal.line(f"diverged  {name}: left out")
    if "sweep" in record:
        show_sweep(record["sweep"], terminal)
    if "uncertainty" in record:
        show_uncertainty(record["uncertainty"], "test", terminal)
    loss = record["pretrain"]["loss"]
    terminal.line(
        f"stage 1   {record['pretrain']['objective']}, {record['pretrain']['epochs']} epochs"
        + ("" if loss is None else f", loss {loss:.4f}")
    )
    terminal.line(f"encoder   frozen in stage 2, unchanged: {record['frozen']['after']}")
    terminal.line(f"test      {times_read(record['test_reads'])}")
    seconds = record["seconds"]
    spent = ", ".join(f"{name} {s:.1f}" for name, s in seconds.items() if s and name != "total")
    terminal.line(f"seconds   {seconds['total']:.1f} in all ({spent})")
    terminal.line(f"run       {folder}")


def times_read(count: int) -> str:
    """How often the test part has been read, as a run's report says it."""
    return "read once" if count == 1 else f"read {count} times: no longer a fresh test"


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


def show_members(summary: dict[str, Any], count: int, part: str, terminal: Terminal) -> None:
    """Members as mean, standard deviation and 95 % interval, and what the ensemble gains."""
    rows = []
    for name in ("accuracy", "nll", "ece", "brier"):
        each = summary[name]
        values = [each[key] for key in ("mean", "std", "low", "high", "ensemble", "gain")]
        rows.append((name, *("-" if v is None else f"{v:.4f}" for v in values)))
    columns = ("score", "mean", "std", "95 % from", "to", "ensemble", "gain")
    terminal.table(f"{count} members on {part}", columns, rows)
    if summary["fewer_errors"] is not None:
        terminal.line(f"ensemble  {summary['fewer_errors']:.1%} fewer errors than the mean member")


def show_sweep(sweep: dict[str, Any], terminal: Terminal) -> None:
    """The grid: scores of the members on validation, and which point was chosen."""
    rows = []
    for number, point in enumerate(sweep["points"]):
        scores = point["validation"] or {}
        figures = [f"{np.mean(scores[n]):.4f}" if scores else "-" for n in ("accuracy", "nll")]
        std = (
            f"{np.std(scores['accuracy'], ddof=1):.4f}" if point["members"] > 1 and scores else "-"
        )
        mark = "chosen" if number == sweep["chosen"] else ""
        values = (f"{x:g}" for x in point["values"].values())
        rows.append((*values, point["members"], figures[0], std, figures[1], mark))
    # Narrow columns, so that three fields fit on a terminal.
    names = (name.replace(".", ".\n").replace("-", "-\n") for name in sweep["fields"])
    columns = (*names, "members", "accuracy", "std", "nll", "")
    terminal.table("sweep, on validation", columns, rows)


def show_uncertainty(found: dict[str, Any], part: str, terminal: Terminal) -> None:
    """Calibration, entropy, prediction sets and the risk-coverage curve."""
    rows = []
    if found["temperature"] is not None:
        calibrated = found["calibrated"]
        rows.append(("temperature, fitted on validation", f"{found['temperature']:.3f}"))
        rows += [
            (f"{name} at that temperature", f"{calibrated[name]:.4f}") for name in ("nll", "ece")
        ]
    rows.append(("predictive entropy (nats)", f"{found['predictive_entropy']:.4f}"))
    if found["mutual_information"] is not None:
        rows.append(("mutual information (nats)", f"{found['mutual_information']:.4f}"))
    rows.append(("area under risk-coverage", f"{found['aurc']:.5f}"))
    if sets := found["conformal"]:
        low, high = sets["interval"]
        rows += [
            (f"covered by sets, {sets['asked']:.0%} asked", f"{sets['measured']:.4f}"),
            ("expected, 95 % of the time", f"{low:.4f} to {high:.4f}"),
            ("classes in a set", f"{sets['mean_size']:.3f}"),
        ]
    terminal.table(f"uncertainty, on {part}", ("figure", ""), rows)


def show_detection(table: dict[str, dict[str, float]], source: str, terminal: Terminal) -> None:
    """How well another source is told from one's own, by each score."""
    rows = [
        (name.replace("_", " "), f"{each['auroc']:.4f}", f"{each['fpr95']:.4f}")
        for name, each in table.items()
    ]
    terminal.table(f"told from {source}", ("score", "AUROC", "FPR at 95 %"), rows)


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

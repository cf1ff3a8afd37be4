"""Sections that support the result: files, ensemble, proof, times, commands."""

import shlex
from collections.abc import Sequence

from twostage_jax.show.epochs import Record
from twostage_jax.show.plots import plot_sweep
from twostage_jax.show.report.blocks import (
    Block,
    Commands,
    Drawing,
    Fact,
    Facts,
    Section,
    Table,
    Text,
)
from twostage_jax.show.report.charts import plot_members
from twostage_jax.show.report.content import Content
from twostage_jax.show.report.result import share_words
from twostage_jax.show.tables import counted

SHOWN = 200  # rows of a csv file on the page


def broken_section(content: Content) -> Section | None:
    """Section on files that could not be read."""
    rows = content.tables.get("broken")
    if rows is None or len(rows) < 2:
        return None
    words = f"{counted(len(rows) - 1, 'file')} could not be read and {_were(rows)} left out."
    return Section("broken", "Broken files", [Text(words), csv_table("Files", rows)])


def _were(rows: Sequence) -> str:
    return "was" if len(rows) == 2 else "were"


def csv_table(caption: str, rows: Sequence[Sequence[str]]) -> Table:
    """Return a table of a csv file, whose first row has the names of the columns."""
    head, *lines = rows
    if len(lines) > SHOWN:
        caption += f" (the first {SHOWN} of {len(lines):,})"
    # A csv file may have rows of any length.
    lines = [[*line, *[""] * len(head)][: len(head)] for line in lines[:SHOWN]]
    used = [number for number in range(len(head)) if any(line[number] for line in lines)]
    columns, *shown = ([line[number] for number in used] for line in (head, *lines))
    return Table(caption, columns, shown, left=len(columns), sortable=True)


def ensemble_section(content: Content) -> Section | None:
    """Section on the members of an ensemble."""
    result = content.result
    if result is None or len(result.ensemble.rows) < 2:
        return None
    accuracy = [value for value in result.member_test["accuracy"] if value is not None]
    count = result.test.count
    summary = result.summary
    facts = [
        Fact("ensemble", share_words(result.test.accuracy, count), "mean of the probabilities"),
        Fact(
            "members",
            share_words(summary.accuracy.mean, count),
            f"mean; {share_words(min(accuracy), count)} to {share_words(max(accuracy), count)}",
        ),
        Fact("encoders", f"{result.ensemble.encoders}", "number of different encoders"),
    ]
    if summary.fewer_errors is not None:
        note = "of the mean member's errors are avoided by the ensemble"
        facts.append(Fact("gain", share_words(summary.fewer_errors), note))
    alt = f"Test accuracy of {len(accuracy)} members and of their ensemble."
    svg = plot_members(accuracy, result.test.accuracy)
    blocks = [Drawing("members", svg, alt, "Test accuracy"), Facts(facts)]
    return Section("ensemble", "Ensemble", blocks)


def sweep_section(content: Content) -> Section | None:
    """Section on the points of a sweep."""
    sweep = getattr(content.result, "sweep", None)
    if sweep is None:
        return None
    blocks: list[Block] = []
    scored = any(point.validation for point in sweep.points)
    if scored:
        alt = "Validation accuracy over the first field of the sweep; a ring marks the choice."
        blocks.append(Drawing("sweep", plot_sweep(sweep, "page"), alt, wide=True))
    rows = []
    for number, point in enumerate(sweep.points):
        values = ", ".join(f"{name} {value:g}" for name, value in point.values.items())
        scores = point.validation or {}
        means = (_mean(scores.get(name)) for name in ("accuracy", "nll"))
        chosen = "chosen" if number == sweep.chosen else ""
        rows.append((values, *means, f"{point.members}", chosen))
    columns = ("point", "validation accuracy", "negative log-likelihood", "members", "")
    blocks.append(Table(f"Chosen by the {sweep.chosen_by}", columns, rows, sortable=True))
    return Section("sweep", "Sweep", blocks)


def _mean(values: Sequence[float] | None) -> str:
    return f"{sum(values) / len(values):.4f}" if values else "–"


def proof_section(content: Content) -> Section | None:
    """Section with the digests of the encoder before and after stage 2."""
    result = content.result
    if result is None:
        return None
    frozen = result.frozen
    words = "Stage 2 trained the encoder too, so its digest changed."
    if frozen.groups:
        words = "Stage 2 did not change the encoder: the digests of all its numbers are equal."
    facts = [Fact("before stage 2", "", frozen.before), Fact("after stage 2", "", frozen.after)]
    return Section("frozen", "Proof that the encoder was frozen", [Text(words), Facts(facts)])


def environment_section(content: Content) -> Section:
    """Section on times, machine and versions."""
    manifest = content.manifest
    machine = manifest.machine
    blocks: list[Block] = []
    result = content.result
    if result is not None:
        total = result.seconds["total"]
        rows = [
            (name, f"{seconds:.2f}", f"{100 * seconds / total:.0f} %")
            for name, seconds in result.seconds.items()
            if seconds and name != "total" and total
        ]
        rows.append(("total", f"{total:.2f}", ""))
        blocks.append(Table("Seconds of each phase", ("phase", "seconds", "share"), rows))
    cores = counted(machine.cores, "core")
    devices = f"{counted(machine.devices, 'device')}, {cores}"
    facts = [Fact("device", machine.device, devices)]
    if result is not None:
        facts.append(Fact("Python", result.environment.python))
    versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    facts.append(Fact("versions", "", versions))
    blocks.append(Facts(facts))
    return Section("environment", "Times and environment", blocks)


def repeat_section(content: Content) -> Section:
    """Section with the commands that repeat and use the run."""
    folder = shlex.quote(content.folder)
    has_head = content.result is not None or any(epoch.stage == "head" for epoch in content.epochs)
    # The data of a pretrained encoder may have no labels, and then `run` would refuse them.
    command = "run" if has_head else "pretrain"
    lines = [
        f"twostage {command} --config {shlex.quote(f'{content.folder}/config.json')} --out NEW",
        f"twostage head --from {folder} --out NEW",
    ]
    uses = "train a head on its encoder"
    if content.result is not None:
        lines.append(f"twostage evaluate {folder}")
        uses += ", evaluate it"
    lines.append(f"twostage report {folder}")
    words = (
        "The first command repeats the run, with the same bits on the same machine and with the "
        f"same versions. The others {uses}, and rebuild this page."
    )
    seed = _seed(content.manifest)
    return Section("repeat", "Repeat it", [Text(words), Commands(lines), Facts([seed])])


def _seed(manifest: Record) -> Fact:
    preset = manifest.config.get("preset")
    note = f"preset {preset}" if preset else ""
    return Fact("seed", f"{manifest.config.get('seed') or 0}", note)

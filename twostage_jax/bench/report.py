"""The report of a benchmark: its header, its files and its tables on the terminal."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from twostage_jax.bench.figures import Column, table
from twostage_jax.bench.records import Report
from twostage_jax.show.terminal import Terminal
from twostage_jax.store.atomic import write_bytes

Ratios = list[tuple[str, str]]


@dataclass(frozen=True)
class Layout:
    """The tables of a benchmark.

    Attributes:
        columns: columns of the table by name.
        short: the columns that the terminal shows, with short headings.
        titles: titles of the table and of the ratios on the terminal.
        ratios: `report -> [(title, "6.4 [6.1, 6.6] x")]`.
        header: `report -> lines` with the conditions of the measurement.
    """

    columns: Mapping[str, Column]
    short: Mapping[str, str]
    titles: tuple[str, str]
    ratios: Callable[[Report], Ratios]
    header: Callable[[Report], list[str]]


def conditions(report: Report, epochs: str) -> list[str]:
    """Return three lines: data, epochs and repetitions; machine and date; versions."""
    machine = report["machine"]
    data = report["data"]
    device = "" if machine["device"] == "cpu" else f", {machine['device']}"
    repeats = max(len(entry["repetitions"]) for entry in report["rows"])
    return [
        f"{data['name']}, {data['train']:,} training images, {epochs}, repetitions: {repeats}; "
        "median [minimum, maximum]",
        f"{machine['cores']} cores, {machine['cpu']}{device}; {report['date']}",
        ", ".join(f"{name} {version}" for name, version in report["versions"].items()),
    ]


def write(report: Report, folder: Path, layout: Layout) -> None:
    """Write `bench.json` with every repetition and `bench.md` with the tables."""
    text = json.dumps(report, indent=1, allow_nan=False)
    write_bytes(folder / "bench.json", f"{text}\n".encode())
    write_bytes(folder / "bench.md", markdown(report, layout).encode())


def markdown(report: Report, layout: Layout) -> str:
    """Return the header and the tables in Markdown."""
    rows = table(report, layout.columns)
    lines = [f"- {line}" for line in layout.header(report)]
    lines += ["", f"| {' | '.join(rows[0])} |", f"|{' --- |' * len(rows[0])}"]
    lines += [f"| {' | '.join(row.values())} |" for row in rows]
    ratios = layout.ratios(report)
    if ratios:
        lines += ["", "| ratio | |", "| --- | --- |"]
        lines += [f"| {title} | {text} |" for title, text in ratios]
    return "\n".join(lines) + "\n"


def show(report: Report, folder: Path, terminal: Terminal, layout: Layout) -> None:
    """Print the medians; the ranges are in `bench.md`."""
    terminal.line()
    for line in layout.header(report):
        terminal.line(line)
    titles = [layout.columns[name].title for name in layout.short]
    rows = []
    for entry, texts in zip(report["rows"], table(report, layout.columns), strict=True):
        # The text in front of the bracket is the median.
        medians = [texts[title].partition(" [")[0] for title in titles]
        rows.append([entry["name"], *medians])
    terminal.line()
    terminal.table(layout.titles[0], ("row", *layout.short.values()), rows)
    ratios = layout.ratios(report)
    if ratios:
        terminal.line()
        terminal.table(layout.titles[1], ("ratio", ""), ratios)
    terminal.line(f"bench     {folder}")

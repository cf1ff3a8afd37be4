"""`twostage bench`: all rows in fresh processes, interleaved, and the table they give."""

import contextlib
import dataclasses
import datetime
import os
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from twostage_jax.bench.figures import COLUMNS, Column, ratios, share, table
from twostage_jax.bench.roofline import operations
from twostage_jax.bench.rows import Row, Setting, chosen_rows, matrix_rate, with_threads
from twostage_jax.data.dataset import Dataset
from twostage_jax.data.sources import load
from twostage_jax.errors import UserError
from twostage_jax.show.terminal import Terminal
from twostage_jax.store import layout as folders

PACKAGES = ("twostage-jax", "jax", "jaxlib", "flax", "optax", "torch", "numpy")
QUICK = {"repeats": 1, "epochs": 2}
FULL = {"repeats": 3, "epochs": 5}
SHORT = {
    "cold": "whole",
    "pretrain": "epoch 1",
    "head": "epoch 2",
    "stage_2": "stage 2",
    "accuracy": "test %",
    "share": "rate %",
}


def bench(
    data: str | None = None,
    out: Path | None = None,
    *,
    device: str = "cpu",
    quick: bool = False,
    repeats: int | None = None,
    epochs: int | None = None,
    rows: Sequence[str] = (),
    terminal: Terminal | None = None,
) -> dict[str, Any]:
    """Measure all rows and write `bench.json` and `bench.md` into `out`, after every repetition.

    Args:
        data: SPEC of the data, by default `default_data()`; ours reads it, PyTorch gets the same
            arrays.
        out: folder to make, by default `runs/bench-TIME`.
        device: `cpu`, `gpu` or `tpu`.
        quick: one repetition of two epochs for each stage, without the slowest rows.
        repeats: how often each row is measured, by default three times.
        epochs: of each stage, by default five.
        rows: names out of `bench.rows.ROWS`; by default all.
        terminal: where to print.

    Returns:
        What `bench.json` holds.

    Raises:
        UserError: an unknown row, a device that is not there, a folder that is.
        RuntimeError: a row that failed, with what it said last.
    """
    epochs = epochs or (QUICK if quick else FULL)["epochs"]
    chosen = chosen_rows(rows, quick)
    return compare(SPEED, chosen, data, out, device, quick, repeats, epochs, terminal or Terminal())


@dataclass(frozen=True)
class Kind:
    """A kind of benchmark: what its rows are measured for.

    Attributes:
        name: what its folder is called by default.
        columns: of its table.
        short: those of them that the terminal shows, and as what.
        titles: of the table and of the ratios on the terminal.
        ratios: `report -> [(what, "6.4 [6.1, 6.6] x")]`.
        header: `report -> lines` that say what was measured where.
        note: `(report, row, measured) -> what is added to it`, with the rows before in `report`.
        validation: examples held out of train, by default as for a run.
    """

    name: str
    columns: Mapping[str, Column]
    short: Mapping[str, str]
    titles: tuple[str, str]
    ratios: Callable[[Mapping[str, Any]], list[tuple[str, str]]]
    header: Callable[[Mapping[str, Any]], list[str]]
    note: Callable[[Mapping[str, Any], Row, Mapping[str, Any]], dict[str, Any]]
    validation: int | None = None


def compare(
    kind: Kind,
    rows: Sequence[Row],
    data: str | None,
    out: Path | None,
    device: str,
    quick: bool,
    repeats: int | None,
    epochs: int,
    terminal: Terminal,
) -> dict[str, Any]:
    """Measure rows and write what came of it; see `bench`."""
    rows = installed(rows, device, terminal)
    with terminal.phase("data", "reading data"):
        data = data or default_data()
        dataset = load(data, kind.validation)
    terminal.line(f"on {data}: {len(dataset.train['label']):,} training images")
    out = folders.create(out, kind.name)
    counts = [repeats or _repeats(row, quick) for row in rows]
    with tempfile.TemporaryDirectory(prefix="twostage-bench-") as scratch:
        setting = _setting(dataset, data, epochs, device, Path(scratch))
        with terminal.phase("bench", "measuring the matrix-product rate"):
            first = _rate(setting)
        with terminal.phase("bench", "tuning PyTorch's threads"):
            setting, tuning = with_threads(setting, rows)
        report = _header(dataset, setting, first["device"], quick, tuning)
        report["rows"] = [{"name": row.name, "title": row.title, "repetitions": []} for row in rows]
        # In turns, as machines drift; what is measured is written after each round.
        for repetition in range(max(counts)):
            due = [row for row, count in zip(rows, counts, strict=True) if repetition < count]
            _repetition(kind, report, due, setting, repetition, max(counts), terminal)
            write(report, out, kind)
    show(report, out, terminal, kind)
    return report


def _repeats(row: Row, quick: bool) -> int:
    count = (QUICK if quick else FULL)["repeats"]
    return min(count, row.most or count)


def default_data() -> str:
    """MNIST in `../shared/data/mnist` beside the project, else the bundled digits."""
    beside = Path("../shared/data/mnist")
    return f"idx:{beside}" if beside.is_dir() else "digits"


def _repetition(
    kind: Kind,
    report: dict[str, Any],
    rows: Sequence[Row],
    setting: Setting,
    repetition: int,
    repeats: int,
    terminal: Terminal,
) -> None:
    """Each row once."""
    entries = {entry["name"]: entry for entry in report["rows"]}
    for row in rows:
        with terminal.phase("bench", f"{repetition + 1}/{repeats}  {row.title}"):
            # The machine's speed drifts, so the rate is taken beside every row.
            rate = _rate(setting)["rate"]
            measured = row.measure(setting, repetition) | {"matrix_rate": rate}
        found = measured | kind.note(report, row, measured)
        entries[row.name]["repetitions"].append(found)
        terminal.line(f"{repetition + 1}/{repeats}  {row.title}: {measured['cold']:.1f} s")


def _share(report: Mapping[str, Any], row: Row, measured: Mapping[str, Any]) -> dict[str, Any]:
    if not measured.get("pretrain") or row.name in ("torch-s0", "ours-s0"):
        return {}
    return {"share": share(measured, report["operations"]["pretrain"], measured["matrix_rate"])}


def installed(rows: Sequence[Row], device: str, terminal: Terminal) -> Sequence[Row]:
    """`rows` without those of PyTorch where it cannot run, and a line that says so."""
    if not any(row.needs_torch for row in rows):
        return rows
    if find_spec("torch") is None:
        terminal.line("PyTorch is not installed: its rows are skipped; pip install '.[bench]'")
    elif device == "tpu":
        terminal.line("PyTorch's rows are skipped: they run on cpu and gpu")
    else:
        return rows
    ours = [row for row in rows if not row.needs_torch]
    if not ours:
        raise UserError("none of these rows can run: install the extra bench, or choose others")
    return ours


def _setting(dataset: Dataset, data: str, epochs: int, device: str, scratch: Path) -> Setting:
    arrays = scratch / "data.npz"
    parts = {"train": dataset.train, "test": dataset.test}
    flat: dict[str, Any] = {f"x_{name}": part["image"] for name, part in parts.items()}
    flat |= {f"y_{name}": part["label"] for name, part in parts.items()}
    np.savez(arrays, **flat)
    pixels, count = int(np.prod(dataset.image_shape)), len(dataset.train["label"])
    setting = Setting(data, arrays, pixels, len(dataset.classes), count, epochs, device, scratch)
    return dataclasses.replace(setting, validation=len(dataset.validation["label"]))


def _rate(setting: Setting) -> dict[str, Any]:
    try:
        return matrix_rate(setting)
    except RuntimeError as error:
        raise UserError(
            f"jax cannot use the device {setting.device!r} ({error}): choose another --device, or "
            "install the extra for it"
        ) from error


def _header(
    dataset: Dataset, setting: Setting, device: str, quick: bool, tuning: dict[str, Any]
) -> dict[str, Any]:
    return {
        "schema": 1,
        "date": datetime.date.today().isoformat(),
        "machine": {"cpu": _cpu_name(), "cores": os.cpu_count(), "device": device},
        "versions": {name: found for name in PACKAGES if (found := _version(name))}
        | {"python": platform.python_version()},
        "data": {"name": dataset.name, "train": setting.count, "fingerprint": dataset.fingerprint},
        "epochs": setting.epochs,
        "quick": quick,
        "operations": operations(setting.pixels, setting.classes, setting.count),
        "threads": tuning,
    }


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    with contextlib.suppress(PackageNotFoundError):
        return version(name)
    return None


def header(report: Mapping[str, Any]) -> list[str]:
    """What was measured where, in lines."""
    epochs, rates = report["epochs"], _rates(report)
    return [
        *where(report, f"{epochs}+{epochs} epochs, "),
        f"large matrix products: {min(rates):,.0f} to {max(rates):,.0f} GFLOP/s; an epoch of stage "
        f"1 is {report['operations']['pretrain'] / 1e9:,.1f} GFLOP",
    ]


def _rates(report: Mapping[str, Any]) -> list[float]:
    return [m["matrix_rate"] / 1e9 for row in report["rows"] for m in row["repetitions"]]


def where(report: Mapping[str, Any], epochs: str) -> list[str]:
    """Data, epochs and repetitions; machine; versions."""
    machine, data = report["machine"], report["data"]
    device = "" if machine["device"] == "cpu" else f", {machine['device']}"
    versions = ", ".join(f"{name} {found}" for name, found in report["versions"].items())
    repeats = max(len(row["repetitions"]) for row in report["rows"])
    return [
        f"{data['name']}, {data['train']:,} training images, {epochs}repetitions: {repeats}; "
        "median [minimum, maximum]",
        f"{machine['cores']} cores, {machine['cpu']}{device}; {report['date']}",
        versions,
    ]


SPEED = Kind(
    name="bench",
    columns=COLUMNS,
    short=SHORT,
    titles=("medians, in seconds", "ours against PyTorch"),
    ratios=ratios,
    header=header,
    note=_share,
    validation=0,
)


def write(report: dict[str, Any], out: Path, kind: Kind = SPEED) -> None:
    """`bench.json` with every repetition, `bench.md` with the tables."""
    folders.write_json(out, "bench.json", report)
    (out / "bench.md").write_text(markdown(report, kind))


def markdown(report: Mapping[str, Any], kind: Kind = SPEED) -> str:
    """The tables as Markdown."""
    rows = table(report, kind.columns)
    lines = [*(f"- {line}" for line in kind.header(report)), ""]
    lines += [f"| {' | '.join(rows[0])} |", f"|{' --- |' * len(rows[0])}"]
    lines += [f"| {' | '.join(row.values())} |" for row in rows]
    found = kind.ratios(report)
    if found:
        lines += ["", "| ratio | |", "| --- | --- |", *(f"| {a} | {b} |" for a, b in found)]
    return "\n".join(lines) + "\n"


def show(report: dict[str, Any], out: Path, terminal: Terminal, kind: Kind = SPEED) -> None:
    """The medians on the terminal; their ranges are in `bench.md`."""
    terminal.line()
    for line in kind.header(report):
        terminal.line(line)
    rows = [
        [entry["name"], *(row[kind.columns[n].title].partition(" [")[0] for n in kind.short)]
        for entry, row in zip(report["rows"], table(report, kind.columns), strict=True)
    ]
    terminal.line()
    terminal.table(kind.titles[0], ("row", *kind.short.values()), rows)
    if found := kind.ratios(report):
        terminal.line()
        terminal.table(kind.titles[1], ("ratio", ""), found)
    terminal.line(f"bench     {out}")

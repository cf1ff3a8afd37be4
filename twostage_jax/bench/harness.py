"""`twostage bench`: all rows in fresh processes, interleaved, and the table of their figures."""

import contextlib
import dataclasses
import datetime
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from twostage_jax.bench.machine import describe, load_average, load_between, usage
from twostage_jax.bench.processes import Plan, matrix_rate
from twostage_jax.bench.records import Machine, Measured, Rate, Report, Tuning
from twostage_jax.bench.report import OTHERS_LIMIT, Layout, ratios, show, write
from twostage_jax.bench.roofline import operations
from twostage_jax.data.dataset import Dataset
from twostage_jax.data.sources import load
from twostage_jax.errors import UserError
from twostage_jax.show.terminal import Terminal
from twostage_jax.store.layout import create_folder

PACKAGES = ("twostage-jax", "jax", "jaxlib", "flax", "optax", "torch", "numpy")
REPEATS = 3
QUICK_REPEATS = 2  # at least two, so that rows take turns
Measure = Callable[[Plan, int], Measured]  # the repetition is the seed


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    name: str  # for `--rows`
    title: str  # in the table
    measure: Measure
    quick: bool = False  # part of the quick version
    threads: str = ""  # key in `Plan.threads`: rows with one key share one tuning
    tune: Callable[[Plan], Tuning] | None = None  # finds the fastest number of threads
    most: int | None = None  # repetitions of a slow row, unless `--repeats` is given

    @property
    def needs_torch(self) -> bool:
        """True if the row runs a PyTorch program."""
        return self.name.startswith("torch")


@dataclass(frozen=True)
class Benchmark:
    """A set of rows and the tables of their figures."""

    name: str  # start of the default name of its folder
    rows: Callable[[bool, int | None], Sequence[Row]]  # of `quick` and the epochs that were given
    epochs: tuple[int, int]  # of each stage in the report, and in the quick version
    layout: Layout
    # Further keys of a measurement; the report holds the earlier rows of the same repetition.
    note: Callable[[Report, Row, Measured], Measured]
    validation: int | None = None  # None for the default of a run
    rate: Callable[[Plan], Rate] = matrix_rate  # a test replaces it


def bench(
    benchmark: Benchmark,
    data: str | None = None,
    out: Path | None = None,
    *,
    device: str = "cpu",
    quick: bool = False,
    repeats: int | None = None,
    epochs: int | None = None,
    rows: Sequence[str] = (),
    terminal: Terminal | None = None,
) -> Report:
    """Measure all rows and write `bench.json` and `bench.md` into `out` after every repetition.

    Args:
        benchmark: `speed.SPEED`, one training beside PyTorch, or `members.COST`, many members.
        data: SPEC of the data, by default `default_data()`. PyTorch gets the same arrays.
        out: folder to create, by default `runs/NAME-TIME`.
        device: `cpu`, `gpu` or `tpu`.
        quick: True for two repetitions with fewer rows and epochs.
        repeats: number of repetitions, by default three; some rows have fewer.
        epochs: epochs of each stage. Where members share one encoder, it is trained for one epoch.
        rows: names of rows, by default all.
        terminal: output.

    Returns:
        The content of `bench.json`.

    Raises:
        UserError: an unknown row, a device that jax cannot use, or a folder that already exists.
        RuntimeError: a row failed; the message has the last line that it wrote.
    """
    terminal = terminal or Terminal()
    chosen = choose_rows(rows, quick, benchmark.rows(quick, epochs))
    chosen = runnable_rows(chosen, device, terminal)
    with terminal.status("reading data"):
        data = data or default_data()
        dataset = load(data, benchmark.validation)
    terminal.line(f"on {data}: {len(dataset.train['label']):,} training images")
    machine = describe(device)
    _warn_of_load(machine, terminal)
    folder = create_folder(out, benchmark.name)
    counts = [repeats or _repeats(row, quick) for row in chosen]
    with tempfile.TemporaryDirectory(prefix="twostage-bench-") as scratch:
        plan = _plan(dataset, data, epochs or benchmark.epochs[quick], device, Path(scratch))
        # Before everything else: it fails if jax cannot use the device.
        with terminal.status("measuring the rate of matrix products"):
            rate = _rate(benchmark, plan)
        machine["device"] = rate["device"]
        with terminal.status("tuning PyTorch's threads"):
            plan, tunings = with_threads(plan, chosen)
        report = _new_report(dataset, plan, machine, quick, tunings, chosen)
        # Rows take turns because the speed of a machine changes slowly. Each finished round is
        # written, so that an interrupted benchmark keeps its results.
        for repetition in range(max(counts)):
            due = [row for row, count in zip(chosen, counts, strict=True) if repetition < count]
            label = f"{repetition + 1}/{max(counts)}"
            _measure_round(benchmark, report, due, plan, repetition, label, terminal)
            report["ratios"] = ratios(report, benchmark.layout)
            write(report, folder, benchmark.layout)
    show(report, folder, terminal, benchmark.layout)
    return report


def _repeats(row: Row, quick: bool) -> int:
    count = QUICK_REPEATS if quick else REPEATS
    return min(count, row.most or count)


def default_data() -> str:
    """Return the SPEC of MNIST in `../shared/data/mnist` if it exists, else of the digits."""
    mnist = Path("../shared/data/mnist")
    return f"idx:{mnist}" if mnist.is_dir() else "digits"


def has_torch() -> bool:
    """Return True if PyTorch is installed."""
    return find_spec("torch") is not None


def choose_rows(names: Sequence[str], quick: bool, rows: Sequence[Row]) -> list[Row]:
    """Return the rows called `names`; by default all rows, or those of the quick version.

    Raises:
        UserError: if there is no row of a name.
    """
    by_name = {row.name: row for row in rows}
    for name in names:
        if name not in by_name:
            raise UserError(f"unknown row {name!r}: choose from {', '.join(by_name)}")
    if names:
        return [by_name[name] for name in names]
    return [row for row in rows if row.quick or not quick]


def runnable_rows(
    rows: Sequence[Row], device: str, terminal: Terminal, torch: bool | None = None
) -> Sequence[Row]:
    """Return `rows` without those of PyTorch if it cannot run here, and print the reason.

    `torch` tells if PyTorch is installed; it is looked up by default.

    Raises:
        UserError: if no row is left.
    """
    if not any(row.needs_torch for row in rows):
        return rows
    torch = has_torch() if torch is None else torch
    if not torch:
        terminal.line("PyTorch is not installed: its rows are skipped; pip install '.[bench]'")
    elif device == "tpu":
        terminal.line("PyTorch's rows are skipped on a TPU: they run on cpu and gpu")
    else:
        return rows
    ours = [row for row in rows if not row.needs_torch]
    if not ours:
        raise UserError(
            "all chosen rows need PyTorch: pip install '.[bench]', or choose other --rows"
        )
    return ours


def with_threads(plan: Plan, rows: Sequence[Row]) -> tuple[Plan, dict[str, Tuning]]:
    """Return `plan` with the tuned numbers of threads, and the timings of all that were tried."""
    if plan.device != "cpu":
        return plan, {}
    # Rows of the same mode share one tuning.
    tuners = {row.threads: row.tune for row in rows if row.tune}
    tunings = {mode: tune(plan) for mode, tune in tuners.items()}
    threads = {mode: tuning["threads"] for mode, tuning in tunings.items()}
    return dataclasses.replace(plan, threads=threads), tunings


def _measure_round(
    benchmark: Benchmark,
    report: Report,
    rows: Sequence[Row],
    plan: Plan,
    repetition: int,
    label: str,
    terminal: Terminal,
) -> None:
    """Measure each row once and add the results to the report."""
    entries = {entry["name"]: entry for entry in report["rows"]}
    before = _rate(benchmark, plan)["rate"]
    for row in rows:
        load = load_average()
        start = usage()
        with terminal.status(f"{label}  {row.title}"):
            measured = row.measure(plan, repetition)
            other_load = load_between(start, usage())
            # The rate after a row is the rate before the next one.
            after = _rate(benchmark, plan)["rate"]
        measured["matrix_rates"] = (before, after)
        measured["matrix_rate"] = (before + after) / 2
        measured["load"] = load
        measured["other_load"] = other_load
        before = after
        measured.update(benchmark.note(report, row, measured))
        entries[row.name]["repetitions"].append(measured)
        terminal.line(f"{label}  {row.title}: {_row_text(measured)}")


def _row_text(measured: Measured) -> str:
    rates = measured.get("matrix_rates", (0.0, 0.0))
    other_load = measured.get("other_load")
    text = (
        f"{measured.get('cold', 0):.1f} s, {rates[0] / 1e9:,.0f} to {rates[1] / 1e9:,.0f} GFLOP/s"
    )
    return text if other_load is None else f"{text}, others {other_load:.0f} %"


def _warn_of_load(machine: Machine, terminal: Terminal) -> None:
    """Print a notice if the machine is busy before the benchmark starts."""
    load = machine["load"]
    cores = machine["cores"] or 1
    if load is not None and 100 * load / cores > OTHERS_LIMIT:
        terminal.notice(
            f"this machine is busy (load average {load:.1f} on {cores} cores): unreliable ratios "
            "will be withheld"
        )


def _plan(dataset: Dataset, data: str, epochs: int, device: str, scratch: Path) -> Plan:
    """Write the arrays for PyTorch and return the plan that all rows share."""
    arrays = scratch / "data.npz"
    np.savez(
        arrays,
        x_train=dataset.train["image"],
        y_train=dataset.train["label"],
        x_test=dataset.test["image"],
        y_test=dataset.test["label"],
    )
    return Plan(
        data=data,
        arrays=arrays,
        pixels=int(np.prod(dataset.image_shape)),
        classes=len(dataset.classes),
        count=len(dataset.train["label"]),
        epochs=epochs,
        device=device,
        scratch=scratch,
        validation=len(dataset.validation["label"]),
    )


def _rate(benchmark: Benchmark, plan: Plan) -> Rate:
    try:
        return benchmark.rate(plan)
    except RuntimeError as error:
        raise UserError(
            f"jax cannot use the device {plan.device!r} ({error}): choose another --device, or "
            "install the extra for it"
        ) from error


def _new_report(
    dataset: Dataset,
    plan: Plan,
    machine: Machine,
    quick: bool,
    tunings: Mapping[str, Tuning],
    rows: Sequence[Row],
) -> Report:
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):  # PyTorch is optional
            versions[name] = version(name)
    versions["python"] = platform.python_version()
    return {
        "schema": 1,
        "date": datetime.date.today().isoformat(),
        "machine": machine,
        "versions": versions,
        "data": {"name": dataset.name, "train": plan.count, "fingerprint": dataset.fingerprint},
        "epochs": plan.epochs,
        "quick": quick,
        "operations": operations(plan.pixels, plan.classes, plan.count),
        "threads": dict(tunings),
        "rows": [{"name": row.name, "title": row.title, "repetitions": []} for row in rows],
        "ratios": [],
    }

"""`twostage bench --members`: cost of many members beside a single one, and beside PyTorch.

Rows `full` are whole pipelines, rows `heads` are heads on one shared encoder, and rows `order` are
such heads that also share one order of examples. PyTorch trains them with `torch.func`, or in a
loop over the members. All times are of all members together; columns "per member" divide them by
the number of members.
"""

import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from twostage_jax.bench.harness import Benchmark, Measure, Row
from twostage_jax.bench.processes import (
    Plan,
    measured_torch,
    recipe_flags,
    run_torch,
    run_twostage,
    torch_task,
    tune_threads,
)
from twostage_jax.bench.records import Measured, Report
from twostage_jax.bench.report import (
    MACHINE_COLUMNS,
    Column,
    Comparison,
    Layout,
    Value,
    conditions,
    stored,
    warm_epoch,
)
from twostage_jax.bench.speed import TASK

# Numbers of members of each sort of row.
MEMBERS = {"full": (1, 4, 16, 64), "heads": (1, 16, 64, 256, 1024), "order": (64,)}
QUICK = {"full": (1, 4), "heads": (1, 64), "order": ()}
FUNC = {"full": (1, 4, 16), "heads": (1, 16, 64)}
QUICK_FUNC = {"full": (4,), "heads": (64,)}
SERIAL = {"full": 4, "heads": 16}  # enough: every member of a loop takes the same time
ONCE = (("full", 64), ("heads", 1024))  # take minutes, so they are measured once
# Heads share an encoder that is trained for one epoch, because only the heads are measured.
EPOCHS = {"full": (2, 2), "heads": (1, 5), "order": (1, 5)}
QUICK_EPOCHS = {"full": (2, 2), "heads": (1, 2), "order": (1, 2)}
SHARE: dict[str, list[str]] = {"full": [], "heads": ["encoder"], "order": ["encoder", "order"]}
NOUN = {
    "full": "pipelines",
    "heads": "heads on one encoder",
    "order": "heads on one encoder in one order",
}
Epochs = tuple[int, int]


def make_rows(quick: bool, epochs: int | None) -> Sequence[Row]:
    """Make all rows, one member before many; PyTorch's follow those they are compared with."""
    by_sort: Mapping[str, Epochs] = QUICK_EPOCHS if quick else EPOCHS
    if epochs:
        by_sort = {sort: (epochs if sort == "full" else 1, epochs) for sort in MEMBERS}
    rows = []
    for sort, counts in MEMBERS.items():
        for count in counts:
            rows.append(_our_row(sort, count, by_sort[sort]))
            if count in FUNC.get(sort, ()):
                rows.append(_func_row(sort, count, by_sort[sort]))
            if count == SERIAL.get(sort):
                rows.append(_serial_row(sort, count, by_sort[sort]))
    return rows


def _title(sort: str, count: int) -> str:
    if count > 1:
        return f"{count} {NOUN[sort]}"
    return "1 pipeline alone" if sort == "full" else "1 head alone"


def _our_row(sort: str, count: int, epochs: Epochs) -> Row:
    """Make a row of `twostage run --members`, or of a single run for one member."""

    def measure(plan: Plan, repetition: int) -> Measured:
        values = {"pretrain.epochs": epochs[0], "head.epochs": epochs[1]}
        flags = recipe_flags(plan, repetition, values)
        # The row of one member is an ordinary run, to which members are compared.
        if count > 1:
            flags += ["--members", str(count)]
            flags += ["--share", *SHARE[sort]] if SHARE[sort] else []
        with tempfile.TemporaryDirectory(dir=plan.scratch) as folder:
            measured = run_twostage(flags, Path(folder), "run", plan)
        phases = measured.get("seconds", {})
        training = phases["pretrain"] + phases["encode"] + phases["head"]
        return {**measured, "sort": sort, "members": count, "training": training}

    most = 1 if (sort, count) in ONCE else None
    quick = count in QUICK[sort]
    return Row(f"{sort}-{count}", _title(sort, count), measure, quick=quick, most=most)


def _func_row(sort: str, count: int, epochs: Epochs) -> Row:
    """Make a row of `torch.func`, with threads tuned for its number of members."""
    name = f"torch-func-{sort}-{count}"
    return Row(
        name,
        f"PyTorch, torch.func: {_title(sort, count)}",
        _measure_torch("func", sort, count, epochs, name),
        quick=count in QUICK_FUNC[sort],
        threads=name,
        tune=partial(tune_threads, task=_task("func", sort, count), program="members"),
    )


def _serial_row(sort: str, count: int, epochs: Epochs) -> Row:
    """Make a row of PyTorch's best eager program in a loop, with the threads of a single one."""
    return Row(
        f"torch-serial-{sort}-{count}",
        f"PyTorch, one after the other: {_title(sort, count)}",
        _measure_torch("serial", sort, count, epochs, "eager"),
        threads="eager",
        tune=partial(tune_threads, task={**TASK, "mode": "eager"}, program="pytorch"),
    )


def _task(mode: str, sort: str, count: int) -> dict[str, object]:
    return {"mode": mode, "share": sort == "heads", "members": count}


def _measure_torch(mode: str, sort: str, count: int, epochs: Epochs, threads: str) -> Measure:
    """Make the measurement of a task of `bench.torch.members`."""

    def measure(plan: Plan, repetition: int) -> Measured:
        task = {**torch_task(plan, repetition), **_task(mode, sort, count), "epochs": epochs}
        task["threads"] = plan.threads.get(threads)
        measured = measured_torch(run_torch("members", task, plan))
        stages = (*measured.get("pretrain", ()), *measured.get("head", ()))
        training = sum(stages) + measured.get("encode", 0.0)
        return {**measured, "sort": sort, "members": count, "training": training}

    return measure


def _per_member(value: Value, unshared: bool = False) -> Value:
    """Divide a time by the number of members; with `unshared`, only where nothing is shared."""

    def divided(measured: Measured) -> float | None:
        seconds = value(measured)
        # Heads share one encoder, so its time is not divided.
        if unshared and SHARE[measured.get("sort", "full")]:
            return None
        return seconds / measured.get("members", 1) if seconds else None

    return divided


PRETRAIN = warm_epoch("pretrain")
HEAD = warm_epoch("head")
COLUMNS = {
    "pretrain": Column("stage-1 epoch (s)", 2, PRETRAIN),
    "pretrain_each": Column("stage-1 epoch per member (s)", 3, _per_member(PRETRAIN, True)),
    "head": Column("stage-2 epoch (s)", 3, HEAD),
    "head_each": Column("stage-2 epoch per member (s)", 4, _per_member(HEAD)),
    "training": Column("training (s)", 2, stored("training")),
    "training_each": Column("training per member (s)", 3, _per_member(stored("training"))),
    "cold": Column("whole program (s)", 1, stored("cold")),
    "cold_each": Column("whole program per member (s)", 3, _per_member(stored("cold"))),
    "peak": Column("peak memory (MB)", 0, stored("peak_bytes", 1e-6)),
    "further": Column("memory per further member (MB)", 2, stored("member_bytes", 1e-6)),
    "accuracy": Column("test accuracy, mean of members (%)", 2, stored("accuracy", 100)),
    **MACHINE_COLUMNS,
}
SHORT = {
    "pretrain": "epoch 1",
    "pretrain_each": "per member",
    "head": "epoch 2",
    "head_each": "per member",
    "training": "train",
    "cold": "whole",
    "accuracy": "test %",
}


MAIN = ("cold", "training", "training_each", "head_each", "peak", "accuracy")


def note(report: Report, row: Row, measured: Measured) -> Measured:
    """Return `member_bytes`, the memory that each further member adds.

    It is the difference to the peak of the same program with one member in the same repetition.
    """
    entries = {entry["name"]: entry["repetitions"] for entry in report["rows"]}
    single = entries.get(f"{row.name.rpartition('-')[0]}-1", [])
    repetition = len(entries[row.name])
    members = measured.get("members", 1)
    # The row of one member may be left out by `--rows`.
    if members == 1 or len(single) <= repetition:
        return {}
    more = measured.get("peak_bytes", 0) - single[repetition].get("peak_bytes", 0)
    return {"member_bytes": more / (members - 1)}


def comparisons() -> list[Comparison]:
    """List the ratios: cost of members over a single one, then PyTorch over ours."""
    lines = []
    for count in MEMBERS["full"][1:]:
        for name, noun in (("training_each", "training"), ("cold_each", "whole program")):
            title = f"{noun} per member, {count} pipelines / 1"
            lines.append(_comparison(title, f"full-{count}", "full-1", name))
    for sort in ("heads", "order"):
        for count in MEMBERS[sort]:
            if count > 1:
                title = f"stage-2 epoch in all, {count} {NOUN[sort]} / 1"
                lines.append(_comparison(title, f"{sort}-{count}", "heads-1", "head"))
    lines += _torch_comparisons("full", "training_each", "training")
    lines += _torch_comparisons("heads", "head_each", "stage-2 epoch")
    return lines


def _comparison(title: str, above: str, below: str, column: str) -> Comparison:
    return Comparison(title, (above,), below, column, digits=2)


def _torch_comparisons(sort: str, name: str, measure: str) -> list[Comparison]:
    lines = []
    noun = NOUN[sort].split()[0]
    for count in FUNC[sort]:
        title = f"{measure} per member, {count} {noun}, torch.func / ours"
        lines.append(_comparison(title, f"torch-func-{sort}-{count}", f"{sort}-{count}", name))
    row = f"torch-serial-{sort}-{SERIAL[sort]}"
    for count in MEMBERS[sort][1:]:
        title = f"{measure} per member, {count} {noun}, PyTorch one after the other / ours"
        if count != SERIAL[sort]:
            title = f"{title} (PyTorch's measured for {SERIAL[sort]})"
        lines.append(_comparison(title, row, f"{sort}-{count}", name))
    return lines


def header(report: Report) -> list[str]:
    """Return lines with the conditions of the measurement and the rows with fewer repetitions."""
    epochs = {}
    for entry in report["rows"]:
        # The measurements know their epochs, also where `--epochs` gave them.
        for measured in entry["repetitions"][:1]:
            counts = (len(measured.get("pretrain", ())), len(measured.get("head", ())))
            epochs[measured.get("sort", "full")] = f"{counts[0]}+{counts[1]}"
    parts = [f"{NOUN[sort]}: {count} epochs" for sort, count in epochs.items()]
    lines = conditions(report, ", ".join(parts))
    most = max(len(entry["repetitions"]) for entry in report["rows"])
    for entry in report["rows"]:
        count = len(entry["repetitions"])
        if count < most:
            lines.append(f"{entry['title']}: {count} of the repetitions")
    return lines


COST = Benchmark(
    name="bench-members",
    rows=make_rows,
    epochs=(EPOCHS["full"][0], QUICK_EPOCHS["full"][0]),
    layout=Layout(
        COLUMNS,
        MAIN,
        SHORT,
        ("medians, in seconds", "members against a single one, and PyTorch against ours"),
        comparisons(),
        header,
    ),
    note=note,
)

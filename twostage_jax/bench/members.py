"""Rows of many members: ours, `torch.func`, and PyTorch in a loop over the members.

Rows `full` are whole pipelines, rows `heads` are heads on one shared encoder, and rows `order` are
such heads that also share one order of examples.
"""

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from twostage_jax.bench.processes import (
    Plan,
    recipe_flags,
    run_torch,
    run_twostage,
    torch_task,
    tune_threads,
)
from twostage_jax.bench.records import Measured
from twostage_jax.bench.rows import Measure, Row

MEMBERS = {"full": (1, 4, 16, 64), "heads": (1, 16, 64, 256, 1024), "order": (64,)}
QUICK = {"full": (1, 4), "heads": (1, 16, 64), "order": (64,)}
FUNC = {"full": (1, 4, 16), "heads": (1, 16, 64)}
QUICK_FUNC = {"full": (1, 4), "heads": (1, 16)}
SERIAL = {"full": 4, "heads": 16}
ONCE = (("full", 64), ("heads", 1024))  # take minutes, so they are measured once
EPOCHS = {"full": (2, 2), "heads": (1, 5), "order": (1, 5)}
QUICK_EPOCHS = {"full": (2, 2), "heads": (1, 2), "order": (1, 2)}
SHARE: dict[str, list[str]] = {"full": [], "heads": ["encoder"], "order": ["encoder", "order"]}
NOUN = {
    "full": "pipelines",
    "heads": "heads on one encoder",
    "order": "heads on one encoder in one order",
}
Epochs = tuple[int, int]


def choose_epochs(quick: bool, epochs: int | None) -> Mapping[str, Epochs]:
    """Return the epochs of both stages for each sort of row.

    Heads share an encoder that is trained for one epoch, because only the heads are measured.
    """
    if not epochs:
        return QUICK_EPOCHS if quick else EPOCHS
    return {sort: (epochs if sort == "full" else 1, epochs) for sort in MEMBERS}


def make_rows(epochs: Mapping[str, Epochs]) -> list[Row]:
    """Make all rows: ours before PyTorch's, one member before many."""
    rows = []
    for sort, counts in MEMBERS.items():
        rows += [_our_row(sort, count, epochs[sort]) for count in counts]
    for sort, counts in FUNC.items():
        rows += [_func_row(sort, count, epochs[sort]) for count in counts]
        rows.append(_serial_row(sort, SERIAL[sort], epochs[sort]))
    return rows


def _title(sort: str, count: int) -> str:
    if count > 1:
        return f"{count} {NOUN[sort]}"
    return "1 pipeline alone" if sort == "full" else "1 head alone"


def _our_row(sort: str, count: int, epochs: Epochs) -> Row:
    """Make a row of `twostage run --members`, or of a single run for one member."""
    return Row(
        f"{sort}-{count}",
        _title(sort, count),
        _measure_ours(sort, count, epochs),
        quick=count in QUICK[sort],
        most=1 if (sort, count) in ONCE else None,
    )


def _measure_ours(sort: str, members: int, epochs: Epochs) -> Measure:
    def measure(plan: Plan, repetition: int) -> Measured:
        values = {"pretrain.epochs": epochs[0], "head.epochs": epochs[1]}
        flags = recipe_flags(plan, repetition, values)
        if members > 1:
            flags += ["--members", str(members)]
            flags += ["--share", *SHARE[sort]] if SHARE[sort] else []
        with tempfile.TemporaryDirectory(dir=plan.scratch) as folder:
            measured = run_twostage("run", flags, Path(folder), "run", plan)
        phases = measured.get("seconds", {})
        training = phases["pretrain"] + phases["encode"] + phases["head"]
        return {**measured, "sort": sort, "members": members, "training": training}

    return measure


def _func_row(sort: str, members: int, epochs: Epochs) -> Row:
    """Make a row of `torch.func`, with threads tuned for its number of members."""
    task = {"mode": "func", "share": sort == "heads", "members": members}
    name = f"torch-func-{sort}-{members}"
    # Tuning reads these keys too, though their values do not matter for the speed.
    tuning = {**task, "device": "cpu", "classes": 10}
    return Row(
        name,
        f"PyTorch, torch.func: {_title(sort, members)}",
        _measure_torch(sort, members, task, epochs, name),
        quick=members in QUICK_FUNC[sort],
        threads=name,
        tune=partial(tune_threads, task=tuning, program="members"),
    )


def _serial_row(sort: str, members: int, epochs: Epochs) -> Row:
    """Make a row of PyTorch's best eager program in a loop, with the threads of a single one."""
    task = {"mode": "serial", "share": sort == "heads", "members": members}
    return Row(
        f"torch-serial-{sort}-{members}",
        f"PyTorch, one after the other: {_title(sort, members)}",
        _measure_torch(sort, members, task, epochs, "eager"),
        threads="eager",
        tune=partial(tune_threads, task={"mode": "eager"}, program="pytorch"),
    )


def _measure_torch(
    sort: str, members: int, task: Mapping[str, object], epochs: Epochs, threads: str
) -> Measure:
    """Make the measurement of a task of `bench.torch.members`."""

    def measure(plan: Plan, repetition: int) -> Measured:
        whole_task = {
            **torch_task(plan, repetition),
            **task,
            "epochs": epochs,
            "threads": plan.threads.get(threads),
        }
        output = run_torch("members", whole_task, plan)
        measured: Measured = output.record()
        measured["cold"] = output.seconds
        measured["peak_bytes"] = output.peak_bytes
        measured["sort"] = sort
        measured["members"] = members
        stages = (*measured.get("pretrain", ()), *measured.get("head", ()))
        measured["training"] = sum(stages) + measured.get("encode", 0.0)
        return measured

    return measure

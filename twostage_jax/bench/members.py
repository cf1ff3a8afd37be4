"""`twostage bench --members`: what many members cost beside one alone, and beside PyTorch.

Rows `full` are whole pipelines, rows `heads` heads on one shared encoder, rows `order` the same
with one order of examples for all. All times are of all members together; where a title says so,
they are divided by the number of members.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from twostage_jax.bench.figures import Column, accuracy, epoch_seconds, paired
from twostage_jax.bench.harness import Kind, compare, where
from twostage_jax.bench.rows import (
    Measured,
    Row,
    Setting,
    chosen_rows,
    last_line,
    recipe,
    run_job,
    torch_job,
    tuned_threads,
    twostage,
)
from twostage_jax.show.terminal import Terminal

MEMBERS = {"full": (1, 4, 16, 64), "heads": (1, 16, 64, 256, 1024), "order": (64,)}
QUICK = {"full": (1, 4), "heads": (1, 16, 64), "order": (64,)}
FUNC = {"full": (1, 4, 16), "heads": (1, 16, 64)}
QUICK_FUNC = {"full": (1, 4), "heads": (1, 16)}
SERIAL = {"full": 4, "heads": 16}
ONCE = (("full", 64), ("heads", 1024))  # take minutes
EPOCHS = {"full": (2, 2), "heads": (1, 5), "order": (1, 5)}
QUICK_EPOCHS = {"full": (2, 2), "heads": (1, 2), "order": (1, 2)}
SHARE = {"full": [], "heads": ["encoder"], "order": ["encoder", "order"]}
NOUN = {
    "full": "pipelines",
    "heads": "heads on one encoder",
    "order": "heads on one encoder in one order",
}


def bench_members(
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
    """Measure members and write `bench.json` and `bench.md` into `out`, after every repetition.

    Args:
        data: SPEC of the data, by default as for `bench`; validation is held out as in a run.
        out: folder to make, by default `runs/bench-members-TIME`.
        device: `cpu`, `gpu` or `tpu`.
        quick: one repetition, few members, two epochs of the heads.
        repeats: how often each row is measured, by default three times, 64 pipelines and 1,024
            heads once.
        epochs: of both stages of the pipelines, and of the heads on a shared encoder, which itself
            gets one; by default two of the pipelines and five of the heads.
        rows: names such as `full-4`, `heads-16` or `torch-func-full-4`; by default all.
        terminal: where to print.

    Returns:
        What `bench.json` holds.

    Raises:
        UserError: an unknown row, a device that is not there, a folder that is.
        RuntimeError: a row that failed, with what it said last.
    """
    counts = dict(QUICK_EPOCHS if quick else EPOCHS)
    if epochs:
        counts = {sort: (epochs if sort == "full" else 1, epochs) for sort in MEMBERS}
    chosen, full = chosen_rows(rows, quick, make_rows(counts)), counts["full"][0]
    terminal = terminal or Terminal()
    return compare(COST, chosen, data, out, device, quick, repeats, full, terminal)


def make_rows(epochs: Mapping[str, tuple[int, int]]) -> list[Row]:
    """All rows, ours before PyTorch's, one member before many."""
    rows = []
    for sort, counts in MEMBERS.items():
        for count in counts:
            most = 1 if (sort, count) in ONCE else None
            measure = ours(sort, count, epochs[sort])
            quick = count in QUICK[sort]
            rows.append(Row(f"{sort}-{count}", _title(sort, count), measure, quick, most=most))
    for sort in FUNC:
        rows += [_func(sort, count, epochs[sort]) for count in FUNC[sort]]
        rows.append(_serial(sort, SERIAL[sort], epochs[sort]))
    return rows


def _title(sort: str, count: int) -> str:
    one = {"full": "pipeline alone", "heads": "head alone"}
    return f"1 {one[sort]}" if count == 1 else f"{count} {NOUN[sort]}"


def ours(sort: str, members: int, epochs: tuple[int, int]) -> Callable[[Setting, int], Measured]:
    """A row of `twostage run --members`, or of an ordinary run where there is one."""

    def measure(setting: Setting, repetition: int) -> Measured:
        values = {"pretrain.epochs": epochs[0], "head.epochs": epochs[1]}
        flags = recipe(setting, repetition, values)
        if members > 1:
            flags += ["--members", str(members)]
            flags += ["--share", *SHARE[sort]] if SHARE[sort] else []
        with tempfile.TemporaryDirectory(dir=setting.scratch) as folder:
            found = twostage("run", flags, Path(folder), "run", setting)
        phases = found["seconds"]
        training = phases["pretrain"] + phases["encode"] + phases["head"]
        return {**found, "sort": sort, "members": members, "training": training}

    return measure


def _func(sort: str, members: int, epochs: tuple[int, int]) -> Row:
    """A row of `torch.func`, with threads tuned for that many members."""
    job = {"mode": "func", "share": sort == "heads", "members": members}
    name = f"torch-func-{sort}-{members}"
    # The program reads these too, though tuning takes values of its own.
    task = {**job, "device": "cpu", "classes": 10}
    tune = partial(tuned_threads, job=task, program="torch_members")
    return Row(
        name,
        f"PyTorch, torch.func: {_title(sort, members)}",
        pytorch(sort, job, epochs, name),
        quick=members in QUICK_FUNC[sort],
        threads=name,
        tune=tune,
    )


def _serial(sort: str, members: int, epochs: tuple[int, int]) -> Row:
    """A row of PyTorch's best eager program in a loop, with the threads of one alone."""
    job = {"mode": "serial", "share": sort == "heads", "members": members}
    return Row(
        f"torch-serial-{sort}-{members}",
        f"PyTorch, one after the other: {_title(sort, members)}",
        pytorch(sort, job, epochs, "eager"),
        threads="eager",
        tune=partial(tuned_threads, job={"mode": "eager"}),
    )


def pytorch(
    sort: str, job: Mapping[str, Any], epochs: tuple[int, int], threads: str
) -> Callable[[Setting, int], Measured]:
    """A row of `bench.torch_members`."""

    def measure(setting: Setting, repetition: int) -> Measured:
        task = {**torch_job(setting, repetition), **job, "epochs": epochs}
        task["threads"] = setting.threads.get(threads)
        text, seconds, peak = run_job(task, setting, "torch_members")
        found = {**last_line(text), "cold": seconds, "peak_bytes": peak}
        training = sum(found["pretrain"]) + found["encode"] + sum(found["head"])
        return {**found, "sort": sort, "members": job["members"], "training": training}

    return measure


def _each(value: Callable[[Measured], float | None]) -> Callable[[Mapping[str, Any]], Any]:
    """A time divided by the number of members."""

    def per_member(measured: Mapping[str, Any]) -> float | None:
        found = value(dict(measured))
        return found / measured["members"] if found else None

    return per_member


def _stage_1_each(measured: Mapping[str, Any]) -> float | None:
    # Heads share one encoder, so there is nothing to divide.
    shared = "encoder" in SHARE[measured["sort"]]
    return None if shared else _each(partial(epoch_seconds, stage="pretrain"))(measured)


def _further(measured: Mapping[str, Any]) -> float | None:
    found = measured.get("member_bytes")
    return None if found is None else found / 1e6


COLUMNS = {
    "pretrain": Column("stage-1 epoch (s)", 2, partial(epoch_seconds, stage="pretrain")),
    "pretrain_each": Column("stage-1 epoch per member (s)", 3, _stage_1_each),
    "head": Column("stage-2 epoch (s)", 3, partial(epoch_seconds, stage="head")),
    "head_each": Column(
        "stage-2 epoch per member (s)", 4, _each(partial(epoch_seconds, stage="head"))
    ),
    "training": Column("training (s)", 2, lambda m: m["training"]),
    "training_each": Column("training per member (s)", 3, _each(lambda m: m["training"])),
    "cold": Column("whole program (s)", 1, lambda m: m["cold"]),
    "cold_each": Column("whole program per member (s)", 3, _each(lambda m: m["cold"])),
    "peak": Column("peak memory (MB)", 0, lambda m: m["peak_bytes"] / 1e6),
    "further": Column("memory per further member (MB)", 2, _further),
    "accuracy": Column("test accuracy, mean of members (%)", 2, accuracy),
}
SHORT = {
    "pretrain": "epoch 1",
    "pretrain_each": "each",
    "head": "epoch 2",
    "head_each": "each",
    "training": "train",
    "cold": "whole",
    "accuracy": "test %",
}


def note(report: Mapping[str, Any], row: Row, measured: Mapping[str, Any]) -> dict[str, Any]:
    """`member_bytes`: what each further member adds to the peak of the same program with one."""
    alone = f"{row.name.rpartition('-')[0]}-1"
    repetition = next(len(e["repetitions"]) for e in report["rows"] if e["name"] == row.name)
    found = [e["repetitions"][repetition:] for e in report["rows"] if e["name"] == alone]
    if measured["members"] == 1 or not found or not found[0]:
        return {}
    more = measured["peak_bytes"] - found[0][0]["peak_bytes"]
    return {"member_bytes": more / (measured["members"] - 1)}


def ratios(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What members cost against one alone, then PyTorch against ours: `(what, "0.58 [...] x")`."""
    measured = {row["name"]: row["repetitions"] for row in report["rows"]}

    def over(row: str, other: str, column: str) -> str | None:
        value = COLUMNS[column].value
        both = ([value(m) for m in measured.get(name, ())] for name in (row, other))
        found = paired(*both)
        return found.text(2, " x") if found else None

    lines = []
    for count in MEMBERS["full"][1:]:
        for column, what in (("training_each", "training"), ("cold_each", "whole program")):
            title = f"{what} per member, {count} pipelines / 1"
            lines.append((title, over(f"full-{count}", "full-1", column)))
    for sort in ("heads", "order"):
        for count in MEMBERS[sort]:
            title = f"stage-2 epoch in all, {count} {NOUN[sort]} / 1"
            if count > 1:
                lines.append((title, over(f"{sort}-{count}", "heads-1", "head")))
    kinds = (("full", "training_each", "training"), ("heads", "head_each", "stage-2 epoch"))
    for sort, column, what in kinds:
        noun = NOUN[sort].split()[0]
        for count in FUNC[sort]:
            title = f"{what} per member, {count} {noun}, torch.func / ours"
            lines.append((title, over(f"torch-func-{sort}-{count}", f"{sort}-{count}", column)))
        for count in MEMBERS[sort][1:]:
            title = f"{what} per member, {count} {noun}, PyTorch one after the other / ours"
            serial = f"torch-serial-{sort}-{SERIAL[sort]}"
            lines.append(
                (_serial_note(title, count, sort), over(serial, f"{sort}-{count}", column))
            )
    return [(title, text) for title, text in lines if text]


def _serial_note(title: str, count: int, sort: str) -> str:
    """In a loop all members take the same, so a few are measured for any number of them."""
    return title if count == SERIAL[sort] else f"{title} (PyTorch's measured for {SERIAL[sort]})"


def header(report: Mapping[str, Any]) -> list[str]:
    """What was measured where, in lines."""
    epochs = {}
    for row in report["rows"]:
        for once in row["repetitions"][:1]:
            epochs[once["sort"]] = f"{len(once['pretrain'])}+{len(once['head'])}"
    said = [f"{NOUN[sort]}: {count} epochs" for sort, count in epochs.items()]
    repeats = [len(row["repetitions"]) for row in report["rows"]]
    fewer = {
        row["title"]: count
        for row, count in zip(report["rows"], repeats, strict=True)
        if count < max(repeats)
    }
    lines = where(report, f"{', '.join(said)}, ")
    return [*lines, *(f"{title}: {count} of the repetitions" for title, count in fewer.items())]


COST = Kind(
    name="bench-members",
    columns=COLUMNS,
    short=SHORT,
    titles=("medians, in seconds", "members against one alone, and PyTorch against ours"),
    ratios=ratios,
    header=header,
    note=note,
)

"""`twostage bench --members`: cost of many members beside a single one, and beside PyTorch.

All times are of all members together; columns "per member" divide them by the number of members.
"""

from collections.abc import Callable, Sequence

from twostage_jax.bench.figures import (
    Column,
    accuracy_percent,
    cold,
    column_values,
    head_epoch,
    paired_ratio,
    peak_megabytes,
    pretrain_epoch,
)
from twostage_jax.bench.harness import Benchmark
from twostage_jax.bench.members import (
    FUNC,
    MEMBERS,
    NOUN,
    SERIAL,
    SHARE,
    choose_epochs,
    make_rows,
)
from twostage_jax.bench.records import Measured, Report
from twostage_jax.bench.report import Layout, Ratios, conditions
from twostage_jax.bench.rows import Row

Value = Callable[[Measured], float | None]


def per_member(value: Value) -> Value:
    """Divide a time by the number of members."""

    def divided(measured: Measured) -> float | None:
        seconds = value(measured)
        return seconds / measured.get("members", 1) if seconds else None

    return divided


def training(measured: Measured) -> float | None:
    """Return the seconds of both stages and of the encoding."""
    return measured.get("training")


def _pretrain_per_member(measured: Measured) -> float | None:
    # Heads share one encoder, so its time is not divided.
    if "encoder" in SHARE[measured.get("sort", "full")]:
        return None
    return per_member(pretrain_epoch)(measured)


def _further_megabytes(measured: Measured) -> float | None:
    size = measured.get("member_bytes")
    return None if size is None else size / 1e6


COLUMNS = {
    "pretrain": Column("stage-1 epoch (s)", 2, pretrain_epoch),
    "pretrain_each": Column("stage-1 epoch per member (s)", 3, _pretrain_per_member),
    "head": Column("stage-2 epoch (s)", 3, head_epoch),
    "head_each": Column("stage-2 epoch per member (s)", 4, per_member(head_epoch)),
    "training": Column("training (s)", 2, training),
    "training_each": Column("training per member (s)", 3, per_member(training)),
    "cold": Column("whole program (s)", 1, cold),
    "cold_each": Column("whole program per member (s)", 3, per_member(cold)),
    "peak": Column("peak memory (MB)", 0, peak_megabytes),
    "further": Column("memory per further member (MB)", 2, _further_megabytes),
    "accuracy": Column("test accuracy, mean of members (%)", 2, accuracy_percent),
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


def note(report: Report, row: Row, measured: Measured) -> Measured:
    """Return `member_bytes`, the memory that each further member adds.

    It is the difference to the peak of the same program with one member in the same repetition.
    """
    entries = {entry["name"]: entry["repetitions"] for entry in report["rows"]}
    single = entries.get(f"{row.name.rpartition('-')[0]}-1", [])
    repetition = len(entries[row.name])
    members = measured.get("members", 1)
    if members == 1 or len(single) <= repetition:
        return {}
    more = measured.get("peak_bytes", 0) - single[repetition].get("peak_bytes", 0)
    return {"member_bytes": more / (members - 1)}


def ratios(report: Report) -> Ratios:
    """Return the cost of members over a single one, then PyTorch over ours: `(title, "0.58 x")`."""
    lines = []
    for title, row, other, name in _comparisons():
        column = COLUMNS[name]
        above = column_values(report, row, column)
        figure = paired_ratio(above, column_values(report, other, column))
        if figure:
            lines.append((title, figure.text(2, " x")))
    return lines


def _comparisons() -> list[tuple[str, str, str, str]]:
    """List `(title, row, other row, column)` of all ratios in the order of the table."""
    lines = []
    for count in MEMBERS["full"][1:]:
        for name, noun in (("training_each", "training"), ("cold_each", "whole program")):
            title = f"{noun} per member, {count} pipelines / 1"
            lines.append((title, f"full-{count}", "full-1", name))
    for sort in ("heads", "order"):
        for count in MEMBERS[sort]:
            if count > 1:
                title = f"stage-2 epoch in all, {count} {NOUN[sort]} / 1"
                lines.append((title, f"{sort}-{count}", "heads-1", "head"))
    lines += _torch_comparisons("full", "training_each", "training")
    lines += _torch_comparisons("heads", "head_each", "stage-2 epoch")
    return lines


def _torch_comparisons(sort: str, name: str, measure: str) -> list[tuple[str, str, str, str]]:
    lines = []
    noun = NOUN[sort].split()[0]
    for count in FUNC[sort]:
        title = f"{measure} per member, {count} {noun}, torch.func / ours"
        lines.append((title, f"torch-func-{sort}-{count}", f"{sort}-{count}", name))
    for count in MEMBERS[sort][1:]:
        title = f"{measure} per member, {count} {noun}, PyTorch one after the other / ours"
        # Every member of a loop takes the same time, so a few are measured for any number of them.
        if count != SERIAL[sort]:
            title = f"{title} (PyTorch's measured for {SERIAL[sort]})"
        lines.append((title, f"torch-serial-{sort}-{SERIAL[sort]}", f"{sort}-{count}", name))
    return lines


def header(report: Report) -> list[str]:
    """Return lines with the conditions of the measurement and the rows with fewer repetitions."""
    epochs = {}
    for entry in report["rows"]:
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


def _rows(quick: bool, epochs: int | None) -> Sequence[Row]:
    return make_rows(choose_epochs(quick, epochs))


def _epochs(quick: bool) -> int:
    return choose_epochs(quick, None)["full"][0]


COST = Benchmark(
    name="bench-members",
    rows=_rows,
    epochs=_epochs,
    layout=Layout(
        COLUMNS,
        SHORT,
        ("medians, in seconds", "members against a single one, and PyTorch against ours"),
        ratios,
        header,
    ),
    note=note,
)

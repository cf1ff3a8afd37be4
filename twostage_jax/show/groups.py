"""Table of errors by group."""

from twostage_jax.errors import shortened
from twostage_jax.show.epochs import Record
from twostage_jax.show.tables import counted, decimal
from twostage_jax.show.terminal import Terminal

LISTED = 10  # groups in the table, those with the lowest accuracy
NAME_LIMIT = 30  # characters of a name


def show_groups(summary: Record, split: str, terminal: Terminal) -> None:
    """Print the groups with the lowest accuracy, and intervals over groups.

    Args:
        summary: `scores.GroupSummary`.
        split: name of the split.
        terminal: where to print.
    """
    groups = summary.groups
    rows = [
        (
            shortened(group.name, NAME_LIMIT),
            decimal(group.accuracy),
            *map(decimal, group.interval),
            group.errors,
            group.count,
        )
        for group in groups[:LISTED]
    ]
    title = f"{split} by group: {counted(len(groups), 'group')}"
    if len(groups) > LISTED:
        title += f", the {LISTED} with the lowest accuracy"
    columns = ("group", "accuracy", "95 % from", "to", "errors", "images")
    terminal.table(title, columns, rows)
    if summary.interval is not None:
        low, high = summary.interval
        terminal.line(
            f"accuracy {summary.accuracy:.4f}, 95 % interval for new groups {low:.4f} to "
            f"{high:.4f}",
            hang=2,
        )
        low, high = summary.mean_interval
        terminal.line(
            f"mean accuracy of the groups {summary.mean:.4f}, 95 % interval {low:.4f} to "
            f"{high:.4f}",
            hang=2,
        )

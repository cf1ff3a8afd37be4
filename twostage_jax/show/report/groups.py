"""Section on the errors by group."""

from twostage_jax.show.report.blocks import Block, Section, Table, Text
from twostage_jax.show.report.content import Content
from twostage_jax.show.report.result import interval_words, share_words

GROUPS = 30  # groups in the table, those with the lowest accuracy


def groups_section(content: Content) -> Section | None:
    """Section on the errors by group of the test split."""
    summary = getattr(content.result, "groups", None)
    if summary is None:
        return None
    blocks: list[Block] = []
    if summary.interval is not None:
        count = sum(group.count for group in summary.groups)
        words = (
            f"For images of new groups, the 95 % interval of the accuracy is "
            f"{interval_words(summary.interval, count)}. The mean accuracy of the groups is "
            f"{share_words(summary.mean)} ({interval_words(summary.mean_interval)})."
        )
        blocks.append(Text(words))
    rows = [
        (
            group.name,
            share_words(group.accuracy),
            interval_words(group.interval),
            f"{group.errors:,}",
            f"{group.count:,}",
        )
        for group in summary.groups[:GROUPS]
    ]
    total = len(summary.groups)
    caption = "Groups of the test split"
    if total > GROUPS:
        caption += f" (the {GROUPS} of {total:,} with the lowest accuracy)"
    columns = ("group", "accuracy", "95 % interval", "errors", "images")
    blocks.append(Table(caption, columns, rows, sortable=True))
    return Section("groups", "Errors by group", blocks)

"""Groups of images that belong together: patients, people, objects, cameras."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from twostage_jax.data.listing import Entry
from twostage_jax.data.names import listed
from twostage_jax.data.source import Source
from twostage_jax.data.split import Split
from twostage_jax.errors import UserError, shown


def with_groups(entries: list[Entry], pattern: str | None, notes: list[str]) -> list[Entry]:
    """Set the group of each image from its path, if there is a pattern.

    Args:
        entries: images.
        pattern: regular expression that is searched in a path. The group is the text in its
            parentheses, or all that it matches if it has none.
        notes: sentences are added here.

    Raises:
        UserError: groups from a column, too, or a pattern that no path matches.
    """
    if pattern is not None:
        if any(entry.group for entry in entries):
            raise UserError("--group-by and --group-column both give groups: leave one of them out")
        expression = re.compile(pattern)
        entries = [entry._replace(group=_match(expression, entry.path)) for entry in entries]
        if not any(entry.group for entry in entries):
            raise UserError(
                f"--group-by {shown(pattern)} matches no path, for instance not "
                f"{shown(entries[0].path)}: give a regular expression for a part of the path, such "
                "as 'patient_[0-9]+'"
            )
    names = {entry.group for entry in entries} - {""}
    if not names:
        return entries
    alone = [entry.path for entry in entries if not entry.group]
    if alone:
        notes.append(
            f"{len(alone):,} images have no group ({listed(map(shown, alone), 3)}): each is a "
            "group of its own"
        )
        entries = [entry._replace(group=entry.group or entry.path) for entry in entries]
    notes.append(
        f"groups: {len(names):,} in {len(entries):,} images; splits that are made here do not "
        "divide them"
    )
    return entries


def _match(expression: re.Pattern[str], path: str) -> str:
    match = expression.search(path)
    if match is None:
        return ""
    parts = match.groups(default="") or (match.group(),)
    return " ".join(filter(None, parts))


def broken_groups(splits: Mapping[str, Split], names: Sequence[str]) -> str | None:
    """Return a sentence about groups that the source's own splits divide; None if there are none.

    Args:
        splits: the splits of the source by name, with `group`.
        names: names of the groups.
    """
    homes: dict[int, list[str]] = {}
    for name, split in splits.items():
        for group in np.unique(split["group"]).tolist():
            homes.setdefault(group, []).append(name)
    divided = {group: homes[group] for group in sorted(homes) if len(homes[group]) > 1}
    if not divided:
        return None
    examples = (
        f"{shown(names[group])} in {' and '.join(where)}" for group, where in divided.items()
    )
    return (
        f"the source's own splits divide {len(divided):,} of {len(homes):,} groups "
        f"({listed(examples, 3)}): scores may be too high, because images of these groups are on "
        "both sides"
    )


def without_held_out(pool: Split, splits: Mapping[str, Split]) -> tuple[Split, tuple[str, ...]]:
    """Return unlabelled images without those of groups in validation and test, and notes."""
    if "group" not in pool:
        return pool, ()
    held_out = [splits[name]["group"] for name in ("validation", "test")]
    kept = ~np.isin(pool["group"], np.concatenate(held_out))
    if kept.all():
        return pool, ()
    note = f"{(~kept).sum():,} unlabelled images of groups in validation and test are left out"
    return {name: values[kept] for name, values in pool.items()}, (note,)


def notes_on_splits(
    source: Source, splits: Mapping[str, Split], classes: Sequence[str]
) -> tuple[str, ...]:
    """Return sentences on groups that are divided, and classes that no test image has."""
    notes = ()
    if source.groups:
        divided = broken_groups(splits, source.groups)
        notes += (divided,) if divided else ()
    counts = np.bincount(splits["train"]["label"], minlength=len(classes))
    absent = np.bincount(splits["test"]["label"], minlength=len(classes)) == 0
    rare = [shown(name) for name, k in zip(classes, absent & (counts > 0), strict=True) if k]
    if rare and source.test is None:
        which = f"class {rare[0]}" if len(rare) == 1 else f"{len(rare):,} classes"
        names = "" if len(rare) == 1 else f" ({listed(rare, 6)})"
        notes += (f"no test image of {which}{names}, so the scores say nothing about such images",)
    return notes

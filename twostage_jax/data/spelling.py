"""Texts of labels: spellings of one class, and texts that may mean something else than a class."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from twostage_jax.data.listing import Entry
from twostage_jax.data.names import listed
from twostage_jax.errors import UserError, shown

NUMBER = re.compile(r"([+-])?([0-9]+)([.][0-9]*)?")
# Texts that programs write into empty cells, or people who are not certain; as `_key` gives them.
NO_LABEL = "na n/a nan null none nil ? - unknown unlabeled unlabelled unclear unsure".split() + [
    "not sure",
    "no label",
    "don't know",
]
SEVERAL = re.compile(r"[^|;]+[|;][^|;]+")


def without_names(entries: list[Entry], names: Sequence[str], notes: list[str]) -> list[Entry]:
    """Remove labels that mean "no label".

    Raises:
        UserError: a name that no image has.
    """
    if not names:
        return entries
    keys = {_key(name) for name in names}
    missing = keys - {_key(entry.label) for entry in entries}
    if missing:
        present = sorted({entry.label for entry in entries} - {""})
        raise UserError(
            f"--unlabeled-label {shown(min(missing))} is not the label of any image: give one of "
            f"{listed(map(shown, present), 12)}"
        )
    kept = []
    count = 0
    for entry in entries:
        is_named = entry.label != "" and _key(entry.label) in keys
        count += is_named
        kept.append(entry._replace(label="") if is_named else entry)
    notes.append(
        f"images with the label {listed(map(shown, names))}: {count:,}, read as unlabelled"
    )
    return kept


def _key(label: str) -> str:
    """Return a label without differences of case, spaces, zeros and composed characters."""
    text = " ".join(unicodedata.normalize("NFC", label).split()).casefold()
    number = NUMBER.fullmatch(text)
    if number is None:
        return text
    sign, whole, part = number.groups(default="")
    # Spreadsheets write 007 as 7, and 7 as 7.0 if a cell of the column is empty.
    return f"{sign.strip('+')}{whole.lstrip('0') or '0'}{part.rstrip('0').rstrip('.')}"


def with_one_spelling(
    entries: list[Entry], merge: bool, path: Path, notes: list[str]
) -> list[Entry]:
    """Give each class one spelling.

    Raises:
        UserError: several spellings, unless they are to be merged.
    """
    spellings: dict[str, Counter[str]] = {}
    for label, count in Counter(entry.label for entry in entries).items():
        if label:
            spellings.setdefault(_key(label), Counter())[label] = count
    several = {key: counts for key, counts in spellings.items() if len(counts) > 1}
    if several and not merge:
        examples = (
            " and ".join(f"{shown(name)} ({count:,})" for name, count in counts.most_common())
            for counts in several.values()
        )
        raise UserError(
            f"{path} has labels that differ only by case, spaces or zeros: "
            f"{listed(examples, 6)}; give --merge-labels if they are one class, or rename them"
        )
    chosen = {}
    names = {"": ""}
    for key, counts in spellings.items():
        # The most frequent spelling; of equal ones the first in alphabetical order.
        name = min(counts, key=lambda name: (-counts[name], name))
        chosen[key] = " ".join(unicodedata.normalize("NFC", name).split())
        names |= dict.fromkeys(counts, chosen[key])
    if all(name == text for text, name in names.items()):
        return entries
    if several:
        notes.append(
            f"labels that differ only by case, spaces or zeros are merged: "
            f"{listed((shown(chosen[key]) for key in several), 12)}"
        )
    return [entry._replace(label=names[entry.label]) for entry in entries]


def doubtful_labels(entries: list[Entry]) -> list[str]:
    """Return sentences on labels that may mean "no label" or several classes."""
    counts = Counter(entry.label for entry in entries if entry.label)
    notes = [
        f"label {shown(label)} ({count:,}) is read as a class: --unlabeled-label {shown(label)} "
        "reads it as no label"
        for label, count in sorted(counts.items())
        if _key(label) in NO_LABEL
    ]
    several = [label for label in sorted(counts) if SEVERAL.fullmatch(label)]
    if several:
        notes.append(
            f"labels with | or ; are read as one class each, not as several classes: "
            f"{len(several):,} ({listed(map(shown, several), 3)})"
        )
    return notes

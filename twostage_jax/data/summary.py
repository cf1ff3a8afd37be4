"""A data set in a few lines of text or HTML, as Python and notebooks print it."""

import html
from collections.abc import Mapping, Sequence

from twostage_jax.errors import printable, shortened

NOTES = 8  # at most; all of them are in `Dataset.notes`
LINE_LIMIT = 160  # characters of a value


def as_text(title: str, figures: Mapping[str, str], notes: Sequence[str]) -> str:
    """Return a title, figures by name and notes as lines of text."""
    width = max(map(len, figures))
    lines = [f"  {name:{width}}  {_short(value)}" for name, value in figures.items()]
    return "\n".join([_short(title), *lines, *(f"  note: {note}" for note in _first(notes))])


def as_html(title: str, figures: Mapping[str, str], notes: Sequence[str]) -> str:
    """Return the same as a table."""
    rows = [
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(_short(value))}</td></tr>"
        for name, value in figures.items()
    ]
    lines = "".join(f"<br>{html.escape(note)}" for note in _first(notes))
    caption = html.escape(_short(title))
    return f"<table><caption>{caption}</caption>{''.join(rows)}</table>{lines}"


def _short(text: str) -> str:
    # Class names come from files, which are not trusted.
    return printable(shortened(text, LINE_LIMIT))


def _first(notes: Sequence[str]) -> list[str]:
    lines = list(map(_short, notes))
    if len(lines) > NOTES:
        return [*lines[: NOTES - 1], f"{len(lines) - NOTES + 1} more in .notes"]
    return lines

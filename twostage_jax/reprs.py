"""Small tables for `repr` and for notebooks: a title, and rows of a name and a text."""

import html
from collections.abc import Sequence

Rows = Sequence[tuple[str, str]]
LONGEST = 100  # characters of a text; a table is an overview


def text_table(title: str, rows: Rows) -> str:
    """Return a title and a line for each row, with the texts in one column."""
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join([title, *(f"  {name:<{width}}  {_short(text)}" for name, text in rows)])


def html_table(title: str, rows: Rows) -> str:
    """Return the same as HTML, for `_repr_html_`. Everything is escaped."""
    cell = '<td style="text-align: left">'
    lines = "".join(
        f"<tr>{cell}{html.escape(name)}</td>{cell}{html.escape(_short(text))}</td></tr>"
        for name, text in rows
    )
    return f"<table><caption>{html.escape(title)}</caption><tbody>{lines}</tbody></table>"


def _short(text: str) -> str:
    # Names of classes and files can come from anybody: control codes would change the terminal.
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 4]} ..."

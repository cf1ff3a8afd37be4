"""Small tables for `repr` and for notebooks: a title, and rows of a name and a text."""

import html
from collections.abc import Sequence

from twostage_jax.errors import printable, shortened

Rows = Sequence[tuple[str, str]]
LONGEST = 160  # characters of a text; a table is an overview


def text_table(title: str, rows: Rows) -> str:
    """Return a title and a line for each row, with the texts in one column."""
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(
        [_short(title), *(f"  {name:<{width}}  {_short(text)}" for name, text in rows)]
    )


def html_table(title: str, rows: Rows) -> str:
    """Return the same as HTML, for `_repr_html_`. Everything is escaped."""
    lines = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(_short(text))}</td></tr>"
        for name, text in rows
    )
    return f"<table><caption>{html.escape(_short(title))}</caption>{lines}</table>"


def _short(text: str) -> str:
    # Names of classes and files are not trusted.
    return printable(shortened(text, LONGEST))

"""Mistakes that a user can mend: one sentence that says what came, what would do, what next."""

import difflib
from collections.abc import Iterable
from typing import Any

LONGEST = 2000  # characters of one message; what a stranger's file says may be of any length


class UserError(ValueError):
    """A mistake in the input; the command line prints it as one line and exits with status 2.

    The message is one printable line of at most `LONGEST` characters, whatever names of files and
    fields went into it.
    """

    def __init__(self, message: object = "") -> None:
        # The lines of another library's message are joined; all else that would move a cursor is
        # escaped.
        lines = filter(None, map(str.strip, str(message).split("\n")))
        # Shortened again, as one character may have become ten.
        super().__init__(shortened(printable(shortened(" ".join(lines)))))


def printable(text: str) -> str:
    r"""`text` with what a terminal would obey, and what cannot be encoded, as `\x1b` and the like.

    For names out of somebody's files, wherever they are shown: control codes, marks that turn the
    direction of writing, lone surrogates.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def shortened(text: str, most: int = LONGEST) -> str:
    """`text`, or its beginning and its end where it has more than `most` characters."""
    if len(text) <= most:
        return text
    half = (most - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"


class Corrupted(UserError):
    """What is on disk is not what was written there."""


def did_you_mean(name: str, valid: Iterable[str], limit: int = 12) -> str:
    """The nearest valid name if there is one, then the valid names (the first `limit` of them)."""
    names = list(valid)
    # The search takes the square of the length.
    near = difflib.get_close_matches(name[:100], names, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}? " if near else ""
    more = f", and {len(names) - limit} more" if len(names) > limit else ""
    return f"{hint}It can be {', '.join(names[:limit])}{more}"


def shown(value: Any) -> str:
    """`repr`, of whatever a file of JSON or a caller may give."""
    try:
        return shortened(repr(value), 200)
    except (ValueError, RecursionError):  # a number of more digits than Python writes
        return f"a {type(value).__name__} that is too large"

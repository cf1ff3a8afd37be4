"""Mistakes that a user can mend: one sentence that says what came, what would do, what next."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in the input; the command line prints it as one line and exits with status 2."""


class Damaged(UserError):
    """What is on disk is not what was written there."""


def did_you_mean(name: str, valid: Iterable[str], limit: int = 12) -> str:
    """The nearest valid name if there is one, then the valid names (the first `limit` of them)."""
    names = list(valid)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}? " if near else ""
    more = f", and {len(names) - limit} more" if len(names) > limit else ""
    return f"{hint}It can be {', '.join(names[:limit])}{more}"

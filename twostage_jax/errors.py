"""Errors that a user can correct: one line with the input, the allowed values and the next step."""

import contextlib
import difflib
import re
from collections.abc import Iterable, Iterator

MESSAGE_LIMIT = 2000  # characters of one message; a file can contain text of any length
VALUE_LIMIT = 200  # characters of one value inside a message


class UserError(ValueError):
    """A mistake in the input; the command line prints it as one line and exits with status 2.

    The message is one printable line of at most `MESSAGE_LIMIT` characters, even if it contains
    names of files and fields.

    >>> str(UserError("cannot read a.json:\\n  it is not JSON"))
    'cannot read a.json: it is not JSON'

    Attributes:
        details: more lines, which the command line prints before the message.
    """

    details: tuple[str, ...] = ()

    def __init__(self, message: object = "") -> None:
        # Messages of other libraries can have several lines.
        lines = [line.strip() for line in str(message).split("\n")]
        line = shortened(" ".join(filter(None, lines)))
        # Shorten again: an escaped character can take ten characters.
        super().__init__(shortened(printable(line)))


class Corrupted(UserError):
    """A file on disk that differs from the file that was written."""


def printable(text: str) -> str:
    r"""Escape control characters and characters that cannot be encoded, as `\x1b`.

    Use it wherever names from files are shown. Control codes, marks that change the direction of
    writing and lone surrogates could otherwise change the user's terminal.
    """
    # Not `text.encode("unicode_escape")`: it would escape every letter outside ASCII, too.
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def shortened(text: str, limit: int = MESSAGE_LIMIT) -> str:
    """Return `text`, or its beginning and end if it has more than `limit` characters."""
    if len(text) <= limit:
        return text
    half = (limit - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"


def shown(value: object) -> str:
    """Return a short `repr` of any value from JSON or from a caller."""
    try:
        return shortened(repr(value), VALUE_LIMIT)
    except (ValueError, RecursionError):  # more digits or levels than Python prints
        return f"a {type(value).__name__} that is too large to print"


def did_you_mean(name: str, valid: Iterable[str], limit: int = 12) -> str:
    """Suggest the closest valid name, if any, then list the first `limit` valid names."""
    names = list(valid)
    # The search time grows with the square of the length, so only the beginning counts.
    similar = difflib.get_close_matches(name[:100], names, n=1, cutoff=0.6)
    hint = f"did you mean {similar[0]!r}? " if similar else ""
    rest = f", and {len(names) - limit} more" if len(names) > limit else ""
    return f"{hint}choose from {', '.join(names[:limit])}{rest}"


def user_message(error: Exception) -> str | None:
    """Return the message for an error that the user can fix; None for a bug of ours."""
    text = " ".join(str(error).split())
    if isinstance(error, (UserError, OSError)):  # OSError: a full disk, a missing permission
        return text
    if isinstance(error, FloatingPointError):  # raised by jax if the user asks for it
        return (
            f"JAX_DEBUG_NANS or JAX_DEBUG_INFS stopped the run: {text[:300]}; give --debug to see "
            "where, or unset the variable"
        )
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text:
        return (
            f"out of memory: {text[:300]}; use a smaller batch size, fewer members at once with "
            "--members-per-chunk, or a smaller encoder, or end other programs on the device"
        )
    return None


@contextlib.contextmanager
def import_errors() -> Iterator[None]:
    """Report why a package cannot be imported, such as a malformed `JAX_…` variable.

    Raises:
        UserError: instead of an error of the import.
    """
    try:
        yield
    except UserError:
        raise
    except (ValueError, ImportError) as error:
        name = re.search(r"JAX_\w+", str(error).upper())
        remedy = f"correct or unset {name.group()}" if name else "install the package again"
        raise UserError(
            f"cannot import the packages that a run needs: {error}; {remedy}"
        ) from error

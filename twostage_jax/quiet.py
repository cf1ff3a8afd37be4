"""What Orbax says beside its errors, which are told in one sentence, is kept from the user."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Orbax from logging pages about what fails; the cause stays with the error.

    Others log as before, in other threads too.
    """

    def by_others(record: logging.LogRecord) -> bool:
        return f"{os.sep}orbax{os.sep}" not in record.pathname

    def retrieved(record: logging.LogRecord) -> bool:
        # Of many writes that fail the first is raised; the others show when they are collected.
        return "OCDBT" not in f"{record.getMessage()} {record.exc_info}"

    filters = {"absl": by_others, "asyncio": retrieved}
    for name, each in filters.items():
        logging.getLogger(name).addFilter(each)
    try:
        yield
    finally:
        for name, each in filters.items():
            logging.getLogger(name).removeFilter(each)


@contextlib.contextmanager
def late_words_unheard() -> Iterator[None]:
    """Keep Python from printing what comes of the other writes when one of many has failed.

    TensorStore reports each of them to Orbax's event loop, which is gone by then, even after the
    error has been raised here. So after a failure this stays; nothing else is kept from anybody.
    """
    before = sys.unraisablehook

    def unraisable(found: Any) -> None:
        if not (found.object is None and str(found.exc_value) == "Event loop is closed"):
            before(found)

    sys.unraisablehook = unraisable
    yield
    if sys.unraisablehook is unraisable:
        sys.unraisablehook = before

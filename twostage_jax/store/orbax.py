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

    Of many writes that fail the first is raised here. TensorStore reports the others to Orbax's
    event loop, which is gone by then, and asyncio those that are collected, whenever that is: so
    after a failure what would be said of them stays unheard. Nothing else is kept from anybody.
    """

    def unraisable(found: Any) -> None:
        if not (found.object is None and str(found.exc_value) == "Event loop is closed"):
            before(found)

    absl, late, before = logging.getLogger("absl"), logging.getLogger("asyncio"), sys.unraisablehook
    stays = _retrieved in late.filters  # since an earlier failure
    absl.addFilter(_by_others)
    late.addFilter(_retrieved)
    sys.unraisablehook = unraisable
    try:
        yield
    finally:
        absl.removeFilter(_by_others)
    # Not reached after a failure.
    if not stays:
        late.removeFilter(_retrieved)
    if sys.unraisablehook is unraisable:
        sys.unraisablehook = before


def _by_others(record: logging.LogRecord) -> bool:
    return f"{os.sep}orbax{os.sep}" not in record.pathname


def _retrieved(record: logging.LogRecord) -> bool:
    return "OCDBT" not in f"{record.getMessage()} {record.exc_info}"

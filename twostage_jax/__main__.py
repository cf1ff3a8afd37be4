"""Entry point of `twostage` and of `python -m twostage_jax`."""

import contextlib
import gc
import os
import sys

from twostage_jax.signals import handled


def main() -> int:
    """Run the command line. Signals are handled while it is imported, too."""
    # Imports and traces make objects that stay. Searching them for garbage after every 700 new ones
    # took 0.5 s of a run on the digits.
    gc.set_threshold(50_000, 20, 20)
    with handled():
        from twostage_jax import cli

        status = cli.main()
    if "jax" in sys.modules:
        _leave(status)
    return status


def _leave(status: int) -> None:
    """End the process at once, because the regular exit after jax takes half a second."""
    # Everything is written; only the standard streams may have something left.
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    sys.exit(main())

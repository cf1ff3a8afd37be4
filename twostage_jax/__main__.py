"""`python -m twostage_jax` is `twostage`."""

import sys

from twostage_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())

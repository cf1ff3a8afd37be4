"""`python -m twostage_jax` is `twostage`."""

import sys

from twostage_jax.signals import handled


def main() -> int:
    """The command line; signals are heard while it is imported, too."""
    with handled():
        from twostage_jax import cli

        return cli.main()


if __name__ == "__main__":
    sys.exit(main())

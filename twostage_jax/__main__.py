"""Entry point of `twostage` and of `python -m twostage_jax`."""

import sys

from twostage_jax.signals import handled


def main() -> int:
    """Run the command line. Signals are handled while it is imported, too."""
    with handled():
        from twostage_jax import cli

        return cli.main()


if __name__ == "__main__":
    sys.exit(main())

"""`twostage bench` as a script: speed side by side with PyTorch, and proof of parity.

    python scripts/bench.py --data idx:../shared/data/mnist
    python scripts/bench.py --parity

docs/benchmarks.md holds the last full table, on what it was measured, and how to read it.
"""

import sys

from twostage_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", *sys.argv[1:]]))

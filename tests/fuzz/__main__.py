"""A campaign of fuzzed inputs: every reader returns a valid result or one printable error.

    pip install -e '.[fuzz]'
    python -m tests.fuzz --inputs 20000 --out findings

Inputs grow from valid files, guided by the coverage of our Python code (atheris) or, for readers in
C++, by mutation alone. A finding is an exception other than `UserError`, a crash, more than 10 s,
more than 1 GB, a file written outside the work folder, a new process or a connection. Seeds are
fixed, so a campaign can be repeated. docs/security.md has the results.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.fuzz.campaign import fuzz_target, installed, table
from tests.fuzz.child import GUIDED, NAMES, NEED_RUN, NO_LIMIT, run_child


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description="Feed every reader with fuzzed inputs."
    )
    parser.add_argument(
        "--targets", nargs="+", choices=NAMES, default=list(NAMES), help="readers, by default all"
    )
    parser.add_argument("--inputs", type=int, default=NO_LIMIT, help="inputs of each target")
    parser.add_argument(
        "--seconds", type=int, default=0, help="seconds of each target, 0: no limit"
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of all random choices")
    parser.add_argument("--out", default="fuzz-findings", help="folder for findings")
    for name in ("--name", "--work", "--run"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser


def main() -> int:
    """Run a campaign, print its table, and return 1 if there are findings."""
    parser = make_parser()
    args = parser.parse_args()
    if args.child:
        run_child(args)
        return 0
    if args.inputs == NO_LIMIT and not args.seconds:
        parser.error("give --inputs or --seconds")
    if GUIDED & set(args.targets) and "atheris" not in installed():
        parser.error("atheris is not installed: pip install -e '.[fuzz]'")
    out = Path(args.out).absolute()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        if set(NEED_RUN) & set(args.targets):
            from tests.fuzz.run_targets import make_run

            make_run(run)
        rows = [fuzz_target(name, args, out / name, run) for name in args.targets]
    print(table(rows))
    return int(any(row.findings for row in rows))


if __name__ == "__main__":
    sys.exit(main())

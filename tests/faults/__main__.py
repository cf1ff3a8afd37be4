"""Faults done to real runs on the command line, counted in a table for docs/reliability.md.

    python scripts/torture.py --quick
    python scripts/torture.py --faults kill flip --kills 200 --flips 500

Runs are killed, damaged, starved of disk space, started twice, put where nothing can be written,
made to diverge and stopped by signals; each must end with the numbers of a run to which nothing
happened, or say in one line what is wrong. Every case goes to `cases.jsonl` in --out.
"""

import argparse
import datetime
import os
import shutil
import signal
import sys
import time
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from torture import disks, flips, kills, pairs, values
from torture.processes import machine
from torture.session import Session
from torture.table import markdown, run_cases

# How often each fault is done, and how often in a quick session.
OFTEN = {
    "kill": (200, 20),
    "flip": (500, 50),
    "full": (12, 3),
    "pair": (20, 3),
    "orphan": (4, 1),
    "readonly": (6, 3),
    "vanish": (4, 2),
    "clock": (6, 3),
    "nan": (values.CASES, values.QUICK_CASES),
    "signal": (40, 6),
}


CASES = {
    "kill": kills.kill,
    "flip": flips.flip,
    "full": disks.full,
    "pair": pairs.pair,
    "orphan": pairs.orphan,
    "readonly": disks.readonly,
    "vanish": disks.vanish,
    "clock": values.clock,
    "nan": values.nan,
    "signal": kills.stop,
}


def latencies(done: list) -> str:
    """How soon runs stopped at the first signal."""
    seen = sorted(case.seen["latency"] for case in done if not case.seen.get("twice", True))
    if not seen:
        return ""
    most = seen[min(int(0.95 * len(seen)), len(seen) - 1)]
    return f"- signal: stopped after {seen[-1]:.2f} s at most, 95 % within {most:.2f} s\n"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Faults done to real runs.")
    parser.add_argument("--out", type=Path, help="default: runs/torture-TIME")
    parser.add_argument("--quick", action="store_true", help="in minutes, for CI")
    parser.add_argument("--faults", nargs="+", choices=OFTEN, default=list(OFTEN), metavar="FAULT",
                        help=", ".join(OFTEN))  # fmt: skip
    parser.add_argument("--kills", type=int, help="cases of kill")
    parser.add_argument("--flips", type=int, help="cases of flip")
    parser.add_argument("--count", type=int, help="cases of each fault")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="cases at a time")
    parser.add_argument("--seed", type=int, default=0, help="of all random choices")
    parser.add_argument("--keep", action="store_true", help="keep the folders of failures")
    return parser.parse_args()


def main() -> int:
    """Do the faults, print the table, and return 1 if anything did not hold."""
    args, began = arguments(), time.perf_counter()
    out = args.out or Path("runs") / time.strftime("torture-%Y%m%d-%H%M%S")
    often = {fault: args.count or OFTEN[fault][args.quick] for fault in args.faults}
    for fault, asked in (("kill", args.kills), ("flip", args.flips)):
        if fault in often and asked is not None:
            often[fault] = asked
    out.mkdir(parents=True, exist_ok=True)
    session = Session(out.absolute(), args.seed, args.workers, args.quick, args.keep, often)
    # Cases that have begun then end in order, and what they mounted is unmounted.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        done = run_cases(session, CASES)
    finally:
        session.close()
    print(f"\n{markdown(done)}\n{latencies(done.get('signal', []))}")
    versions = ", ".join(f"{name} {version(name)}" for name in ("jax", "orbax-checkpoint"))
    print(f"{machine()}; {versions}; {datetime.date.today()}; seed {args.seed}; "
          f"{time.perf_counter() - began:.0f} s")  # fmt: skip
    failed = any(case.wrong for cases in done.values() for case in cases)
    if not (failed and args.keep):
        shutil.rmtree(out / "cases")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

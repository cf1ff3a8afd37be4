"""Injects faults into real runs and prints the table for docs/reliability.md.

    python -m tests.faults --quick
    python -m tests.faults --faults kill flip --kills 200 --flips 500

Runs are killed, corrupted, left without disk space, started twice, put into read-only folders, made
to diverge and stopped by signals. Each must end with the numbers of an undisturbed run or report
the problem in one line. Every case is written to `cases.jsonl` in --out.
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

from tests.faults import disks, flips, kills, pairs, values
from tests.faults.processes import machine
from tests.faults.session import Session
from tests.faults.table import Record, markdown, run_cases

# Number of cases of each fault, and in a quick session.
COUNTS = {
    "kill": (200, 8),
    "flip": (500, 12),
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


def latencies(records: list[Record]) -> str:
    """Return a line with the seconds from the first signal to the end of a run."""
    single = [record.details for record in records if not record.details.get("twice", True)]
    seconds = sorted(details["latency"] for details in single)
    if not seconds:
        return ""
    index = min(int(0.95 * len(seconds)), len(seconds) - 1)
    return (
        f"- signal: stopped after at most {seconds[-1]:.2f} s, 95 % within {seconds[index]:.2f} s\n"
    )


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults", description="Inject faults into real runs."
    )
    parser.add_argument("--out", type=Path, help="folder of the session (runs/faults-TIME)")
    parser.add_argument("--quick", action="store_true", help="fewer cases, for CI")
    parser.add_argument(
        "--faults",
        nargs="+",
        choices=COUNTS,
        default=list(COUNTS),
        metavar="FAULT",
        help=f"faults to inject: {', '.join(COUNTS)}",
    )
    parser.add_argument("--kills", type=int, help="number of cases of kill")
    parser.add_argument("--flips", type=int, help="number of cases of flip")
    parser.add_argument("--count", type=int, help="number of cases of each fault")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="cases at a time")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random choices")
    parser.add_argument("--keep", action="store_true", help="keep the folders of failed cases")
    return parser.parse_args()


def main() -> int:
    """Run the session, print the table, and return 1 if a case failed."""
    args = parse_arguments()
    began = time.perf_counter()
    out = args.out or Path("runs") / time.strftime("faults-%Y%m%d-%H%M%S")
    counts = {fault: args.count or COUNTS[fault][args.quick] for fault in args.faults}
    for fault, count in (("kill", args.kills), ("flip", args.flips)):
        if fault in counts and count is not None:
            counts[fault] = count
    out.mkdir(parents=True, exist_ok=True)
    session = Session(out.absolute(), args.seed, args.workers, args.quick, args.keep, counts)
    # Running cases then end in order and unmount their disks.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        results = run_cases(session, CASES)
    finally:
        session.close()
    print(f"\n{markdown(results)}\n{latencies(results.get('signal', []))}")
    versions = ", ".join(f"{name} {version(name)}" for name in ("jax", "orbax-checkpoint"))
    seconds = time.perf_counter() - began
    date = datetime.date.today()
    print(f"{machine()}; {versions}; {date}; seed {args.seed}; {seconds:.0f} s")
    failed = any(record.failures for records in results.values() for record in records)
    if not (failed and args.keep):
        shutil.rmtree(out / "cases")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

"""Cases of faults: how they are run, written down and counted."""

import json
import shutil
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from torture.session import Session


class Record(NamedTuple):
    """One case.

    Attributes:
        wrong: why it did not hold, in a few words; nothing if it held.
        seen: what happened.
        count: what is added up in the table, such as the phase of a kill.
    """

    wrong: list[str]
    seen: dict[str, Any]
    count: dict[str, int] = {}


Case = Callable[[Session, int, Path], Record]


def run_cases(session: Session, cases: dict[str, Case]) -> dict[str, list[Record]]:
    """Run each case as often as the session says, several at a time; write each down as it ends."""
    done: dict[str, list[Record]] = {fault: [] for fault in session.often}

    def one(what: tuple[str, int]) -> None:
        fault, index = what
        base = session.base(fault, index)
        try:
            record = cases[fault](session, index, base)
        except Exception as error:
            # Of the harness, or of a run in a state that it does not know: told like a failure.
            told = traceback.format_exc().splitlines()[-6:]
            record = Record([f"harness: {type(error).__name__}: {error}"], {"traceback": told})
        if not (record.wrong and session.keep):
            shutil.rmtree(base, ignore_errors=True)
        with session.writing:
            _write(session, fault, index, record)
            done[fault].append(record)
            if len(done[fault]) == session.often[fault]:
                held = sum(not record.wrong for record in done[fault])
                print(f"{fault}: {held} of {len(done[fault])} held", flush=True)

    wanted = [(fault, index) for fault, number in session.often.items() for index in range(number)]
    with ThreadPoolExecutor(session.workers) as pool:
        list(pool.map(one, wanted))
    return done


def _write(session: Session, fault: str, index: int, record: Record) -> None:
    line = {"fault": fault, "case": index, "ok": not record.wrong, "why": record.wrong}
    with (session.out / "cases.jsonl").open("a") as file:
        file.write(json.dumps({**line, "count": record.count, "seen": record.seen}) + "\n")


def markdown(done: dict[str, list[Record]]) -> str:
    """The table, and under it what was counted in each fault."""
    lines = ["| fault | how often | held | failures |", "|---|---|---|---|"]
    notes = []
    for fault, cases in done.items():
        reasons = Counter(_short(case.wrong[0]) for case in cases if case.wrong)
        told = "; ".join(f"{count} × {reason}" for reason, count in reasons.most_common(5))
        held = sum(not case.wrong for case in cases)
        lines.append(f"| {fault} | {len(cases)} | {held} | {told or 'none'} |")
        if counts := _total(case.count for case in cases):
            notes.append(f"{fault}: " + ", ".join(f"{v} {k}" for k, v in counts.most_common()))
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)])


def _short(reason: str) -> str:
    """A reason as it fits into a cell."""
    cell = " ".join(reason.split()).replace("|", "/")
    return cell if len(cell) <= 90 else cell[:89] + "…"


def _total(counts: Iterable[dict[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return total

"""Cases of faults: running them, recording them, counting them."""

import json
import shutil
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from tests.faults.session import Session


class Record(NamedTuple):
    """Result of one case."""

    failures: list[str]  # reasons; empty if the case passed
    details: dict[str, Any]  # observations
    counts: dict[str, int] = {}  # the table adds them up, for instance kills by phase


Case = Callable[[Session, int, Path], Record]
Results = dict[str, list[Record]]


def run_cases(session: Session, cases: dict[str, Case]) -> Results:
    """Run each fault as often as the session says, several cases at a time."""
    results: Results = {fault: [] for fault in session.counts}

    def run_case(case: tuple[str, int]) -> None:
        fault, index = case
        base = session.base(fault, index)
        try:
            record = cases[fault](session, index, base)
        except Exception as error:
            # An error of the tool itself, or a run in an unknown state: reported as a failure.
            lines = traceback.format_exc().splitlines()[-6:]
            record = Record([f"tool: {type(error).__name__}: {error}"], {"traceback": lines})
        if not (record.failures and session.keep):
            shutil.rmtree(base, ignore_errors=True)
        with session.writing:
            _write(session, fault, index, record)
            results[fault].append(record)
            if len(results[fault]) == session.counts[fault]:
                passed = sum(not record.failures for record in results[fault])
                print(f"{fault}: {passed} of {len(results[fault])} passed", flush=True)

    numbered = [(fault, n) for fault, count in session.counts.items() for n in range(count)]
    with ThreadPoolExecutor(session.workers) as pool:
        # `map` cancels the cases that have not started if this thread is interrupted.
        list(pool.map(run_case, numbered))
    return results


def _write(session: Session, fault: str, index: int, record: Record) -> None:
    line = {"fault": fault, "case": index, "ok": not record.failures, **record._asdict()}
    with (session.out / "cases.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def markdown(results: Results) -> str:
    """Return the table, followed by the counts of each fault."""
    lines = ["| fault | cases | passed | failures |", "|---|---|---|---|"]
    notes = []
    for fault, records in results.items():
        reasons = Counter(_cell(record.failures[0]) for record in records if record.failures)
        listed = "; ".join(f"{count} × {reason}" for reason, count in reasons.most_common(5))
        passed = sum(not record.failures for record in records)
        lines.append(f"| {fault} | {len(records)} | {passed} | {listed or 'none'} |")
        counts = _total(record.counts for record in records)
        if counts:
            notes.append(f"{fault}: " + ", ".join(f"{v} {k}" for k, v in counts.most_common()))
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)])


def _cell(reason: str) -> str:
    """Shorten a reason so that it fits into a cell."""
    text = " ".join(reason.split()).replace("|", "/")
    return text if len(text) <= 90 else text[:89] + "…"


def _total(counts: Iterable[dict[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return total

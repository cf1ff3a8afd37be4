"""Two processes in one folder, and a lock file whose process has ended."""

import re
import signal
from pathlib import Path

from tests.faults import folders
from tests.faults.session import (
    KINDS,
    Session,
    compare_with_reference,
    complete,
    epoch_count,
    steps,
    wait_for,
)
from tests.faults.table import Record

# Long enough that the first process still runs when the second one starts.
KIND = "long"
TAKEN_OVER = re.compile(r"\block\b|taken? over", re.IGNORECASE)


def pair(session: Session, index: int, base: Path) -> Record:
    """Start two processes at the same moment: two new runs, or in every third case two resumed."""
    step = steps(KINDS[KIND], base)[0]
    case = "resume" if index % 3 == 2 else "start"
    argv = step.argv
    if case == "resume":
        process = session.start(argv, base)
        wait_for(process, lambda: epoch_count(step.folder, "pretrain") >= 2)
        process.signal(signal.SIGTERM)
        outcome = process.finish()
        if outcome.status != 143:
            return Record(["the run could not be interrupted"], outcome.summary)
        argv = ["run", "--resume", "--out", str(step.folder)]
    processes = [session.start(argv, base) for _ in range(2)]
    outcomes = [process.finish() for process in processes]
    details = {
        "case": case,
        "pids": [process.pid for process in processes],
        "both": [outcome.summary for outcome in outcomes],
    }
    done = [number for number, outcome in enumerate(outcomes) if outcome.status == 0]
    if len(done) != 1:
        statuses = [outcome.status for outcome in outcomes]
        return Record([f"two processes ({case}) ended with {statuses}"], details, {case: 1})
    failures = compare_with_reference(session, KIND, base)
    other = outcomes[1 - done[0]]
    pid = processes[done[0]].pid
    if not other.is_one_line_error:
        lines = len(other.error_lines)
        failures.append(f"the other process: status {other.status}, {lines} lines on stderr")
    elif not re.search(rf"\b{pid}\b", other.err):
        failures.append(f"the other process does not name {pid}: {other.error_lines[0]}")
    return Record(failures, details, {case: 1})


def orphan(session: Session, index: int, base: Path) -> Record:
    """Kill the process that holds the lock: the next one takes it over with a notice."""
    step = steps(KINDS[KIND], base)[0]
    stage = folders.STAGES[index % 2]
    process = session.start(step.argv, base)
    wait_for(process, lambda: epoch_count(step.folder, stage) >= 1)
    process.signal(signal.SIGKILL)
    process.finish()
    failures, outcome = complete(session, KIND, base)
    if not failures and not TAKEN_OVER.search(outcome.out + outcome.err):
        failures.append("no notice that the lock was taken over")
    return Record(failures, {"stage": stage, **outcome.summary}, {})

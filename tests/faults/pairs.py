"""Two processes in one folder, and a lock whose process is gone."""

import re
import signal
from pathlib import Path

from torture import folders
from torture.session import KINDS, Session, epochs_of, finish, judge, steps, wait_for
from torture.table import Record

# Long enough that the slower of two starts finds the other at work.
KIND = "long"
TAKEN = re.compile(r"\block\b|taken? over", re.IGNORECASE)


def pair(session: Session, index: int, base: Path) -> Record:
    """Two processes at the same moment: two new runs, or in every third case two that resume."""
    step, resumes = steps(KINDS[KIND], base)[0], index % 3 == 2
    argv = step.argv
    if resumes:
        process = session.start(argv, base)
        wait_for(process, lambda: epochs_of(step.folder, "pretrain") >= 2)
        process.signal(signal.SIGTERM)
        if (outcome := process.finish()).status != 143:
            return Record(["could not be cut"], outcome.seen)
        argv = ["run", "--resume", "--out", str(step.folder)]
    processes = [session.start(argv, base) for _ in range(2)]
    outcomes = [process.finish() for process in processes]
    seen = {
        "resume": resumes,
        "pids": [process.pid for process in processes],
        "both": [outcome.seen for outcome in outcomes],
    }
    count = {"resume" if resumes else "start": 1}
    done = [number for number, outcome in enumerate(outcomes) if outcome.status == 0]
    if len(done) != 1:
        statuses = [outcome.status for outcome in outcomes]
        return Record([f"of two that {list(count)[0]}, exits {statuses}"], seen, count)
    wrong, other = judge(session, KIND, base), outcomes[1 - done[0]]
    pid = processes[done[0]].pid
    if not other.in_one_line:
        wrong.append(f"the other: status {other.status}, {len(other.error_lines)} lines on stderr")
    elif not re.search(rf"\b{pid}\b", other.err):
        wrong.append(f"the other does not name process {pid}: {other.error_lines[0]}")
    return Record(wrong, seen, count)


def orphan(session: Session, index: int, base: Path) -> Record:
    """The process that held the lock was killed: the next one takes it over, and says so."""
    step, stage = steps(KINDS[KIND], base)[0], folders.STAGES[index % 2]
    process = session.start(step.argv, base)
    wait_for(process, lambda: epochs_of(step.folder, stage) >= 1)
    process.signal(signal.SIGKILL)
    process.finish()
    wrong, outcome = finish(session, KIND, base)
    assert outcome
    if not wrong and not TAKEN.search(outcome.out + outcome.err):
        wrong.append("no notice that a lock was taken over")
    return Record(wrong, {"stage": stage, **outcome.seen}, {})

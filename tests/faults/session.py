"""A session of faults: kinds of runs, their undisturbed references, and folders for the cases."""

import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tests.faults import folders
from tests.faults.processes import Outcome, Process, Resident, environment

MNIST = Path(__file__).resolve().parents[3] / "shared" / "data" / "mnist"


class Kind(NamedTuple):
    """A kind of run."""

    flags: tuple[str, ...]  # of `twostage run`, except `--out`
    epochs: int = 3  # of each stage
    separate: bool = False  # run by `pretrain` and `head --from` in two folders
    cold: bool = False  # compiles all programs, as the first run on a machine does

    @property
    def stage_epochs(self) -> dict[str, int]:
        """Epochs by stage."""
        return dict.fromkeys(folders.STAGES, self.epochs)


DIGITS = ("--data", "digits")
KINDS = {
    "plain": Kind(DIGITS),
    "members": Kind((*DIGITS, "--members", "3")),
    "sweep": Kind((*DIGITS, "--sweep", "head.learning-rate=1e-3,1e-2")),
    "separate": Kind(DIGITS, separate=True),
    "cold": Kind(DIGITS, cold=True),
    "mnist": Kind(("--data", f"idx:{MNIST}"), epochs=1),
    # An epoch on digits takes about ten milliseconds, and a checkpoint is saved every two seconds.
    "longer": Kind(DIGITS, epochs=150),
    "long": Kind(DIGITS, epochs=300),
}


class Step(NamedTuple):
    """One command of a run, and the folder that it writes."""

    argv: list[str]
    folder: Path


def steps(kind: Kind, base: Path) -> list[Step]:
    """Return the commands of a complete run with its folders in `base`."""
    epochs = {stage: [f"--{stage}.epochs", str(kind.epochs)] for stage in folders.STAGES}
    if not kind.separate:
        argv = ["run", *kind.flags, *epochs["pretrain"], *epochs["head"]]
        return [Step([*argv, "--out", str(base / "run")], base / "run")]
    first = base / "first"
    second = base / "second"
    pretrain = ["pretrain", *kind.flags, *epochs["pretrain"], "--out", str(first)]
    head = ["head", "--from", str(first), *epochs["head"], "--out", str(second)]
    return [Step(pretrain, first), Step(head, second)]


def next_command(step: Step) -> list[str]:
    """Return the command that resumes a step, or starts it if its folder is not a run yet."""
    if not (step.folder / folders.MANIFEST).is_file():
        return step.argv
    command = "pretrain" if step.argv[0] == "pretrain" else "run"
    return [command, "--resume", "--out", str(step.folder)]


class Reference(NamedTuple):
    """An undisturbed run."""

    base: Path  # parent of its folders
    contents: list[dict[str, Any]]  # of the folder of each command
    names: list[set[str]]  # in the folder of each command
    scores: list[str]  # rows that `twostage evaluate` prints
    last: dict[str, int]  # final step of each stage


def table_rows(text: str) -> list[str]:
    """Return the rows of tables; their titles contain the name of a folder."""
    return [line for line in text.splitlines() if line.startswith(("│", "|"))]


@dataclass
class Session:
    """State that all cases share."""

    out: Path  # folder of the session
    seed: int  # of all random choices
    workers: int  # cases at a time
    quick: bool  # the session must end within minutes
    keep: bool  # the folders of failed cases stay
    counts: dict[str, int]  # of the cases of each fault
    # Cases run in threads: one lock for the file of cases, and one for each thing made once.
    writing: threading.Lock = field(default_factory=threading.Lock)
    _residents: list[Resident] = field(default_factory=list)
    _idle: list[Resident] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _made: dict[str, Any] = field(default_factory=dict)
    _locks: dict[str, threading.Lock] = field(default_factory=dict)

    def random(self, *names: object) -> random.Random:
        """Make the random choices of a case; they do not depend on the order of cases."""
        return random.Random("/".join(str(name) for name in (self.seed, *names)))

    def base(self, *names: object) -> Path:
        """Create an empty folder for a case."""
        path = self.out / "cases" / "-".join(str(name) for name in names)
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path

    def env(self, cache: Path | None = None) -> dict[str, str]:
        """Return the environment of processes; compiled programs are shared by default."""
        return environment(cache or self.out / "cache")

    def env_for(self, kind: Kind, base: Path) -> dict[str, str]:
        """Return the environment of a run of a kind; cold runs have their own cache."""
        return self.env(base / "cache" if kind.cold else None)

    def start(self, argv: list[str], base: Path, env: Any = None, **options: Any) -> Process:
        """Start a command; its output goes to `base / "logs"`."""
        return Process(argv, base / "logs", env or self.env(), **options)

    def command(self, argv: list[str], base: Path, env: Any = None, **options: Any) -> Outcome:
        """Run a command in a new process to its end."""
        return self.start(argv, base, env, **options).finish()

    def resident_command(self, argv: list[str]) -> Outcome:
        """Run a command in one of the resident processes; there is about one for each worker."""
        with self._lock:
            if self._idle:
                resident = self._idle.pop()
            else:
                logs = self.out / "cases" / f"resident-{len(self._residents)}"
                resident = Resident(logs, self.env())
                self._residents.append(resident)
        try:
            return resident.call(argv)
        finally:
            self._idle.append(resident)

    def close(self) -> None:
        """End the resident processes."""
        for resident in self._residents:
            resident.close()

    def scores(self, folder: Path) -> Outcome:
        """Run `twostage evaluate` on the validation split of a run."""
        return self.resident_command(["evaluate", str(folder), "--split", "validation"])

    def reference(self, name: str) -> Reference:
        """Return the undisturbed run of a kind."""
        return self._once(f"reference {name}", lambda: self._make_reference(name))

    def duration(self, name: str) -> float:
        """Return the mean seconds of the last runs of a kind while all workers are busy."""
        self.reference(name)
        durations = self._once(f"durations {name}", lambda: self._measure_durations(name))
        recent = durations[-4:]
        return sum(recent) / len(recent)

    def add_duration(self, name: str, seconds: float) -> None:
        """Record the duration of a complete run: the load of the machine may change."""
        self._made.setdefault(f"durations {name}", []).append(seconds)

    def interrupted(self, stage: str) -> Path:
        """Return a folder of kind `longer` that SIGTERM stopped within a stage; copy it."""
        return self._once(f"interrupted {stage}", lambda: self._interrupt(stage))

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        with self._lock:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:
            if name not in self._made:
                self._made[name] = make()
            return self._made[name]

    def _make_reference(self, name: str) -> Reference:
        kind = KINDS[name]
        base = self.base("reference", name)
        self._run_whole(kind, base)
        all_steps = steps(kind, base)
        last: dict[str, int] = {}
        for step in all_steps:
            last |= folders.committed(step.folder)
        return Reference(
            base,
            [folders.contents(step.folder) for step in all_steps],
            [folders.names(step.folder) for step in all_steps],
            table_rows(self.scores(all_steps[-1].folder).out),
            last,
        )

    def _measure_durations(self, name: str) -> list[float]:
        bases = [self.base("timed", name, number) for number in range(self.workers)]
        with ThreadPoolExecutor(self.workers) as pool:
            seconds = list(pool.map(lambda base: self._run_whole(KINDS[name], base), bases))
        for base in bases:
            shutil.rmtree(base)
        return seconds

    def _run_whole(self, kind: Kind, base: Path) -> float:
        """Run all steps of an undisturbed run and return the seconds."""
        began = time.perf_counter()
        for step in steps(kind, base):
            outcome = self.command(step.argv, base, self.env_for(kind, base))
            if outcome.status != 0:
                raise RuntimeError(f"an undisturbed run failed: {step.argv}: {outcome.summary}")
        return time.perf_counter() - began

    def _interrupt(self, stage: str) -> Path:
        for attempt in range(10):
            base = self.base("interrupted", stage, attempt)
            step = steps(KINDS["longer"], base)[0]
            process = self.start(step.argv, base)
            wait_for(process, lambda step=step: epoch_count(step.folder, stage) >= 2)
            process.signal(signal.SIGTERM)
            status = process.finish().status
            if status == 143 and not (step.folder / folders.RESULT).exists():
                return step.folder
        raise RuntimeError(f"no run could be interrupted in stage {stage}")


def wait_for(process: Process, condition: Callable[[], bool], limit: float = 60.0) -> bool:
    """Wait until `condition()` is true, at most until the process ends."""
    end = time.perf_counter() + limit
    while process.running and time.perf_counter() < end:
        if condition():
            return True
        time.sleep(0.002)
    return False


def epoch_count(folder: Path, stage: str) -> int:
    """Count the epochs of a stage in `metrics.jsonl`."""
    return sum(record["stage"] == stage for record in folders.records(folder))


def compare_with_reference(session: Session, name: str, base: Path) -> list[str]:
    """List the differences between a completed run and the undisturbed run of its kind."""
    reference = session.reference(name)
    failures = []
    all_steps = steps(KINDS[name], base)
    for number, step in enumerate(all_steps):
        if not step.folder.is_dir():
            return [f"{step.folder.name} does not exist"]
        contents = folders.contents(step.folder)
        changed = folders.differences(contents, reference.contents[number])
        if changed:
            failures.append(f"other numbers: {', '.join(changed[:6])}")
        names = folders.names(step.folder)
        expected = reference.names[number]
        if names - expected:
            failures.append(f"left over: {', '.join(sorted(names - expected))}")
        if expected - names:
            failures.append(f"missing: {', '.join(sorted(expected - names))}")
    shown = session.scores(all_steps[-1].folder)
    if shown.status != 0 or table_rows(shown.out) != reference.scores:
        failures.append(f"evaluate prints other scores: {shown.summary}")
    return failures


def complete(session: Session, name: str, base: Path) -> tuple[list[str], Outcome]:
    """Resume a run to its end and compare it; return the failures and the last outcome."""
    env = session.env_for(KINDS[name], base)
    outcome = Outcome(None, "", "", 0)
    for step in steps(KINDS[name], base):
        outcome = session.command(next_command(step), base, env)
        if outcome.status != 0:
            return [f"the resumed run ended with {outcome.status}"], outcome
    return compare_with_reference(session, name, base), outcome

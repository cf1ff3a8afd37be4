"""One session of faults: kinds of runs, how each looks where nothing happens, and its folders."""

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

from torture import folders
from torture.processes import Outcome, Process, Resident, environment

MNIST = Path(__file__).resolve().parents[3] / "shared" / "data" / "mnist"


class Kind(NamedTuple):
    """A kind of run.

    Attributes:
        flags: of `twostage run`, but for `--out`.
        epochs: of each stage.
        apart: whether `pretrain` and `head --from` do it in two folders.
        cold: whether it compiles all its programs, as the first run on a machine does.
    """

    flags: tuple[str, ...]
    epochs: int = 3
    apart: bool = False
    cold: bool = False


DIGITS = ("--data", "digits")
KINDS = {
    "plain": Kind(DIGITS),
    "members": Kind((*DIGITS, "--members", "3")),
    "sweep": Kind((*DIGITS, "--sweep", "head.learning-rate=1e-3,1e-2")),
    "apart": Kind(DIGITS, apart=True),
    "cold": Kind(DIGITS, cold=True),
    "mnist": Kind(("--data", f"idx:{MNIST}"), epochs=1),
    "longer": Kind(DIGITS, epochs=6),
    "long": Kind(DIGITS, epochs=12),
}


def epochs_of_kind(name: str) -> dict[str, int]:
    """How many epochs each stage has."""
    return {stage: KINDS[name].epochs for stage in folders.STAGES}


class Step(NamedTuple):
    """One command of a run, and the folder that it fills."""

    argv: list[str]
    folder: Path


def steps(kind: Kind, base: Path) -> list[Step]:
    """The commands of a whole run within `base`."""
    epochs = {s: [f"--{s}.epochs", str(kind.epochs)] for s in folders.STAGES}
    if not kind.apart:
        argv = ["run", *kind.flags, *epochs["pretrain"], *epochs["head"]]
        return [Step([*argv, "--out", str(base / "run")], base / "run")]
    first, second = base / "first", base / "second"
    argv = ["pretrain", *kind.flags, *epochs["pretrain"], "--out", str(first)]
    then = ["head", "--from", str(first), *epochs["head"], "--out", str(second)]
    return [Step(argv, first), Step(then, second)]


def onward(step: Step) -> list[str]:
    """The command that goes on with a step, or begins it where its folder was never entered."""
    if not (step.folder / folders.CONFIG).is_file():
        return step.argv
    command = "pretrain" if step.argv[0] == "pretrain" else "run"
    return [command, "--resume", "--out", str(step.folder)]


class Reference(NamedTuple):
    """A run to which nothing happened.

    Attributes:
        base: where its folders lie.
        contents: of the folder of each step.
        names: in the folder of each step.
        scores: what `twostage evaluate` shows.
        last: the step that each stage ends with.
    """

    base: Path
    contents: list[dict[str, Any]]
    names: list[set[str]]
    scores: list[str]
    last: dict[str, int]


def table_rows(text: str) -> list[str]:
    """Rows of the tables in it; titles name a folder and break where its name is long."""
    return [line for line in text.splitlines() if line.startswith(("│", "|"))]


@dataclass
class Session:
    """What all faults share.

    Attributes:
        out: folder for all of it.
        seed: what every random choice comes from.
        workers: how many cases go on at a time.
        quick: whether it has to be done in minutes.
        keep: whether folders of failures stay.
        often: how many cases of each fault there are.
        writing: held by who writes down a case.
    """

    out: Path
    seed: int
    workers: int
    quick: bool
    keep: bool
    often: dict[str, int]
    _residents: list[Resident] = field(default_factory=list)
    _idle: list[Resident] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _made: dict[str, Any] = field(default_factory=dict)
    _locks: dict[str, threading.Lock] = field(default_factory=dict)
    writing: threading.Lock = field(default_factory=threading.Lock)

    def random(self, *names: object) -> random.Random:
        """Choices of one case, the same whatever the order of cases."""
        return random.Random("/".join(str(name) for name in (self.seed, *names)))

    def base(self, *names: object) -> Path:
        """A new folder for a case."""
        path = self.out / "cases" / "-".join(str(name) for name in names)
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path

    def env(self, cache: Path | None = None) -> dict[str, str]:
        """The environment of processes, with the programs that this session compiled."""
        return environment(cache or self.out / "cache")

    def start(self, argv: list[str], base: Path, env: Any = None, **options: Any) -> Process:
        """Begin a command; its output goes to `base / "logs"`."""
        return Process(argv, base / "logs", env or self.env(), **options)

    def command(self, argv: list[str], base: Path, env: Any = None, **options: Any) -> Outcome:
        """Run a command in a process of its own to its end."""
        return self.start(argv, base, env, **options).finish()

    def inside(self, argv: list[str]) -> Outcome:
        """Run a command in one of the processes that stay: about one for each worker."""
        with self._lock:
            number = len(self._residents)
            if self._idle:
                resident = self._idle.pop()
            else:
                resident = Resident(self.out / "cases" / f"resident-{number}", self.env())
                self._residents.append(resident)
        try:
            return resident.call(argv)
        finally:
            self._idle.append(resident)

    def close(self) -> None:
        """End the processes that stay."""
        for resident in self._residents:
            resident.close()

    def scores(self, folder: Path) -> Outcome:
        """What `twostage evaluate` says of a run."""
        return self.inside(["evaluate", str(folder), "--split", "validation"])

    def reference(self, name: str) -> Reference:
        """The undisturbed run of a kind."""
        return self._once(f"reference {name}", lambda: self._reference(name))

    def duration(self, name: str) -> float:
        """Seconds that a run of a kind takes with all workers at work, lately."""
        self.reference(name)
        known = self._once(f"durations {name}", lambda: self._durations(name))
        lately = known[-4:]
        return sum(lately) / len(lately)

    def took(self, name: str, seconds: float) -> None:
        """Note how long a whole run took: others may come to use the machine, or leave it."""
        self._made.setdefault(f"durations {name}", []).append(seconds)

    def cut(self, stage: str) -> Path:
        """A folder `run` of the kind `longer` that SIGTERM cut within a stage, to be copied."""
        return self._once(f"cut {stage}", lambda: self._cut(stage))

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        with self._lock:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:
            if name not in self._made:
                self._made[name] = make()
            return self._made[name]

    def _reference(self, name: str) -> Reference:
        kind, base = KINDS[name], self.base("reference", name)
        _whole(self, kind, base)
        all_steps, last = steps(kind, base), {}
        for step in all_steps:
            last |= folders.committed(step.folder)
        return Reference(
            base,
            [folders.contents(step.folder) for step in all_steps],
            [folders.names(step.folder) for step in all_steps],
            table_rows(self.scores(all_steps[-1].folder).out),
            last,
        )

    def _durations(self, name: str) -> list[float]:
        places = [self.base("timed", name, number) for number in range(self.workers)]
        with ThreadPoolExecutor(self.workers) as pool:
            seconds = list(pool.map(lambda place: _whole(self, KINDS[name], place), places))
        for place in places:
            shutil.rmtree(place)
        return seconds

    def _cut(self, stage: str) -> Path:
        for attempt in range(10):
            base = self.base("cut", stage, attempt)
            step = steps(KINDS["longer"], base)[0]
            process = self.start(step.argv, base)
            wait_for(process, lambda step=step: epochs_of(step.folder, stage) >= 2)
            process.signal(signal.SIGTERM)
            status = process.finish().status
            if status == 143 and not (step.folder / folders.RESULT).exists():
                return step.folder
        raise RuntimeError(f"no run could be cut in stage {stage}")


def wait_for(process: Process, condition: Any, limit: float = 60.0) -> bool:
    """Wait until `condition()` holds, at most until the process ends."""
    end = time.perf_counter() + limit
    while process.running and time.perf_counter() < end:
        if condition():
            return True
        time.sleep(0.002)
    return False


def epochs_of(folder: Path, stage: str) -> int:
    """How many epochs of a stage `metrics.jsonl` has."""
    return sum(record["stage"] == stage for record in folders.records(folder))


def cache_of(session: Session, kind: Kind, base: Path) -> dict[str, str]:
    """The environment of a run of this kind."""
    return session.env(base / "cache" if kind.cold else None)


def _whole(session: Session, kind: Kind, base: Path) -> float:
    """Seconds of a run from its start to its end."""
    began = time.perf_counter()
    for step in steps(kind, base):
        outcome = session.command(step.argv, base, cache_of(session, kind, base))
        if outcome.status != 0:
            raise RuntimeError(f"an undisturbed run fails: {step.argv}: {outcome.seen}")
    return time.perf_counter() - began


def judge(session: Session, name: str, base: Path) -> list[str]:
    """What is not as in the undisturbed run of this kind, once all steps have ended well."""
    reference, wrong = session.reference(name), []
    all_steps = steps(KINDS[name], base)
    for number, step in enumerate(all_steps):
        if not step.folder.is_dir():
            return [f"{step.folder.name} is not there"]
        changed = folders.differences(folders.contents(step.folder), reference.contents[number])
        if changed:
            wrong.append(f"other numbers: {', '.join(changed[:6])}")
        if more := folders.names(step.folder) - reference.names[number]:
            wrong.append(f"left over: {', '.join(sorted(more))}")
        if fewer := reference.names[number] - folders.names(step.folder):
            wrong.append(f"lacks: {', '.join(sorted(fewer))}")
    shown = session.scores(all_steps[-1].folder)
    if shown.status != 0 or table_rows(shown.out) != reference.scores:
        wrong.append(f"evaluate shows other scores: {shown.seen}")
    return wrong


def finish(session: Session, name: str, base: Path) -> tuple[list[str], Outcome | None]:
    """Go on with a run to its end and judge it; with the outcome of the last command."""
    outcome, env = None, cache_of(session, KINDS[name], base)
    for step in steps(KINDS[name], base):
        outcome = session.command(onward(step), base, env)
        if outcome.status != 0:
            return [f"going on ended with {outcome.status}"], outcome
    return judge(session, name, base), outcome

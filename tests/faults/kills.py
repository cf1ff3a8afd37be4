"""`kill -9` and other signals, at random moments of the whole run."""

import random
import re
import shlex
import shutil
import signal
import time
from pathlib import Path
from typing import Any

from torture import folders
from torture.processes import Process
from torture.session import KINDS, MNIST, Session, cache_of, judge, onward, steps
from torture.table import Record

# How often each kind of run is taken; a quick session leaves the long ones out.
SHARES = {"plain": 12, "members": 3, "sweep": 2, "apart": 3, "cold": 1, "mnist": 2}


def choose_kind(session: Session, choice: random.Random) -> str:
    """A kind of run for a case."""
    shares = dict(SHARES)
    if session.quick:
        shares = {"plain": 12, "members": 2, "apart": 2}
    elif not MNIST.is_dir():
        del shares["mnist"]
    return choice.choices(list(shares), list(shares.values()))[0]


class Life:
    """A run that is begun, cut and taken up again until all its commands have ended well."""

    def __init__(self, session: Session, name: str, base: Path):
        self._session, self._base, self._name = session, base, name
        self._kind, self._reference = KINDS[name], session.reference(name)
        self._env = cache_of(session, self._kind, base)
        self._steps, self.done = steps(self._kind, base), 0
        self._newest: list[dict[str, int]] = [{} for _ in self._steps]
        self._covered: list[list[Any]] = [[] for _ in self._steps]

    @property
    def complete(self) -> bool:
        """Whether there is nothing left to do."""
        return self.done == len(self._steps)

    @property
    def folder(self) -> Path:
        """Where the command that comes next works."""
        return self._steps[min(self.done, len(self._steps) - 1)].folder

    @property
    def epochs(self) -> dict[str, int]:
        """Of each stage."""
        return {stage: self._kind.epochs for stage in folders.STAGES}

    def go_on(self, seconds: float) -> Process | None:
        """Do what is left for so long, and return the process that then runs.

        Raises:
            ValueError: a command that failed.
        """
        end = time.perf_counter() + seconds
        while not self.complete:
            step = self._steps[self.done]
            argv = onward(step)
            process = self._session.start(argv, self._base, self._env)
            if not process.ends_within(end - time.perf_counter()):
                return process
            outcome = process.finish()
            if outcome.status != 0:
                raise ValueError(f"ended with {outcome.status}: {outcome.seen['err']}")
            self.done += 1
            if argv == step.argv and len(self._steps) == 1:
                self._session.took(self._name, outcome.seconds)
        return None

    def as_told(self, err: str) -> None:
        """Do what the program said would go on with the run, which must be one command.

        Raises:
            ValueError: it said nothing of the kind, or the command failed.
        """
        told = re.findall(r"twostage ((?:run|pretrain) --resume .*)", err)
        argv = shlex.split(told[-1]) if told else []
        if str(self.folder) not in argv:
            raise ValueError(f"the line to resume is missing or wrong: {told}")
        outcome = self._session.command(argv, self._base, self._env)
        if outcome.status != 0:
            raise ValueError(f"as told, it ended with {outcome.status}: {outcome.seen['err']}")
        self.done += 1

    def look(self) -> list[str]:
        """What was lost since the last look, once nothing runs any more."""
        lost = []
        for number, step in enumerate(self._steps):
            found = folders.committed(step.folder)
            for stage, newest in self._newest[number].items():
                if found.get(stage, -1) < newest:
                    lost.append(f"checkpoint {stage}/{newest} was lost")
            kept = folders.records(step.folder)
            gone = [record for record in self._covered[number] if record not in kept]
            if gone:
                where = f"{gone[0]['stage']} {gone[0]['epoch']}"
                lost.append(f"an epoch with a checkpoint was trained again: {where}")
            self._newest[number] |= found
            done = folders.covered(step.folder, self._reference.last, self.epochs)
            self._covered[number] = done
        return lost


def kill(session: Session, index: int, base: Path) -> Record:
    """SIGKILL at random moments, up to three times, and then on to the end."""
    choice = session.random("kill", index)
    name, wanted = choose_kind(session, choice), choice.randint(1, 3)
    whole, cuts, wrong = session.duration(name), [], []
    life = Life(session, name, base)
    try:
        while not life.complete and len(cuts) < wanted:
            process = life.go_on(choice.random() * whole)
            if process:
                process.signal(signal.SIGKILL)
                outcome = process.finish()
                phase = folders.moment(life.folder, life.epochs, outcome.out)
                cuts.append({"after": round(outcome.seconds, 3), "phase": phase, **outcome.seen})
                wrong += life.look()
            elif not cuts:
                # It was over before the first one: another run, so that each case has a kill.
                shutil.rmtree(base)
                life = Life(session, name, base)
        life.go_on(300)
        wrong += life.look() + judge(session, name, base)
    except ValueError as error:
        wrong.append(f"going on: {error}")
    phases = [cut["phase"] for cut in cuts]
    counts = {"kills": len(cuts), **{phase: phases.count(phase) for phase in phases}}
    seen = {"kind": name, "kills": cuts, "commands": life.done}
    return Record(wrong, seen, counts)


def stop(session: Session, index: int, base: Path) -> Record:
    """SIGTERM or SIGINT at a random moment; in every third case a second one soon after."""
    choice = session.random("signal", index)
    name = "plain" if session.quick else choose_kind(session, choice)
    signum = choice.choice([signal.SIGTERM, signal.SIGINT])
    life, twice = Life(session, name, base), index % 3 == 2
    process = None
    while process is None:
        if life.complete:
            shutil.rmtree(base)
            life = Life(session, name, base)
        process = life.go_on(choice.random() * session.duration(name))
    had = {file for file in (folders.CONFIG, folders.RESULT) if (life.folder / file).is_file()}
    after = time.perf_counter() - process.began
    process.signal(signum)
    sent = time.perf_counter()
    if twice and not process.ends_within(0.1):
        process.signal(signum)
        sent = time.perf_counter()
    process.ends_within(10)
    latency = time.perf_counter() - sent
    outcome = process.finish()
    wrong = _stopped(outcome, signum, had, latency, twice)
    seen = {
        "kind": name, "signal": signal.Signals(signum).name, "twice": twice, "had": sorted(had),
        "after": round(after, 3), "latency": round(latency, 3), **outcome.seen,
        "phase": folders.moment(life.folder, life.epochs, outcome.out),
    }  # fmt: skip
    try:
        if not twice and folders.CONFIG in had and folders.RESULT not in had:
            life.as_told(outcome.err)
        life.go_on(300)
        wrong += judge(session, name, base)
    except ValueError as error:
        wrong.append(f"going on: {error}")
    return Record(wrong, seen, {str(seen["phase"]): 1})


def _stopped(outcome: Any, signum: int, had: set[str], latency: float, twice: bool) -> list[str]:
    wrong = []
    # Before Python has reached the program, the signal ends it as it ends any other.
    early = not had and "twostage_jax/cli" not in outcome.err
    allowed = {128 + signum} | ({-signum} if early or twice else set())
    if folders.RESULT in had:
        allowed |= {0, -signum}  # the program is over, and Python on its way out
    if outcome.status not in allowed:
        wrong.append(f"exit status {outcome.status} after {signal.Signals(signum).name}")
    if "Traceback" in outcome.err and not early:
        wrong.append(f"traceback after a signal: {outcome.error_lines[-1]}")
    if latency > (1 if twice else 2):
        wrong.append(f"took {latency:.1f} s to stop{' at the second signal' if twice else ''}")
    return wrong

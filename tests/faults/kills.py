"""SIGKILL and other signals at random moments of a run."""

import random
import re
import shlex
import shutil
import signal
import time
from pathlib import Path
from typing import Any

from tests.faults import folders
from tests.faults.processes import Outcome, Process
from tests.faults.session import (
    KINDS,
    MNIST,
    Session,
    compare_with_reference,
    next_command,
    steps,
)
from tests.faults.table import Record

# Relative frequency of the kinds of runs; a quick session leaves out the long ones.
SHARES = {"plain": 8, "longer": 6, "members": 3, "sweep": 2, "separate": 3, "cold": 1, "mnist": 2}
QUICK_SHARES = {"plain": 8, "longer": 4, "members": 2, "separate": 2}


def choose_kind(session: Session, choice: random.Random) -> str:
    """Choose the kind of run of a case."""
    shares = dict(QUICK_SHARES if session.quick else SHARES)
    if not MNIST.is_dir():
        shares.pop("mnist", None)
    return choice.choices(list(shares), list(shares.values()))[0]


class Life:
    """A run that is started, stopped and resumed until all its commands have ended well."""

    def __init__(self, session: Session, name: str, base: Path):
        self._session = session
        self._base = base
        self._name = name
        self._kind = KINDS[name]
        self._reference = session.reference(name)
        self._env = session.env_for(self._kind, base)
        self._steps = steps(self._kind, base)
        self._newest: list[dict[str, int]] = [{} for _ in self._steps]
        self._covered: list[list[Any]] = [[] for _ in self._steps]
        self.done = 0

    @property
    def complete(self) -> bool:
        """True if no command is left."""
        return self.done == len(self._steps)

    @property
    def folder(self) -> Path:
        """Folder of the next command."""
        return self._steps[min(self.done, len(self._steps) - 1)].folder

    def phase(self, outcome: Outcome) -> str:
        """Name the phase in which the last process was stopped."""
        return folders.phase(self.folder, self._kind.stage_epochs, outcome.out)

    def proceed(self, seconds: float) -> Process | None:
        """Run the next commands for so long; return the process that runs then.

        Raises:
            ValueError: if a command failed.
        """
        end = time.perf_counter() + seconds
        while not self.complete:
            step = self._steps[self.done]
            argv = next_command(step)
            process = self._session.start(argv, self._base, self._env)
            if not process.ends_within(end - time.perf_counter()):
                return process
            outcome = process.finish()
            if outcome.status != 0:
                raise ValueError(f"ended with {outcome.status}: {outcome.summary['err']}")
            self.done += 1
            if argv == step.argv and len(self._steps) == 1:
                self._session.add_duration(self._name, outcome.seconds)
        return None

    def follow_advice(self, err: str) -> None:
        """Run the command that the stopped program printed for resuming.

        Raises:
            ValueError: if there is no such command, or it failed.
        """
        commands = re.findall(r"twostage ((?:run|pretrain) --resume .*)", err)
        argv = shlex.split(commands[-1]) if commands else []
        if str(self.folder) not in argv:
            raise ValueError(f"the line to resume is missing or wrong: {commands}")
        outcome = self._session.command(argv, self._base, self._env)
        if outcome.status != 0:
            summary = outcome.summary["err"]
            raise ValueError(f"the printed command ended with {outcome.status}: {summary}")
        self.done += 1

    def losses(self) -> list[str]:
        """List the checkpoints and epochs that were lost since the last call; nothing runs now."""
        lost = []
        for number, step in enumerate(self._steps):
            newest = folders.committed(step.folder)
            for stage, before in self._newest[number].items():
                if newest.get(stage, -1) < before:
                    lost.append(f"checkpoint {stage}/{before} was lost")
            kept = folders.records(step.folder)
            gone = [record for record in self._covered[number] if record not in kept]
            if gone:
                epoch = f"{gone[0]['stage']} {gone[0]['epoch']}"
                lost.append(f"an epoch with a checkpoint was trained again: {epoch}")
            self._newest[number] |= newest
            last = self._reference.last
            self._covered[number] = folders.covered(step.folder, last, self._kind.stage_epochs)
        return lost


def kill(session: Session, index: int, base: Path) -> Record:
    """Send SIGKILL at random moments, up to three times, then complete the run."""
    choice = session.random("kill", index)
    name = choose_kind(session, choice)
    wanted = choice.randint(1, 3)
    duration = session.duration(name)
    kills = []
    failures = []
    life = Life(session, name, base)
    try:
        while not life.complete and len(kills) < wanted:
            process = life.proceed(choice.random() * duration)
            if process:
                process.signal(signal.SIGKILL)
                outcome = process.finish()
                after = round(outcome.seconds, 3)
                kills.append({"after": after, "phase": life.phase(outcome), **outcome.summary})
                failures += life.losses()
            elif not kills:
                # The run ended before the first kill: start again, so that every case has one.
                shutil.rmtree(base)
                life = Life(session, name, base)
        life.proceed(300)
        failures += life.losses()
        failures += compare_with_reference(session, name, base)
    except ValueError as error:
        failures.append(f"resuming: {error}")
    phases = [kill["phase"] for kill in kills]
    counts = {"kills": len(kills), **{phase: phases.count(phase) for phase in phases}}
    return Record(failures, {"kind": name, "kills": kills, "commands": life.done}, counts)


def stop(session: Session, index: int, base: Path) -> Record:
    """Send SIGTERM or SIGINT at a random moment; in every third case a second one soon after."""
    choice = session.random("signal", index)
    name = "plain" if session.quick else choose_kind(session, choice)
    signum = choice.choice([signal.SIGTERM, signal.SIGINT])
    twice = index % 3 == 2
    life = Life(session, name, base)
    process = None
    while process is None:
        if life.complete:
            shutil.rmtree(base)
            life = Life(session, name, base)
        process = life.proceed(choice.random() * session.duration(name))
    files = (folders.MANIFEST, folders.RESULT)
    before = {file for file in files if (life.folder / file).is_file()}
    after = time.perf_counter() - process.began
    latency = _send(process, signum, twice)
    outcome = process.finish()
    failures = _check_stop(outcome, signum, before, latency, twice)
    details = {
        "kind": name,
        "signal": signal.Signals(signum).name,
        "twice": twice,
        "files": sorted(before),
        "after": round(after, 3),
        "latency": round(latency, 3),
        **outcome.summary,
        "phase": life.phase(outcome),
    }
    try:
        if not twice and folders.MANIFEST in before and folders.RESULT not in before:
            life.follow_advice(outcome.err)
        life.proceed(300)
        failures += compare_with_reference(session, name, base)
    except ValueError as error:
        failures.append(f"resuming: {error}")
    return Record(failures, details, {details["phase"]: 1})


def _send(process: Process, signum: int, twice: bool) -> float:
    """Send one or two signals; return the seconds from the last one to the end."""
    process.signal(signum)
    began = time.perf_counter()
    if twice and not process.ends_within(0.1):
        process.signal(signum)
        began = time.perf_counter()
    process.ends_within(10)
    return time.perf_counter() - began


def _check_stop(
    outcome: Outcome, signum: int, before: set[str], latency: float, twice: bool
) -> list[str]:
    """List the broken promises of a stopped program.

    `before` has the files that existed when the signal was sent.
    """
    failures = []
    # Before Python has reached the program, a signal ends it as it ends any other process.
    early = not before and "twostage_jax/cli" not in outcome.err
    allowed = {128 + signum}
    if early or twice:
        allowed.add(-signum)
    if folders.RESULT in before:
        allowed |= {0, -signum}  # the program has ended, and Python is exiting
    if outcome.status not in allowed:
        failures.append(f"exit status {outcome.status} after {signal.Signals(signum).name}")
    if "Traceback" in outcome.err and not early:
        failures.append(f"traceback after a signal: {outcome.error_lines[-1]}")
    if latency > (1 if twice else 2):
        second = " at the second signal" if twice else ""
        failures.append(f"took {latency:.1f} s to stop{second}")
    return failures

"""The command line of the package: in a process of its own, or in one that stays."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

WORKER = Path(__file__).parent / "worker.py"
HANGS = 120.0  # seconds after which a process is taken to be stuck


class Outcome(NamedTuple):
    """How a command ended.

    Attributes:
        status: as Python has it: negative where a signal ended it; None where it had to be ended.
        out: what it printed.
        err: what it printed on stderr.
        seconds: how long it took.
    """

    status: int | None
    out: str
    err: str
    seconds: float

    @property
    def error_lines(self) -> list[str]:
        """Lines of stderr that say something."""
        return [line for line in self.err.splitlines() if line.strip()]

    @property
    def in_one_line(self) -> bool:
        """Whether it ended as a mistake that a user can mend has to."""
        lines = self.error_lines
        return self.status == 2 and len(lines) == 1 and lines[0].startswith("twostage: error: ")

    @property
    def seen(self) -> dict[str, Any]:
        """For the record of a case."""
        return {
            "status": self.status,
            "seconds": round(self.seconds, 2),
            "out": self.out.splitlines()[-3:],
            "err": self.error_lines[-6:],
        }


class Process:
    """A command that runs, its output going to files so that it never waits for us."""

    def __init__(self, argv: Sequence[str], logs: Path, env: dict[str, str], **options: Any):
        logs.mkdir(parents=True, exist_ok=True)
        number = len(list(logs.iterdir()))
        self._paths = logs / f"{number:02}.out", logs / f"{number:02}.err"
        command = [sys.executable, "-m", "twostage_jax", *argv]
        self.began = time.perf_counter()
        with self._paths[0].open("wb") as out, self._paths[1].open("wb") as err:
            self._popen = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=env, **options
            )

    @property
    def pid(self) -> int:
        """Its number."""
        return self._popen.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._popen.poll() is None

    @property
    def printed(self) -> str:
        """What it has printed so far."""
        return self._paths[0].read_text(errors="replace")

    def signal(self, signum: int) -> None:
        """Send a signal, if it still runs."""
        with contextlib.suppress(ProcessLookupError):
            self._popen.send_signal(signum)

    def ends_within(self, seconds: float) -> bool:
        """Wait so long at most."""
        try:
            self._popen.wait(max(seconds, 0))
        except subprocess.TimeoutExpired:
            return False
        return True

    def finish(self, limit: float = HANGS) -> Outcome:
        """Wait for its end; after `limit` seconds make one."""
        stuck = not self.ends_within(limit)
        if stuck:
            self.signal(signal.SIGKILL)
            self._popen.wait()
        status = None if stuck else self._popen.returncode
        seconds = time.perf_counter() - self.began
        return Outcome(status, self.printed, self._paths[1].read_text(errors="replace"), seconds)


class Resident:
    """A process that has imported the package and runs one command after another."""

    def __init__(self, logs: Path, env: dict[str, str]):
        logs.mkdir(parents=True, exist_ok=True)
        self._paths, self._env = (logs / "out", logs / "err"), env
        self._popen: subprocess.Popen[str] | None = None

    def call(self, argv: Sequence[str], limit: float = 60.0) -> Outcome:
        """Run `twostage_jax.cli.main(argv)`; a process that hangs or dies is replaced."""
        began = time.perf_counter()
        if self._popen is None or self._popen.poll() is not None:
            self._popen = subprocess.Popen(
                [sys.executable, str(WORKER)], env=self._env, text=True, bufsize=1,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        channel, answers = self._popen.stdin, self._popen.stdout
        assert channel and answers
        request = {"argv": list(argv), "out": str(self._paths[0]), "err": str(self._paths[1])}
        channel.write(json.dumps(request) + "\n")
        channel.flush()
        ready, _, _ = select.select([answers], [], [], limit)
        line = answers.readline() if ready else ""
        status = json.loads(line) if line else None
        if not line:
            self.close()
            status = self._popen.returncode if ready else None
        out, err = (path.read_text(errors="replace") for path in self._paths)
        return Outcome(status, out, err, time.perf_counter() - began)

    def close(self) -> None:
        """End the process."""
        if self._popen:
            self._popen.kill()
            self._popen.wait()


def environment(cache: Path) -> dict[str, str]:
    """Of all processes here: where compiled programs are kept, and no output that comes late."""
    return {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache), "PYTHONUNBUFFERED": "1"}


def machine() -> str:
    """CPU model and number of cores."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{models[0] if models else 'unknown CPU'}, {cores} cores"

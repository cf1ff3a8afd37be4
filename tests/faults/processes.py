"""Commands of the package: in a new process each, or in one resident process."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

STUCK = 120.0  # seconds after which a process counts as stuck


class Outcome(NamedTuple):
    """Result of a command."""

    status: int | None  # negative if a signal ended the process, None if it was stuck
    out: str
    err: str
    seconds: float

    @property
    def error_lines(self) -> list[str]:
        """Lines of standard error that are not empty."""
        return [line for line in self.err.splitlines() if line.strip()]

    @property
    def is_one_line_error(self) -> bool:
        """True if the command ended as a user's mistake does: status 2 and one line."""
        lines = self.error_lines
        return self.status == 2 and len(lines) == 1 and lines[0].startswith("twostage: error: ")

    @property
    def summary(self) -> dict[str, Any]:
        """Status, duration and last lines, for the record of a case."""
        return {
            "status": self.status,
            "seconds": round(self.seconds, 2),
            "out": self.out.splitlines()[-3:],
            "err": self.error_lines[-6:],
        }


class Process:
    """A running command. Its output goes to files, so that it never waits for a reader."""

    def __init__(self, argv: Sequence[str], logs: Path, env: dict[str, str], **options: Any):
        logs.mkdir(parents=True, exist_ok=True)
        number = len(list(logs.iterdir()))
        self._out = logs / f"{number:02}.out"
        self._err = logs / f"{number:02}.err"
        command = [sys.executable, "-m", "twostage_jax", *argv]
        self.began = time.perf_counter()
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._popen = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=env, **options
            )

    @property
    def pid(self) -> int:
        """Process id."""
        return self._popen.pid

    @property
    def running(self) -> bool:
        """True until the process ends."""
        return self._popen.poll() is None

    @property
    def printed(self) -> str:
        """Standard output so far."""
        return self._out.read_text(errors="replace")

    def signal(self, signum: int) -> None:
        """Send a signal if the process still runs."""
        with contextlib.suppress(ProcessLookupError):
            self._popen.send_signal(signum)

    def ends_within(self, seconds: float) -> bool:
        """Wait for the end, at most so long, and return True if it came."""
        try:
            self._popen.wait(max(seconds, 0))
        except subprocess.TimeoutExpired:
            return False
        return True

    def finish(self, limit: float = STUCK) -> Outcome:
        """Wait for the end; kill the process after `limit` seconds."""
        stuck = not self.ends_within(limit)
        if stuck:
            self.signal(signal.SIGKILL)
            self._popen.wait()
        status = None if stuck else self._popen.returncode
        seconds = time.perf_counter() - self.began
        return Outcome(status, self.printed, self._err.read_text(errors="replace"), seconds)


class Resident:
    """A process that has imported the package and runs one command after another."""

    def __init__(self, logs: Path, env: dict[str, str]):
        logs.mkdir(parents=True, exist_ok=True)
        self._out = logs / "out"
        self._err = logs / "err"
        self._env = env
        self._popen: subprocess.Popen[str] | None = None

    def call(self, argv: Sequence[str], limit: float = 60.0) -> Outcome:
        """Run `twostage_jax.cli.main(argv)`; a process that is stuck or ends is replaced."""
        began = time.perf_counter()
        if self._popen is None or self._popen.poll() is not None:
            self._popen = self._start()
        requests, answers = self._popen.stdin, self._popen.stdout
        assert requests and answers
        request = {"argv": list(argv), "out": str(self._out), "err": str(self._err)}
        requests.write(json.dumps(request) + "\n")
        requests.flush()
        ready, _, _ = select.select([answers], [], [], limit)
        line = answers.readline() if ready else ""
        status = json.loads(line) if line else None
        if not line:
            self.close()
            status = self._popen.returncode if ready else None
        out = self._out.read_text(errors="replace")
        err = self._err.read_text(errors="replace")
        return Outcome(status, out, err, time.perf_counter() - began)

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.faults.worker"]
        return subprocess.Popen(
            command,
            env=self._env,
            text=True,
            bufsize=1,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def close(self) -> None:
        """End the process."""
        if self._popen:
            self._popen.kill()
            self._popen.wait()


def environment(cache: Path, variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """Environment of all commands: the folder of compiled programs, and unbuffered output."""
    root = str(Path(__file__).resolve().parents[2])  # of `tests`, for the resident process
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    ours = {"JAX_COMPILATION_CACHE_DIR": str(cache), "PYTHONUNBUFFERED": "1", "PYTHONPATH": path}
    return {**os.environ, **ours, **(variables or {})}


def machine() -> str:
    """CPU model and number of cores."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{models[0] if models else 'unknown CPU'}, {cores} cores"

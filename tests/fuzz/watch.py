"""Feeds a target with inputs and records its findings."""

import collections
import contextlib
import hashlib
import io
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

SECONDS = 10.0
BYTES = 10**9
# Events that no reader may cause; `open` is forbidden only for writing outside the work folder.
FORBIDDEN = {"os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Watch:
    """Calls a target and records findings; there is one in a process.

    Attributes:
        count: number of inputs so far.
    """

    def __init__(self, feed: Callable[[bytes], object], work: Path, out: Path) -> None:
        self.count = 0
        self._feed = feed
        self._work = work
        self._out = out
        self._input = b""
        self._active = False
        self._findings: collections.Counter[str] = collections.Counter()
        self._peak = _peak_memory()
        sys.addaudithook(self._audit)

    def __call__(self, data: bytes) -> None:
        """Feed one input."""
        self._input = data
        self.count += 1
        # The parent process reads this file after a crash.
        (self._work / "last").write_bytes(data)
        if self.count % 50 == 0:
            self.save()
        began = time.perf_counter()
        self._active = True
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                self._feed(data)
        except BaseException as error:
            self._active = False
            self._check_error(error)
        self._active = False
        seconds = time.perf_counter() - began
        if seconds > SECONDS:
            self.record(f"{seconds:.1f} s", "")
        peak = _peak_memory()
        if peak > self._peak + BYTES:
            self.record(f"{(peak - self._peak) / 1e9:.1f} GB", "")
            self._peak = peak

    def _check_error(self, error: BaseException) -> None:
        from twostage_jax.errors import UserError

        if isinstance(error, UserError) and str(error).isprintable():
            return
        if isinstance(error, SystemExit) and error.code in (None, 0, 2):
            return
        frame = traceback.extract_tb(error.__traceback__)[-1]
        title = f"{type(error).__name__} in {Path(frame.filename).name}:{frame.lineno}"
        self.record(title, "".join(traceback.format_exception(error)))

    def record(self, title: str, details: str) -> None:
        """Count a finding and keep the input of its first occurrence."""
        self._findings[title] += 1
        if self._findings[title] == 1:
            name = hashlib.sha256(title.encode()).hexdigest()[:12]
            (self._out / f"{name}.input").write_bytes(self._input)
            (self._out / f"{name}.txt").write_text(f"{title}\n{details}")
        self.save()

    def save(self) -> None:
        """Write the counts to a file for the parent process; a crash may come at any time."""
        part = self._work / "count.part"
        part.write_text(json.dumps([self.count, self._findings]))
        part.replace(self._work / "count")

    def _audit(self, event: str, args: tuple) -> None:
        if not self._active:
            return
        if event in FORBIDDEN:
            self._active = False
            self.record(event, str(args)[:500])
        elif event == "open" and isinstance(args[0], str) and args[2] & WRITING:
            inside = os.path.realpath(args[0]).startswith(f"{self._work}/")
            if not inside and args[0] != os.devnull:
                self._active = False
                self.record("a file was written outside", str(args))


def _peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

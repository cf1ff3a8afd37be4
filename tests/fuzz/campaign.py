"""A campaign of fuzzed inputs against every reader: each gives a valid result or one sentence.

    pip install -e '.[fuzz]'
    python scripts/fuzz.py --inputs 20000 --out findings

Inputs grow from valid files, guided by the coverage of our Python code (atheris), or, for what
C++ reads, by mutation alone. Findings are: an exception other than `UserError`, a crash, more than
10 s, more than 1 GB, a file written elsewhere, a process or connection. Seeds are fixed, so a
campaign can be repeated. What was measured is in docs/security.md.
"""

import argparse
import collections
import contextlib
import hashlib
import importlib
import importlib.metadata
import io
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

NAMES = ("idx", "gzip", "npz", "tfds", "config", "command", "manifest", "metrics", "run")
GUIDED = {"idx", "gzip", "npz", "config", "command", "manifest", "metrics"}
SECONDS, BYTES = 10.0, 10**9
LONGEST_INPUT = 8192
# What a reader has no business doing; `open` only where it writes outside the folder at work.
FORBIDDEN = {"os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Watch:
    """Feeds a target and writes down what it must not do; one per process."""

    def __init__(self, feed: Any, work: Path, out: Path) -> None:
        self._feed, self._work, self._out = feed, work, out
        self._current, self._on, self._found = b"", False, collections.Counter()
        self.count = 0
        self._peak = _peak()
        sys.addaudithook(self._audit)

    def __call__(self, data: bytes) -> None:
        """One input."""
        self._current, self.count = data, self.count + 1
        (self._work / "last").write_bytes(data)
        if self.count % 50 == 0:
            self.save()
        began, self._on = time.perf_counter(), True
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                self._feed(data)
        except BaseException as error:
            self._on = False
            self._judge(error)
        self._on = False
        if (spent := time.perf_counter() - began) > SECONDS:
            self.find(f"{spent:.1f} s", "")
        if (peak := _peak()) > self._peak + BYTES:
            self.find(f"{(peak - self._peak) / 1e9:.1f} GB", "")
            self._peak = peak

    def _judge(self, error: BaseException) -> None:
        from twostage_jax.errors import UserError

        fine = isinstance(error, UserError) and str(error).isprintable()
        if fine or (isinstance(error, SystemExit) and error.code in (None, 0, 2)):
            return
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{type(error).__name__} in {Path(frame.filename).name}:{frame.lineno}"
        self.find(where, "".join(traceback.format_exception(error)))

    def find(self, what: str, details: str) -> None:
        """Write down a finding, the input of its first time beside it."""
        self._found[what] += 1
        if self._found[what] == 1:
            name = hashlib.sha256(what.encode()).hexdigest()[:12]
            (self._out / f"{name}.input").write_bytes(self._current)
            (self._out / f"{name}.txt").write_text(f"{what}\n{details}")
        self.save()

    def save(self) -> None:
        """Keep the counts where the parent finds them, whatever happens next."""
        part = self._work / "count.part"
        part.write_text(json.dumps([self.count, self._found]))
        part.replace(self._work / "count")

    def _audit(self, event: str, args: tuple) -> None:
        if not self._on:
            return
        if event in FORBIDDEN:
            self._on = False
            self.find(event, str(args)[:500])
        elif event == "open" and isinstance(args[0], str) and args[2] & WRITING:
            inside = os.path.realpath(args[0]).startswith(f"{self._work}/")
            if not inside and args[0] != os.devnull:
                self._on = False
                self.find("a file written elsewhere", str(args))


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def mutate(source: random.Random, seeds: list[bytes]) -> bytes:
    """One of the seeds with one to four changes; its first byte, which selects, mostly kept."""
    data = bytearray(source.choice(seeds))
    for _ in range(source.randint(1, 4)):
        at = source.randrange(len(data)) if data else 0
        size = min(source.choice((1, 2, 4, 8, 64)), len(data) - at)
        match source.randrange(7):
            case 0 if data:
                data[at] ^= 1 << source.randrange(8)
            case 1:
                data[at : at + size] = source.choice((b"\0", b"\xff", b"\x7f", b"9")) * size
            case 2:
                del data[max(at, 1) : at + size]
            case 3:
                data[at:at] = data[at : at + size] * source.choice((1, 2, 50))
            case 4 if source.random() < 0.3:
                del data[max(at, 1) :]
            case 5:
                data[at : at + size] = source.randbytes(size)
            case _:
                other = source.choice(seeds)
                start = source.randrange(len(other))
                data[at : at + size] = other[start : start + size]
    return bytes(data)


def child(args: argparse.Namespace) -> None:
    """Feed one target, in this process, until its inputs or its seconds are spent."""
    if args.name in GUIDED:
        atheris: Any = importlib.import_module("atheris")
        with atheris.instrument_imports(include=["twostage_jax", "fuzzing", "zipfile"]):
            import twostage_jax.data.npz
            import twostage_jax.data.tfds.prepared  # noqa: F401
    from fuzzing import targets as fuzz_targets

    work = Path(args.work)
    given = (
        (work / "read", Path(args.run)) if args.name in fuzz_targets.NEED_RUN else (work / "read",)
    )
    given[0].mkdir(exist_ok=True)
    target = fuzz_targets.TARGETS[args.name](*given)
    watch = Watch(target.feed, work, Path(args.out))
    for seed in target.seeds:
        watch(seed)
    left = max(1, args.inputs - watch.count)
    if args.name in GUIDED:
        corpus = work / "corpus"
        corpus.mkdir(exist_ok=True)
        for index, seed in enumerate(target.seeds):
            (corpus / f"seed-{index}").write_bytes(seed)
        limits = [f"-runs={left}", f"-max_total_time={args.seconds}", f"-max_len={LONGEST_INPUT}"]
        kept = [f"-artifact_prefix={args.out}/", "-timeout=60", "-rss_limit_mb=0", "-verbosity=0"]
        import atexit

        atexit.register(watch.save)
        atheris.Setup([args.name, *limits, *kept, f"-seed={args.seed}", str(corpus)], watch)
        atheris.Fuzz()
        return
    source, end = random.Random(args.seed), time.monotonic() + (args.seconds or 10**9)
    while left > 0 and time.monotonic() < end:
        watch(mutate(source, target.seeds))
        left -= 1
    watch.save()


def campaign(name: str, args: argparse.Namespace, out: Path, run: Path) -> dict[str, Any]:
    """All inputs of one target; after a crash another process goes on where it was."""
    row: dict[str, Any] = {"target": name, "inputs": 0, "seconds": 0.0, "crashes": 0}
    found: collections.Counter = collections.Counter()
    out.mkdir(parents=True, exist_ok=True)
    while row["inputs"] < args.inputs and row["seconds"] < (args.seconds or 10**9):
        with tempfile.TemporaryDirectory(prefix=f"fuzz-{name}-") as work:
            left = args.inputs - row["inputs"]
            seconds = int(args.seconds - row["seconds"]) + 1 if args.seconds else 0
            options = {"inputs": left, "seconds": seconds, "seed": args.seed + row["crashes"]}
            options |= {"name": name, "work": os.path.realpath(work), "out": out, "run": run}
            command = [sys.executable, __file__, "--child"]
            command += [part for key, value in options.items() for part in (f"--{key}", str(value))]
            began = time.monotonic()
            log = out / "log"
            with log.open("ab") as file:
                done = subprocess.run(command, stdout=file, stderr=file, cwd=work, env=_env(work))
            row["seconds"] += time.monotonic() - began
            count, own = _counts(Path(work))
            row["inputs"] += count
            found.update(own)
            if done.returncode in (0, 2) and count:
                break
            row["crashes"] += 1
            with contextlib.suppress(OSError):
                last = (Path(work) / "last").read_bytes()
                (out / f"crash-{row['crashes']}.input").write_bytes(last)
            found[f"crash with status {done.returncode}"] += 1
            if not count or row["crashes"] > 50:
                break
    return {**row, "findings": dict(found)}


def _counts(work: Path) -> tuple[int, dict[str, int]]:
    try:
        count, found = json.loads((work / "count").read_text())
        return count, found
    except (OSError, ValueError):
        return 0, {}


def _env(work: str) -> dict[str, str]:
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu", "PYTHONDONTWRITEBYTECODE": "1"}
    return {**os.environ, **quiet, "PYTHONPATH": path, "TMPDIR": work, "HOME": work}


def table(rows: list[dict[str, Any]]) -> str:
    """The campaign in Markdown."""
    packages = ("atheris", "numpy", "pillow", "array-record", "orbax-checkpoint", "jax")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    lines = [f"{time.strftime('%Y-%m-%d')}, Python {sys.version.split()[0]}, {versions}.", ""]
    lines += ["| target | inputs | seconds | guided | findings |", "|---|---:|---:|---|---|"]
    for row in rows:
        found = "; ".join(f"{what} ({n:,})" for what, n in row["findings"].items()) or "none"
        guided = "by coverage" if row["target"] in GUIDED else "mutation"
        figures = f"{row['inputs']:,} | {row['seconds']:.0f} | {guided}"
        lines.append(f"| {row['target']} | {figures} | {found} |")
    inputs, seconds = (sum(row[key] for row in rows) for key in ("inputs", "seconds"))
    kinds = sum(len(row["findings"]) for row in rows)
    return "\n".join([*lines, f"| all | {inputs:,} | {seconds:.0f} | | {kinds} kinds |"])


def main() -> int:
    """Run a campaign and print its table; 1 if there were findings."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--targets", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--inputs", type=int, default=10**9, help="per target")
    parser.add_argument("--seconds", type=int, default=0, help="per target; 0 for no limit")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", default="fuzz-findings", help="folder for findings")
    for name in ("--name", "--work", "--run"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args)
        return 0
    if args.inputs == 10**9 and not args.seconds:
        parser.error("give --inputs or --seconds")
    if GUIDED & set(args.targets) and not _has_atheris():
        parser.error("atheris is not installed: pip install -e '.[fuzz]'")
    from fuzzing import targets as fuzz_targets

    out = Path(args.out).absolute()
    with tempfile.TemporaryDirectory() as made:
        run = Path(made) / "run"
        if set(fuzz_targets.NEED_RUN) & set(args.targets):
            fuzz_targets.make_run(run)
        rows = [campaign(name, args, out / name, run) for name in args.targets]
    print(table(rows))
    return int(any(row["findings"] for row in rows))


def _has_atheris() -> bool:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return bool(importlib.metadata.version("atheris"))
    return False


if __name__ == "__main__":
    sys.exit(main())

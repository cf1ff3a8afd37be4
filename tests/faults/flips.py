"""Corrupted files: one bit flipped, or a file truncated, emptied or removed, in a run's folder."""

import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.faults import folders
from tests.faults.processes import Outcome
from tests.faults.session import Reference, Session, table_rows
from tests.faults.table import Record

WAYS = {"flip": 4, "truncate": 2, "empty": 1, "remove": 2}  # relative frequency
STATES = ("stopped in stage 2", "stopped in stage 1", "complete")
# Words of the notice that a corrupted file is not used.
NOTICE = re.compile(r"corrupted|fall(s|ing|en)? back|again from", re.IGNORECASE)


class Damage(NamedTuple):
    """A change of one file."""

    file: str  # path relative to the run's folder
    way: str  # one of `WAYS`
    place: int  # the flipped bit, or the number of remaining bytes

    def apply(self, folder: Path) -> None:
        """Change the file in a copy of a run."""
        path = folder / self.file
        if self.way == "remove":
            path.unlink()
            return
        content = bytearray(path.read_bytes())
        if self.way == "flip":
            content[self.place // 8] ^= 1 << self.place % 8
        else:
            del content[self.place :]
        path.write_bytes(content)


def choose_damage(folder: Path, choice: random.Random) -> Damage:
    """Choose a file and a change.

    Half of the time any file is chosen; otherwise a sort of file is chosen first. Without this,
    nearly all cases would change arrays of checkpoints, because most files are of this sort.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if choice.random() < 0.5:
        sorts: dict[str, list[Path]] = {}
        for path in files:
            sorts.setdefault(sort_of_file(path.relative_to(folder)), []).append(path)
        files = sorts[choice.choice(sorted(sorts))]
    path = choice.choice(files)
    size = path.stat().st_size
    way = choice.choices(list(WAYS), list(WAYS.values()))[0] if size else "remove"
    places = {"flip": 8 * size, "truncate": size}
    place = choice.randrange(places[way]) if way in places else 0
    return Damage(str(path.relative_to(folder)), way, place)


def sort_of_file(path: Path) -> str:
    """Name the purpose of a file by its relative path."""
    if path.parts[0] not in folders.STAGES:
        return path.name
    arrays = "d" in path.parts or path.name.endswith(".ocdbt")
    return "arrays of a checkpoint" if arrays else f"checkpoint's {path.name}"


def named(line: str, folder: Path, damage: Damage) -> str | None:
    """Return `file` if a message names the changed file, `else` for another file, or None."""
    text = re.sub(r"--[\w.-]+", "", line.replace(str(folder), ""))
    # Naming the checkpoint or the stage of a file is precise enough.
    exact = set(Path(damage.file).parts)
    if _names_one(text, exact):
        return "file"
    other = {path.name for path in folder.rglob("*")} | {"encoder", "decoder"}
    return "else" if _names_one(text, other) else None


def _names_one(text: str, names: set[str]) -> bool:
    return any(re.search(rf"(?<![\w.]){re.escape(name)}(?![\w])", text) for name in names)


def flip(session: Session, index: int, base: Path) -> Record:
    """Change one file in a copy of a run, and check what the next commands do."""
    state = STATES[index % 3]
    expected = session.reference("longer")
    if state == "complete":
        source = expected.base / "run"
    else:
        source = session.interrupted("head" if state.endswith("2") else "pretrain")
    damage = choose_damage(source, session.random("flip", index))
    copy = base / "run"
    record = Corruption(source, copy, damage, expected, session.resident_command).check()
    if record.failures:
        # Repeat in new processes: a failure counts only if it happens there too.
        shutil.rmtree(copy)

        def command(argv: list[str]) -> Outcome:
            return session.command(argv, base)

        again = Corruption(source, copy, damage, expected, command).check()
        record = again._replace(details={**again.details, "resident": record.failures})
    return record._replace(details={"state": state, **damage._asdict(), **record.details})


class Corruption(NamedTuple):
    """A copy of a run with one changed file."""

    source: Path  # the original run
    copy: Path
    damage: Damage
    expected: Reference
    command: Callable[[list[str]], Outcome]  # runs a command line

    def check(self) -> Record:
        """Change the copy and run the commands that a user would run next."""
        shutil.copytree(self.source, self.copy)
        self.damage.apply(self.copy)
        commands = [["run", "--resume", "--out", str(self.copy)]]
        if (self.source / folders.RESULT).is_file():
            commands.insert(0, _evaluate(self.copy))
        failures = []
        verdicts = []
        details = {}
        for argv in commands:
            outcome = self.command(argv)
            verdict, reasons = self.check_outcome(outcome, argv)
            change = f"{self.damage.way} {self.damage.file}"
            failures += [f"{argv[0]} {reason} ({change})" for reason in reasons]
            verdicts.append(verdict)
            details[argv[0]] = {"verdict": verdict, **outcome.summary}
        counts = {" then ".join(dict.fromkeys(verdicts)): 1, self.damage.way: 1}
        return Record(failures, details, counts)

    def check_outcome(self, outcome: Outcome, argv: list[str]) -> tuple[str, list[str]]:
        """Return `healed`, `harmless`, `detected`, or `failed` with the reasons."""
        if outcome.status == 2:
            return self._check_error(outcome)
        if outcome.status != 0:
            last = (outcome.error_lines or [""])[-1]
            return "failed", [f"ended with {outcome.status}: {last}"]
        failures = []
        scores = outcome
        if argv[0] == "run":
            failures = self.changes()
            scores = self.command(_evaluate(self.copy))
        if scores.status != 0:
            failures.append(f"evaluate then ends with {scores.status}")
        elif table_rows(scores.out) != self.expected.scores:
            failures.append("prints other scores without a notice")
        if failures:
            return "failed", failures
        return "healed" if NOTICE.search(outcome.out + outcome.err) else "harmless", []

    def _check_error(self, outcome: Outcome) -> tuple[str, list[str]]:
        if not outcome.is_one_line_error:
            return "failed", [f"{len(outcome.error_lines)} lines on stderr"]
        line = outcome.error_lines[0]
        target = named(line, self.copy, self.damage)
        if target is None:
            return "failed", [f"names no file: {line.replace(str(self.copy), 'RUN')}"]
        return "detected" if target == "file" else "detected, other file named", []

    def changes(self) -> list[str]:
        """List the numbers that changed although the command ended well."""
        try:
            contents = folders.contents(self.copy)
            changed = folders.differences(contents, self.expected.contents[0])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return [f"ended well with unreadable files: {type(error).__name__}"]
        return [f"other numbers without a notice: {', '.join(changed[:4])}"] if changed else []


def _evaluate(folder: Path) -> list[str]:
    return ["evaluate", str(folder), "--split", "validation"]

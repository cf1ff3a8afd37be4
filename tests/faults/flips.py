"""One bit flipped, one file truncated, emptied or removed, anywhere under a run's folder."""

import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from torture import folders
from torture.processes import Outcome
from torture.session import Reference, Session, table_rows
from torture.table import Record

WAYS = {"flip": 4, "truncate": 2, "empty": 1, "remove": 2}
# What says that something damaged was set aside.
NOTICE = re.compile(r"left out|damaged|not whole|fall(s|ing|en)? back|again from", re.IGNORECASE)


class Damage(NamedTuple):
    """What is done to one file.

    Attributes:
        file: relative to the run's folder.
        way: flip, truncate, empty or remove.
        place: the bit that is flipped, or the bytes that are left.
    """

    file: str
    way: str
    place: int

    def apply(self, folder: Path) -> None:
        """Do it to the copy of a run."""
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
    """Half the time any file; half the time first one of the sorts of files, of which most are few.

    Without the second half nearly all cases would be pieces of checkpoints.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if choice.random() < 0.5:
        sorts: dict[str, list[Path]] = {}
        for path in files:
            sorts.setdefault(sort_of(path.relative_to(folder)), []).append(path)
        files = sorts[choice.choice(sorted(sorts))]
    path = choice.choice(files)
    size, name = path.stat().st_size, str(path.relative_to(folder))
    way = choice.choices(list(WAYS), list(WAYS.values()))[0] if size else "remove"
    places = {"flip": 8 * size, "truncate": size}
    return Damage(name, way, choice.randrange(places[way]) if way in places else 0)


def sort_of(path: Path) -> str:
    """What a file is for, by its relative path."""
    if path.parts[0] not in folders.STAGES:
        return path.name
    data = "d" in path.parts or path.name.endswith(".ocdbt")
    return "arrays of a checkpoint" if data else f"checkpoint's {path.name}"


def named(line: str, folder: Path, damage: Damage) -> str | None:
    """What of the damage a message names: `file`, something `else` of the folder, or None."""
    text = re.sub(r"--[\w.-]+", "", line.replace(str(folder), ""))
    exact = set(Path(damage.file).parts)
    # A step of a stage says enough of a file in it, and a stage that has none of its files.
    others = {path.name for path in folder.rglob("*")} | exact | {"encoder", "decoder"}

    def among(names: set[str]) -> bool:
        return any(re.search(rf"(?<![\w.]){re.escape(name)}(?![\w])", text) for name in names)

    return "file" if among(exact) else "else" if among(others) else None


def flip(session: Session, index: int, base: Path) -> Record:
    """Damage a copy of a run, and see what the next commands make of it."""
    state = ["cut in stage 2", "cut in stage 1", "complete"][index % 3]
    wanted = session.reference("longer")
    if state == "complete":
        source = wanted.base / "run"
    else:
        source = session.cut("head" if state.endswith("2") else "pretrain")
    damage = choose_damage(source, session.random("flip", index))
    copy = base / "run"
    record = Trial(source, copy, damage, wanted, session.inside)()
    if record.wrong:
        # Once more in processes of their own: only what is so there counts.
        shutil.rmtree(copy)
        alone = Trial(source, copy, damage, wanted, lambda argv: session.command(argv, base))()
        record = alone._replace(seen=alone.seen | {"in a shared process": record.wrong})
    return record._replace(seen={"state": state, **damage._asdict(), **record.seen})


class Trial(NamedTuple):
    """One damaged copy, and how it is asked about.

    Attributes:
        source: the run that is copied.
        copy: where to.
        damage: done to the copy.
        wanted: the run to which nothing happened.
        command: runs a command line.
    """

    source: Path
    copy: Path
    damage: Damage
    wanted: Reference
    command: Callable[[list[str]], Outcome]

    def __call__(self) -> Record:
        """Damage it and run the commands that somebody would run next."""
        shutil.copytree(self.source, self.copy)
        self.damage.apply(self.copy)
        wrong, verdicts, seen = [], [], {}
        asked = [["run", "--resume", "--out", str(self.copy)]]
        if (self.source / folders.RESULT).is_file():
            asked.insert(0, _evaluate(self.copy))
        for argv in asked:
            outcome = self.command(argv)
            verdict, why = self.judge(outcome, argv)
            what = f"{self.damage.way} {self.damage.file}"
            wrong += [f"{argv[0]} {reason} ({what})" for reason in why]
            verdicts.append(verdict)
            seen[argv[0]] = {"verdict": verdict, **outcome.seen}
        return Record(wrong, seen, {" then ".join(dict.fromkeys(verdicts)): 1, self.damage.way: 1})

    def judge(self, outcome: Outcome, argv: list[str]) -> tuple[str, list[str]]:
        """`healed`, `harmless` or `detected`, or `failed` with the reasons."""
        if outcome.status == 2:
            if not outcome.in_one_line:
                return "failed", [f"{len(outcome.error_lines)} lines on stderr"]
            what = named(outcome.error_lines[0], self.copy, self.damage)
            if what is None:
                told = outcome.error_lines[0].replace(str(self.copy), "RUN")
                return "failed", [f"names nothing: {told}"]
            return "detected" if what == "file" else "detected, named otherwise", []
        if outcome.status != 0:
            last = (outcome.error_lines or [""])[-1]
            return "failed", [f"ended with {outcome.status}: {last}"]
        wrong = self.changed() if argv[0] == "run" else []
        shown = self.command(_evaluate(self.copy)) if argv[0] == "run" else outcome
        if shown.status != 0:
            wrong.append(f"evaluate then ends with {shown.status}")
        elif table_rows(shown.out) != self.wanted.scores:
            wrong.append("shows other scores and says nothing")
        if wrong:
            return "failed", wrong
        return "healed" if NOTICE.search(outcome.out + outcome.err) else "harmless", []

    def changed(self) -> list[str]:
        """What became other numbers although the command ended well."""
        try:
            found = folders.contents(self.copy)
            changed = folders.differences(found, self.wanted.contents[0])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return [f"ended well with unreadable files: {type(error).__name__}"]
        return [f"other numbers and says nothing: {', '.join(changed[:4])}"] if changed else []


def _evaluate(folder: Path) -> list[str]:
    return ["evaluate", str(folder), "--split", "validation"]

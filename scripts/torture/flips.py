"""One bit flipped, one file truncated, emptied or removed, anywhere under a run's folder."""

import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from torture import folders
from torture.processes import Outcome
from torture.session import Session, table_rows
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


class Flips:
    """The runs that are damaged, and one case of it."""

    def __init__(self, session: Session):
        reference = session.reference("longer")
        self._session, self._wanted = session, reference
        self._runs = [session.cut("head"), session.cut("pretrain"), reference.base / "run"]

    def __call__(self, session: Session, index: int, base: Path) -> Record:
        """Damage a copy, and see what the next commands make of it."""
        source = self._runs[index % 3]
        damage = choose_damage(source, session.random("flip", index))
        state = ["cut in stage 2", "cut in stage 1", "complete"][index % 3]
        record = self._try(source, damage, base / "run", session.inside)
        if record.wrong:
            # Once more in processes of their own: only what is so there counts.
            shutil.rmtree(base / "run")
            alone = self._try(source, damage, base / "run", lambda a: session.command(a, base))
            record = alone._replace(seen=alone.seen | {"in a shared process": record.wrong})
        seen = {"state": state, **damage._asdict(), **record.seen}
        return record._replace(seen=seen)

    def _try(
        self, source: Path, damage: Damage, copy: Path, command: Callable[[list[str]], Outcome]
    ) -> Record:
        shutil.copytree(source, copy)
        damage.apply(copy)
        wrong, verdicts, seen = [], [], {}
        asked = [["run", "--resume", "--out", str(copy)]]
        if (source / folders.RESULT).is_file():
            asked.insert(0, _evaluate(copy))
        for argv in asked:
            outcome = command(argv)
            verdict, why = self._judge(outcome, argv, copy, damage, command)
            what = f"{damage.way} {damage.file}: {argv[0]}"
            wrong += [f"{argv[0]} {reason} ({what})" for reason in why]
            verdicts.append(verdict)
            seen[argv[0]] = {"verdict": verdict, **outcome.seen}
        counts = (
            dict.fromkeys(verdicts, 1) if len(set(verdicts)) == 1 else {" then ".join(verdicts): 1}
        )
        return Record(wrong, seen, {**counts, damage.way: 1})

    def _judge(
        self, outcome: Outcome, argv: list[str], copy: Path, damage: Damage, command: Any
    ) -> tuple[str, list[str]]:
        """`healed`, `harmless` or `detected`, or `failed` with the reasons."""
        if outcome.status == 2:
            if not outcome.in_one_line:
                return "failed", [f"{len(outcome.error_lines)} lines on stderr"]
            what = named(outcome.error_lines[0], copy, damage)
            if what is None:
                return "failed", [f"names nothing: {outcome.error_lines[0]}"]
            return "detected" if what == "file" else "detected, named otherwise", []
        if outcome.status != 0:
            last = (outcome.error_lines or [""])[-1]
            return "failed", [f"ended with {outcome.status}: {last}"]
        wrong = []
        if argv[0] == "run":
            wrong += self._changed(copy)
            outcome_of_scores = command(_evaluate(copy))
        else:
            outcome_of_scores = outcome
        if outcome_of_scores.status != 0:
            wrong.append(f"evaluate then ends with {outcome_of_scores.status}")
        elif table_rows(outcome_of_scores.out) != self._wanted.scores:
            wrong.append("shows other scores and says nothing")
        if wrong:
            return "failed", wrong
        return "healed" if NOTICE.search(outcome.out + outcome.err) else "harmless", []

    def _changed(self, copy: Path) -> list[str]:
        try:
            found = folders.contents(copy)
            changed = folders.differences(found, self._wanted.contents[0])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return [f"ended well with unreadable files: {type(error).__name__}"]
        return [f"other numbers and says nothing: {', '.join(changed[:4])}"] if changed else []


def _evaluate(folder: Path) -> list[str]:
    return ["evaluate", str(folder), "--split", "validation"]

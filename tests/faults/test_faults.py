"""How scripts/torture.py judges: by its own small functions, without a run."""

import importlib
import json
import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

disks, flips, folders, processes, session, table = (
    importlib.import_module(f"torture.{name}")
    for name in ("disks", "flips", "folders", "processes", "session", "table")
)


@pytest.fixture
def run(tmp_path):
    """A folder that looks like a run of two epochs of stage 1."""
    folder = tmp_path / "run"
    for step in ("41", "82"):
        (folder / "pretrain" / step).mkdir(parents=True)
        (folder / "pretrain" / step / "commit_success.txt").write_text("x")
    lines = [{"stage": "pretrain", "epoch": n, "loss": 1 / n, "seconds": n / 7} for n in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "manifest.json").write_text(json.dumps({"groups": {"encoder": {"sha256": "a"}}}))
    (folder / "result.json").write_text(json.dumps({"seconds": {"total": 1}, "members": 1}))
    (folder / "config.json").write_text("{}")
    return folder


def test_the_digest_leaves_out_times_and_nothing_else(run):
    before = folders.contents(run)
    result, metrics = run / "result.json", run / "metrics.jsonl"
    result.write_text(json.dumps({"members": 1, "seconds": {"total": 2}}))
    metrics.write_text(metrics.read_text().replace('"seconds": 0.', '"seconds": 3.'))
    assert folders.digest(folders.contents(run)) == folders.digest(before)
    metrics.write_text(metrics.read_text().replace('"loss": 0.5', '"loss": 0.25'))
    (run / "manifest.json").write_text(json.dumps({"groups": {"encoder": {"sha256": "b"}}}))
    changed = folders.differences(folders.contents(run), before)
    assert changed == ["groups/encoder", "metrics/1"]


def test_a_checkpoint_counts_once_it_says_that_it_is_whole(run):
    assert folders.committed(run) == {"pretrain": 82}
    epochs, last = {"pretrain": 3, "head": 3}, {"pretrain": 123, "head": 123}
    assert [r["epoch"] for r in folders.covered(run, last, epochs)] == [1, 2]
    (run / "pretrain" / "82" / "commit_success.txt").unlink()
    assert folders.committed(run) == {"pretrain": 41}
    assert [r["epoch"] for r in folders.covered(run, last, epochs)] == [1]


def test_the_moment_of_a_kill_is_read_off_the_files(run, tmp_path):
    epochs = {"pretrain": 3, "head": 3}
    assert folders.moment(tmp_path / "none", epochs, "") == "start, imports"
    assert folders.moment(run, epochs, "") == "after the result"
    (run / "result.json").unlink()
    assert folders.moment(run, epochs, "") == "pretrain, training"
    assert folders.moment(run, {**epochs, "pretrain": 2}, "") == "hand-over"
    (run / "pretrain" / "123.tmp").mkdir()
    assert folders.moment(run, epochs, "") == "pretrain, saving"


def test_a_flip_changes_one_bit_of_one_file(run):
    files = [path for path in run.rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    choice, ways = random.Random(0), set()
    for _ in range(60):
        damage = flips.choose_damage(run, choice)
        damage.apply(run)
        after = {path: path.read_bytes() for path in files if path.exists()}
        changed = [path for path in files if after.get(path) != before[path]]
        assert changed == [run / damage.file]
        old, new = before[changed[0]], after.get(changed[0])
        if damage.way == "flip":
            bits = [(x ^ y).bit_count() for x, y in zip(old, new, strict=True)]
            assert sum(bits) == 1
        else:
            assert new is None if damage.way == "remove" else old.startswith(new)
        changed[0].write_bytes(old)
        ways.add(damage.way)
    assert ways == set(flips.WAYS)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("twostage: error: RUN/manifest.json cannot be read", "else"),
        ("twostage: error: RUN/pretrain/82 is damaged", "file"),
        ("twostage: error: stage pretrain: try a smaller --pretrain.learning-rate", "file"),
        ("twostage: error: RUN is no run: try --pretrain.epochs", None),
    ],
)
def test_a_message_has_to_name_something_of_the_run(run, line, expected):
    damage = flips.Damage("pretrain/82/commit_success.txt", "empty", 0)
    assert flips.named(line.replace("RUN", str(run)), run, damage) == expected


def test_one_line_means_one_line_and_status_2():
    line = "twostage: error: no\n"
    assert processes.Outcome(2, "", line, 0).in_one_line
    for status, err in ((1, line), (2, line + line), (2, "Traceback\n" + line), (2, "no\n")):
        assert not processes.Outcome(status, "", err, 0).in_one_line


def test_a_run_is_begun_again_where_its_folder_was_never_entered(run, tmp_path):
    new, made = (session.Step(["run", "--out", str(f)], f) for f in (tmp_path / "new", run))
    assert session.onward(new) == new.argv
    assert session.onward(made) == ["run", "--resume", "--out", str(run)]


def test_the_table_counts_failures_by_reason():
    cases = [table.Record([], {}, {"kills": 2}), table.Record(["a | b"], {}, {"kills": 1})]
    text = table.markdown({"kill": cases})
    assert "| kill | 2 | 1 | 1 × a / b |" in text
    assert "- kill: 3 kills" in text

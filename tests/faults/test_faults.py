"""The small functions of the campaign of faults; no run is trained here."""

import json
import random
import subprocess
import sys

import pytest

from tests.faults import __main__ as campaign
from tests.faults import flips, folders, processes, session, table


@pytest.fixture
def run(tmp_path):
    """A folder that looks like a run of two epochs of stage 1."""
    folder = tmp_path / "run"
    for step in ("41", "82"):
        (folder / "pretrain" / step).mkdir(parents=True)
        (folder / "pretrain" / step / folders.COMMITTED).write_text("x")
    lines = [{"stage": "pretrain", "epoch": n, "loss": 1 / n, "seconds": n / 7} for n in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "manifest.json").write_text(json.dumps({"groups": {"encoder": {"sha256": "a"}}}))
    (folder / "result.json").write_text(json.dumps({"seconds": {"total": 1}, "members": 1}))
    return folder


def test_the_digest_ignores_times_and_nothing_else(run):
    before = folders.contents(run)
    metrics = run / "metrics.jsonl"
    (run / "result.json").write_text(json.dumps({"members": 1, "seconds": {"total": 2}}))
    metrics.write_text(metrics.read_text().replace('"seconds": 0.', '"seconds": 3.'))
    assert folders.digest(folders.contents(run)) == folders.digest(before)
    metrics.write_text(metrics.read_text().replace('"loss": 0.5', '"loss": 0.25'))
    (run / "manifest.json").write_text(json.dumps({"groups": {"encoder": {"sha256": "b"}}}))
    changed = folders.differences(folders.contents(run), before)
    assert changed == ["groups/encoder", "metrics/1"]


def test_a_checkpoint_counts_only_once_it_is_committed(run):
    assert folders.committed(run) == {"pretrain": 82}
    epochs = {"pretrain": 3, "head": 3}
    last = {"pretrain": 123, "head": 123}
    assert [r["epoch"] for r in folders.covered(run, last, epochs)] == [1, 2]
    (run / "pretrain" / "82" / folders.COMMITTED).unlink()
    assert folders.committed(run) == {"pretrain": 41}
    assert [r["epoch"] for r in folders.covered(run, last, epochs)] == [1]


def test_the_phase_of_a_kill_follows_from_the_files(run, tmp_path):
    epochs = {"pretrain": 3, "head": 3}
    assert folders.phase(tmp_path / "none", epochs, "") == "start, imports"
    assert folders.phase(run, epochs, "") == "after the result"
    (run / "result.json").unlink()
    assert folders.phase(run, epochs, "") == "pretrain, training"
    assert folders.phase(run, {**epochs, "pretrain": 2}, "") == "hand-over"
    (run / "pretrain" / "123.tmp").mkdir()
    assert folders.phase(run, epochs, "") == "pretrain, saving"


def test_a_damage_changes_one_file_in_the_chosen_way(run):
    files = [path for path in run.rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    choice = random.Random(0)
    ways = set()
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
        ("twostage: error: RUN/pretrain/82 is corrupted", "file"),
        ("twostage: error: stage pretrain: try a smaller --pretrain.learning-rate", "file"),
        ("twostage: error: RUN is not a run folder: try --pretrain.epochs", None),
    ],
)
def test_a_message_must_name_a_part_of_the_run(run, line, expected):
    damage = flips.Damage(f"pretrain/82/{folders.COMMITTED}", "empty", 0)
    assert flips.named(line.replace("RUN", str(run)), run, damage) == expected


def test_a_one_line_error_has_one_line_and_status_2():
    line = "twostage: error: no\n"
    assert processes.Outcome(2, "", line, 0).is_one_line_error
    for status, err in ((1, line), (2, line + line), (2, "Traceback\n" + line), (2, "no\n")):
        assert not processes.Outcome(status, "", err, 0).is_one_line_error


def test_a_run_starts_again_if_its_folder_has_no_manifest(run, tmp_path):
    new = session.Step(["run", "--out", str(tmp_path / "new")], tmp_path / "new")
    existing = session.Step(["run", "--out", str(run)], run)
    assert session.next_command(new) == new.argv
    assert session.next_command(existing) == ["run", "--resume", "--out", str(run)]


def test_the_table_counts_failures_by_reason():
    cases = [table.Record([], {}, {"kills": 2}), table.Record(["a | b"], {}, {"kills": 1})]
    text = table.markdown({"kill": cases})
    assert "| kill | 2 | 1 | 1 × a / b |" in text
    assert "- kill: 3 kills" in text


def test_every_fault_has_a_case_and_the_command_lists_them():
    assert campaign.CASES.keys() == campaign.COUNTS.keys()
    command = [sys.executable, "-m", "tests.faults", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert all(fault in done.stdout for fault in campaign.COUNTS)

"""What happens to runs, and what is left of them: the right result, or one sentence."""

import ast
import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import twostage_jax as ts
from tests.interruption import stopped_after
from tests.test_pipeline import go, metrics_of, small, without_times
from twostage_jax.errors import Corrupted
from twostage_jax.runs import evaluate as judging
from twostage_jax.runs import finish as evaluation
from twostage_jax.runs import resume as changes
from twostage_jax.runs import train as training
from twostage_jax.runs.open import open_run
from twostage_jax.runs.run import run
from twostage_jax.show.terminal import Terminal
from twostage_jax.signals import Interrupted
from twostage_jax.store import checkpoint
from twostage_jax.store import checksums as sums
from twostage_jax.store import layout as folders
from twostage_jax.store.lock import locked


@pytest.fixture
def members():
    """Keys of members are sliced in every epoch, which the checks for reuse take for one."""
    with jax.debug_key_reuse(False):
        yield


def said(config, **options):
    """A run, and the notices it gave."""
    terminal = Terminal(quiet=True)
    return run(config, terminal=terminal, **options), terminal.notices


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return go(small(tmp_path_factory.mktemp("runs") / "done"))


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """A run that was stopped in the middle of the second epoch of stage 2."""
    config = small(tmp_path_factory.mktemp("runs") / "cut")
    with stopped_after(2 * 13 + 13 + 5), pytest.raises(Interrupted):
        go(config)
    return config.out


@pytest.fixture
def copy(cut, tmp_path):
    return shutil.copytree(cut, tmp_path / "copy")


@pytest.fixture
def complete(done, tmp_path):
    return shutil.copytree(done.folder, tmp_path / "complete")


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def newest(folder, stage):
    step = max(int(path.name) for path in (folder / stage).iterdir())
    files = (folder / stage / str(step)).glob("params/**/d/*")
    return step, max(files, key=lambda path: path.stat().st_size)


def same(result, done):
    assert ts.digest(result.params) == ts.digest(done.params)
    assert without_times(result.record) == without_times(done.record)
    assert metrics_of(result.folder) == metrics_of(done.folder)
    assert sorted(p.name for p in result.folder.iterdir()) == sorted(
        p.name for p in done.folder.iterdir()
    )


@pytest.mark.parametrize("stage", ["pretrain", "head"])
def test_a_damaged_checkpoint_is_named_and_an_older_one_is_gone_on_from(copy, done, stage):
    step, largest = newest(copy, stage)
    flip(largest, largest.stat().st_size // 2)
    result, notices = said(ts.Config(out=copy), resume=True)
    assert any(f"{stage}/{step} " in line and "falling back" in line for line in notices)
    same(result, done)


def test_without_any_whole_checkpoint_the_stage_starts_again(copy, done):
    for path in (copy / "head").iterdir():
        (path / "checkpoint.json").unlink()
    result, notices = said(ts.Config(out=copy), resume=True)
    assert notices[-1] == "stage head starts again: no checkpoint is whole"
    same(result, done)


@pytest.mark.parametrize(
    "change",
    [
        lambda facts: facts.pop("records"),
        lambda facts: facts.update(records=[1]),
        lambda facts: facts["records"][0].pop("loss"),
        lambda facts: facts["records"][0].update(loss=10**400),
        lambda facts: facts["records"][0].update(epoch=2),
        lambda facts: facts["records"][0].update(stage=None),
        lambda facts: facts["records"][0].update(members={"loss": [0.5]}),
        lambda facts: facts["records"][0].update(members=[]),
    ],
)
def test_records_that_no_run_writes_are_damage_even_if_they_are_sealed(copy, done, change):
    step, _ = newest(copy, "head")
    path = copy / "head" / str(step) / "checkpoint.json"
    record = json.loads(path.read_text())
    change(record["facts"])
    path.write_text(json.dumps(folders.sealed(record)))
    result, notices = said(ts.Config(out=copy), resume=True)
    assert f"head/{step}/checkpoint.json does not hold what a run" in notices[0]
    same(result, done)


def test_a_machine_in_trouble_loses_no_checkpoint(copy, done, monkeypatch):
    def refused(*args):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr("twostage_jax.store.checkpoint.ocp.load_checkpointables", refused)
    before = sorted(copy.rglob("*"))
    with pytest.raises(ts.UserError, match="cannot be read: RESOURCE_EXHAUSTED") as error:
        go(ts.Config(out=copy), resume=True)
    assert not isinstance(error.value, Corrupted)
    monkeypatch.undo()
    assert sorted(copy.rglob("*")) == before
    same(go(ts.Config(out=copy), resume=True), done)


def test_the_checkpoints_of_a_complete_run_that_are_lost_are_made_again(complete, done):
    for path in (complete / "head").iterdir():
        shutil.rmtree(path)
    with pytest.raises(Corrupted, match="head has no whole checkpoint"):
        open_run(complete)
    same(go(ts.Config(out=complete), resume=True), done)


@pytest.mark.parametrize("content", [b"", b"nonsense\n", b'{"stage": "pretrain", "epoch": 7}\n'])
def test_the_metrics_are_what_the_checkpoints_say(copy, done, content):
    (copy / "metrics.jsonl").write_bytes(content)
    same(go(ts.Config(out=copy), resume=True), done)


@pytest.mark.parametrize("name", ["metrics.jsonl", "result.json", "SHA256SUMS"])
def test_a_complete_run_with_a_damaged_file_is_made_whole(complete, done, name):
    flip(complete / name, 100)
    with pytest.raises(Corrupted, match=f"{complete}/"):
        open_run(complete)
    result, notices = said(ts.Config(out=complete), resume=True)
    assert "the run goes on from what is whole" in notices[0]
    same(result, done)
    open_run(complete)


@pytest.fixture(scope="module")
def saving(tmp_path_factory):
    """A complete run with its predictions and, by `twostage evaluate`, those of its train part."""
    folder = go(small(tmp_path_factory.mktemp("runs") / "saving", save_predictions=True)).folder
    judging.judge(open_run(folder), Terminal(quiet=True), split="train", save_predictions=True)
    return folder


@pytest.fixture
def saved(saving, tmp_path):
    return shutil.copytree(saving, tmp_path / "saved")


def drop(path):
    path.unlink()


def flip_in_the_middle(path):
    flip(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [drop, flip_in_the_middle])
def test_predictions_that_are_lost_are_written_again(saved, damage):
    path = saved / "predictions-test.npz"
    whole = path.read_bytes()
    damage(path)
    open_run(saved)  # which does not need them
    _, notices = said(ts.Config(out=saved), resume=True)
    assert "predictions-test.npz " in notices[0]
    assert path.read_bytes() == whole
    assert not list(sums.broken_outputs(saved))
    assert open_run(saved).record["test_reads"] == 1


@pytest.mark.parametrize("damage", [drop, flip_in_the_middle])
def test_damaged_files_of_an_evaluation_are_never_taken_for_whole(saved, damage):
    path = saved / "predictions-train.npz"
    damage(path)
    judging.judge(open_run(saved), Terminal(quiet=True))  # writes the checksums
    damaged = damage is not drop
    assert [name for name, _ in sums.broken_outputs(saved)] == [path.name] * damaged
    _, notices = said(ts.Config(out=saved), resume=True)
    assert len(notices) == damaged and all("it is removed" in line for line in notices)
    assert not path.exists() and not list(sums.broken_outputs(saved))


def test_a_resumed_run_saves_what_it_was_asked_to_save(tmp_path, saving):
    config = small(tmp_path / "run", save_predictions=True)
    with stopped_after(2 * 13 + 5), pytest.raises(Interrupted):
        go(config)
    go(ts.Config(out=config.out), resume=True)
    for name in ("predictions-validation.npz", "predictions-test.npz"):
        assert (config.out / name).read_bytes() == (saving / name).read_bytes()
    go(ts.Config(out=config.out, save_predictions=True), resume=True)


def test_a_damaged_count_of_reads_is_not_believed(complete):
    judging.count_read(open_run(complete), Terminal(quiet=True))
    result = complete / "result.json"
    result.write_text(result.read_text().replace('"test_reads": 2', '"test_reads": 1'))
    go(ts.Config(out=complete), resume=True)
    assert open_run(complete).record["test_reads"] == 2


def sealed_anew(folder, name, path, value):
    """What somebody can do who knows how we seal."""
    values = json.loads((folder / name).read_text())
    *way, last = path.split("/")
    inner = values
    for key in way:
        inner = inner[key]
    inner[last] = value
    sums.finish(folder, {name: folders.packed(name, values)})


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("data", {}, "lacks data;"),
        ("data/parts", {"train": 1}, "lacks data;"),
        ("classes", [[1], [2]], "lacks classes;"),
        ("allowed", [1], "lacks allowed;"),
        ("test_reads", True, "lacks test_reads;"),
        ("config", [], "lacks config;"),
        ("config/head/epochs", "1", "config.json has changed since the run was started"),
        ("groups", {"head": 3}, "group encoder is not the one that manifest.json describes"),
        ("preprocessing", {"image": [1, 2]}, "does not hold what a run writes there"),
    ],
)
def test_a_manifest_that_is_sealed_but_not_ours_is_refused_or_mended(
    complete, done, path, value, said
):
    sealed_anew(complete, "manifest.json", path, value)
    with pytest.raises(ts.UserError, match=said):
        judging.judge(open_run(complete), Terminal(quiet=True), split="validation")
    if path in ("groups", "preprocessing"):  # which follow from the checkpoints and the data
        same(go(ts.Config(out=complete), resume=True), done)
        open_run(complete)
        return
    with pytest.raises(ts.UserError):
        go(ts.Config(out=complete), resume=True, allow_changed=True)


def test_chunks_of_no_members_are_refused(copy):
    sealed_anew(copy, "manifest.json", "chunks", {"head": 0})
    with pytest.raises(Corrupted, match="manifest.json does not hold what a run writes there"):
        go(ts.Config(out=copy), resume=True)


@pytest.mark.parametrize(
    ("path", "value"),
    [("test/accuracy", 10**400), ("test", {"accuracy": []}), ("seconds", {"total": None})],
)
def test_a_result_that_is_sealed_but_not_ours_is_refused_where_it_is_shown(complete, path, value):
    quiet = Terminal(quiet=True)
    whole = judging.judge(open_run(complete), quiet, split="validation")
    sealed_anew(complete, "result.json", path, value)
    assert judging.judge(open_run(complete), quiet, split="validation") == whole
    with pytest.raises(Corrupted, match="result.json does not hold what a run writes there"):
        go(ts.Config(out=complete), resume=True)


@pytest.mark.parametrize("name", ["config.json", "manifest.json", "result.json", "SHA256SUMS"])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(complete, name):
    (complete / name).unlink()
    os.mkfifo(complete / name)
    with pytest.raises(ts.UserError):
        open_run(complete)


@pytest.mark.parametrize("name", ["result.json", "metrics.jsonl", "SHA256SUMS"])
def test_a_file_that_cannot_be_written_is_named_and_nothing_is_lost(copy, done, monkeypatch, name):
    def full(self, *args, really=Path.open, **options):
        if self.name.removesuffix(".part") == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return really(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(ts.UserError, match=f"cannot write .*/{name}: No space left on device"):
            go(ts.Config(out=copy), resume=True)
    same(go(ts.Config(out=copy), resume=True), done)


def test_a_run_that_was_killed_while_it_read_the_test_part_has_read_it(complete):
    (complete / "result.json").unlink()
    more = ts.Config(out=complete, head=ts.HeadConfig(epochs=3))
    with pytest.raises(
        ts.UserError, match="head.epochs 2 -> 3; resume it without head.epochs, because the test"
    ):
        go(more, resume=True, allow_changed=True)


@pytest.mark.parametrize("stage", ["pretrain", "head"])
@pytest.mark.parametrize("what", ["gone", "emptied", "damaged"])
def test_a_complete_run_with_a_lost_stage_is_made_whole(complete, done, stage, what):
    if what == "damaged":
        _, largest = newest(complete, stage)
        flip(largest, largest.stat().st_size // 2)
    else:
        shutil.rmtree(complete / stage)
        if what == "emptied":
            (complete / stage).mkdir()
    result, notices = said(ts.Config(out=complete), resume=True)
    assert stage in notices[0] and "goes on from what is whole" in notices[0]
    same(result, done)
    assert not said(ts.Config(out=complete), resume=True)[1]


def test_a_damaged_checkpoint_of_a_complete_run_is_an_error_unless_it_is_resumed(complete, done):
    step, largest = newest(complete, "head")
    largest.unlink()
    with pytest.raises(Corrupted, match=f"head/{step} is damaged: params/.* is missing"):
        open_run(complete)
    same(go(ts.Config(out=complete), resume=True), done)


def test_a_lost_config_is_put_back_and_a_changed_one_is_refused(copy, done):
    config = copy / "config.json"
    whole = config.read_text()
    config.write_text(whole.replace('"seed": 0', '"seed": 1'))
    with pytest.raises(Corrupted, match="config.json has changed since .*: seed 0 -> 1"):
        go(ts.Config(out=copy), resume=True)
    with pytest.raises(Corrupted, match="config.json has changed"):
        go(ts.Config(encoder_run=str(copy), out=copy.with_name("head")))
    config.unlink()
    same(go(ts.Config(out=copy), resume=True), done)
    assert config.read_text() == whole


def test_another_config_is_refused_with_the_list_of_differences(copy):
    config = ts.Config(out=copy, seed=3, head=ts.HeadConfig(epochs=7))
    for allow in (False, True):
        with pytest.raises(ts.UserError, match="seed 0 -> 3, head.epochs 2 -> 7; resume it withou"):
            go(config, resume=True, allow_changed=allow)


def test_more_epochs_have_to_be_allowed(copy, tmp_path):
    more = ts.Config(out=copy, head=ts.HeadConfig(epochs=3))
    with pytest.raises(ts.UserError, match="head.epochs 2 -> 3; --allow-changed goes on"):
        go(more, resume=True)
    result = go(more, resume=True, allow_changed=True)
    whole = small(tmp_path / "whole")
    whole = go(dataclasses.replace(whole, head=dataclasses.replace(whole.head, epochs=3)))
    assert ts.digest(result.params) == ts.digest(whole.params)
    assert without_times(result.record) == without_times(whole.record)
    assert folders.read_json(copy, "manifest.json")["allowed"] == ["head.epochs 2 -> 3"]
    assert folders.read_json(copy, "config.json")["head"]["epochs"] == 3
    # Whoever has seen the test part has nothing to choose any more.
    with pytest.raises(ts.UserError, match="head.epochs 3 -> 4; resume it without head.epochs"):
        go(ts.Config(out=copy, head=ts.HeadConfig(epochs=4)), resume=True, allow_changed=True)


def test_stage_1_keeps_its_epochs_once_stage_2_has_begun(copy):
    more = ts.Config(out=copy, pretrain=ts.PretrainConfig(epochs=3))
    with pytest.raises(ts.UserError, match="resume it without pretrain.epochs"):
        go(more, resume=True, allow_changed=True)


def test_other_versions_have_to_be_allowed(copy, monkeypatch):
    versions = changes.versions()
    monkeypatch.setattr("twostage_jax.runs.prepare.versions", lambda: {**versions, "jax": "0.9.0"})
    with pytest.raises(ts.UserError, match=f"jax {versions['jax']} -> 0.9.0; --allow-changed"):
        go(ts.Config(out=copy), resume=True)
    go(ts.Config(out=copy), resume=True, allow_changed=True)
    assert folders.read_json(copy, "manifest.json")["versions"]["jax"] == "0.9.0"


def test_other_data_are_refused(copy, monkeypatch):
    from twostage_jax.runs import run as pipeline

    other = dataclasses.replace(ts.load("digits"), fingerprint="sha256:other")
    monkeypatch.setattr(pipeline, "load", lambda *args: other)
    with pytest.raises(ts.UserError, match="digits is now sha256:other: start a new run"):
        go(ts.Config(out=copy), resume=True)


def test_the_data_of_a_run_are_known_in_any_place_and_only_in_their_order(tmp_path, monkeypatch):
    digits, quiet = ts.load("digits").train, Terminal(quiet=True)
    for name, order in (("data", 1), ("copy", 1), ("turned", -1)):
        arrays = {key: digits[key][::order] for key in ("image", "label")}
        np.savez(tmp_path / f"{name}.npz", **arrays)
    data, copy, turned, more = (
        tmp_path / f"{name}.npz" for name in ("data", "copy", "turned", "more")
    )
    own = ts.load(f"npz:{data}")
    more_of_it = {"x_train": own.train["image"], "y_train": own.train["label"]}
    np.savez(more, **more_of_it, x_test=own.test["image"], y_test=own.test["label"])
    run = go(dataclasses.replace(small(tmp_path / "run"), data=f"npz:{data}")).folder

    # The copy is the run's own: its test part is counted, and nothing is measured where fitted.
    judging.judge(open_run(run), quiet, data=f"npz:{copy}", save_predictions=True)
    assert open_run(run).record["test_reads"] == 2
    assert (run / "predictions-test.npz").exists()
    with pytest.raises(ts.UserError, match="fitted on validation"):
        where = {"data": f"npz:{copy}", "split": "validation", "coverage": 0.9}
        judging.judge(open_run(run), quiet, **where)
    monkeypatch.chdir(tmp_path)
    for name in (f"npz:{data}", "npz:data.npz"):
        with pytest.raises(ts.UserError, match="is the run's own data"):
            judging.judge(open_run(run), quiet, ood=name)
    with pytest.raises(ts.UserError, match="--data-dir goes with mnist and tfds:NAME"):
        judging.judge(open_run(run), quiet, ood="digits", data_dir=tmp_path)

    # The same test part in another source is the same test.
    judging.judge(open_run(run), quiet, data=f"npz:{more}")
    assert open_run(run).record["test_reads"] == 3

    with pytest.raises(ts.UserError, match="in another order, so others would be tested"):
        judging.judge(open_run(run), quiet, data=f"npz:{turned}")
    shutil.copy(turned, data)
    with pytest.raises(ts.UserError, match="in another order, so others would be tested"):
        judging.judge(open_run(run), quiet)
    (run / "result.json").unlink()
    with pytest.raises(ts.UserError, match="in another order, so others would be trained on"):
        go(ts.Config(out=run), resume=True)


def test_a_run_goes_on_where_its_data_have_moved(tmp_path, monkeypatch):
    digits = ts.load("digits").train
    np.savez(tmp_path / "data.npz", **digits)
    monkeypatch.chdir(tmp_path)
    config = dataclasses.replace(small(tmp_path / "run"), data="npz:data.npz")
    whole = go(dataclasses.replace(config, out=tmp_path / "whole"))
    with stopped_after(2 * 11 + 5), pytest.raises(Interrupted):
        go(config)
    assert folders.read_json(config.out, "config.json")["data"] == f"npz:{tmp_path}/data.npz"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data.npz").rename(tmp_path / "elsewhere" / "data.npz")
    monkeypatch.chdir(tmp_path / "elsewhere")
    result = go(ts.Config(out=config.out, data="npz:data.npz"), resume=True)
    same(result, whole)
    judging.judge(open_run(config.out), Terminal(quiet=True), split="validation")


def test_stage_2_alone_is_resumed_with_and_without_the_run_it_came_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    go(small(tmp_path / "first"), pretrain_only=True)
    settings = ts.HeadConfig(epochs=3)
    whole = go(ts.Config(encoder_run="first", out=tmp_path / "whole", head=settings))
    for name, given in (("one", None), ("other", "first")):
        config = ts.Config(encoder_run="first", out=tmp_path / name, head=settings)
        with stopped_after(5), pytest.raises(Interrupted):
            go(config)
        same(go(ts.Config(encoder_run=given, out=config.out), resume=True), whole)


def test_an_encoder_that_was_trained_again_is_refused(cut, tmp_path):
    first = go(small(tmp_path / "first"), pretrain_only=True).folder
    head = ts.Config(encoder_run=str(first), out=tmp_path / "head", head=ts.HeadConfig(epochs=1))
    with stopped_after(5), pytest.raises(Interrupted):
        go(head)
    shutil.rmtree(first)
    go(small(first, seed=1), pretrain_only=True)
    with pytest.raises(ts.UserError, match="has another encoder than when"):
        go(ts.Config(out=tmp_path / "head"), resume=True)


def test_another_mesh_is_said_and_kept(members, tmp_path):
    config = small(tmp_path / "run", members=2)
    with stopped_after(10), pytest.raises(Interrupted):
        go(config)
    _, notices = said(ts.Config(out=config.out, members_per_chunk=1), resume=True)
    assert "(members_per_chunk None -> 1)" in notices[0]
    manifest = folders.read_json(config.out, "manifest.json")
    assert manifest["allowed"] == ["members_per_chunk None -> 1"]


def test_another_machine_is_said_to_change_bits(copy, monkeypatch):
    machine = {"device": "TPU v9", "devices": 8, "cores": 2}
    monkeypatch.setattr("twostage_jax.runs.prepare.machine", lambda: machine)
    _, notices = said(ts.Config(out=copy), resume=True)
    assert "-> TPU v9" in notices[0] and "to about 1e-05, not bit for bit" in notices[0]


def test_a_checkpoint_of_another_run_is_refused(copy, tmp_path):
    other = small(tmp_path / "other", seed=1)
    with stopped_after(2 * 13 + 13 + 5), pytest.raises(Interrupted):
        go(other)
    shutil.rmtree(copy / "head")
    shutil.copytree(other.out / "head", copy / "head")
    with pytest.raises(ts.UserError, match="is of another config and key"):
        go(ts.Config(out=copy), resume=True)


def test_the_state_is_saved_in_the_middle_of_long_epochs(members, tmp_path, monkeypatch):
    steps, save = [], checkpoint.Store.save

    def noted(self, step, trees, facts):
        steps.append(step)
        save(self, step, trees, facts)

    monkeypatch.setattr(checkpoint.Store, "save", noted)
    monkeypatch.setattr(training._Clock, "due", property(lambda self: True))
    config = small(tmp_path / "run", members=2)
    with stopped_after(10**6):  # in calls of one step
        go(config)
    assert {5, 10} < {step // 2 for step in steps}


def test_a_full_disk_is_one_sentence_and_loses_nothing(copy, done, monkeypatch):
    before = checkpoint.Store(copy / "head").steps

    def full(*args, **options):
        raise ValueError("RESOURCE_EXHAUSTED: No space left on device [OS error 28: ENOSPC]")

    monkeypatch.setattr("twostage_jax.store.checkpoint.ocp.save_checkpointables_async", full)
    with pytest.raises(ts.UserError, match="No space left on device; .*head/.* is whole; make roo"):
        go(ts.Config(out=copy), resume=True)
    monkeypatch.undo()
    assert checkpoint.Store(copy / "head").steps == before
    same(go(ts.Config(out=copy), resume=True), done)


def test_two_runs_in_one_folder_are_one_too_many(copy, tmp_path):
    said = []
    with locked(copy, said.append):
        with pytest.raises(ts.UserError, match=f"in use by process {os.getpid()} on "):
            go(ts.Config(out=copy), resume=True)
    assert not said and not (copy / "lock").exists()
    new = tmp_path / "new"
    new.mkdir()
    with locked(new, said.append), pytest.raises(ts.UserError, match="in use by process"):
        go(small(new))


def test_the_lock_of_a_process_that_is_gone_is_taken_over(copy, done):
    code = (
        "import os, sys; from pathlib import Path; from twostage_jax.lock import locked\n"
        "with locked(Path(sys.argv[1]), print): os.kill(os.getpid(), 9)"
    )
    killed = subprocess.Popen([sys.executable, "-c", code, str(copy)])
    assert killed.wait() == -9
    result, notices = said(ts.Config(out=copy), resume=True)
    assert f"from process {killed.pid} on " in notices[0] and "which is gone" in notices[0]
    same(result, done)


def test_what_was_killed_before_it_was_a_run_can_be_begun_again(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("lock", "config.json.part"):
        (folder / name).write_text("")
    result = go(small(folder))
    assert not [path for path in result.folder.iterdir() if path.suffix == ".part"]


def test_nothing_is_left_over_where_a_process_was_killed(complete):
    (complete / "result.json.part").write_text("{")
    go(ts.Config(out=complete), resume=True)
    assert not (complete / "result.json.part").exists()


@pytest.mark.parametrize("written", [0, 1, 2, 3])
def test_a_kill_between_two_files_of_an_evaluation_leaves_a_whole_run(
    complete, monkeypatch, written
):
    """Checksums, manifest, result, checksums: what was killed may have looked, so it counts."""
    write, count = folders.write_bytes, 0

    def killed(path, content):
        nonlocal count
        count += 1
        if count > written:
            raise KeyboardInterrupt
        write(path, content)

    monkeypatch.setattr("twostage_jax.store.checksums.write_bytes", killed)
    with pytest.raises(KeyboardInterrupt):
        judging.count_read(open_run(complete), Terminal(quiet=True))
    monkeypatch.undo()
    assert open_run(complete).record["test_reads"] == (2 if written == 3 else 1)
    judging.count_read(open_run(complete), Terminal(quiet=True))
    assert open_run(complete).record["test_reads"] == (3 if written >= 2 else 2)


def test_a_folder_that_cannot_be_written_to_is_one_sentence(complete, monkeypatch):
    really = os.open

    def refused(path, *args, **options):
        if os.path.basename(path) == "lock":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return really(path, *args, **options)

    monkeypatch.setattr("twostage_jax.store.lock.os.open", refused)
    opened = open_run(complete)
    with pytest.raises(ts.UserError, match="cannot write in .*: Read-only file system; make it"):
        judging.judge(opened, Terminal(quiet=True))
    judging.judge(opened, Terminal(quiet=True), split="validation")


def test_outputs_that_are_too_large_to_be_scored_are_one_sentence(tmp_path):
    """The parameters stay finite, what they give does not."""
    settings = ts.HeadConfig(widths=(8,), learning_rate=1e30, epochs=1, batch_size=10**5)
    with pytest.raises(ts.UserError, match="stage head diverged; try a smaller --head.learning-r"):
        go(small(tmp_path / "run", head=settings))
    assert folders.read_json(tmp_path / "run", "manifest.json")["test_reads"] == 0


@pytest.mark.parametrize("stage", ["pretrain", "head"])
def test_what_diverges_is_told_with_stage_epoch_and_group(tmp_path, stage):
    settings = {"pretrain": ts.PretrainConfig, "head": ts.HeadConfig}[stage]
    config = small(tmp_path / "run", **{stage: settings(widths=(8,), learning_rate=1e30, epochs=2)})
    with pytest.raises(ts.UserError) as error:
        go(config)
    groups = {"pretrain": "decoder and encoder", "head": "head"}[stage]
    assert f"stage {stage} diverged in epoch 1: its loss" in str(error.value)
    assert f"parameters or moments of {groups} are not finite" in str(error.value)
    assert f"{stage}/0 is the last that was finite" in str(error.value)
    assert checkpoint.Store(config.out / stage).steps == [0]
    assert not [r for r in metrics_of_or_none(config.out) if r["stage"] == stage]


def metrics_of_or_none(folder):
    return metrics_of(folder) if (folder / "metrics.jsonl").is_file() else []


def test_one_member_that_diverges_is_named_and_the_others_go_on(members, tmp_path):
    config = small(tmp_path / "run", sweep=("head.learning-rate=1e-3,1e30",))
    result, notices = said(config)
    name = "member 0 (seed 0) at head.learning-rate=1e+30"
    assert len(notices) == 1
    assert notices[0].startswith(f"{name} diverged in epoch 1 of stage head: its ")
    assert notices[0].endswith("the parameters or moments of head are not finite")
    assert result.record["ensemble"]["diverged"] == [name]
    assert result.record["ensemble"]["rows"] == [0]


def test_moments_that_overflow_count_as_diverged():
    from twostage_jax.engine.health import any_of, find_broken
    from twostage_jax.engine.state import TrainState

    params = {"encoder": {"w": np.full((2, 3), np.nan)}, "head": {"w": np.ones((2, 3))}}
    moments = {"mu": {"head": {"w": np.ones((2, 3))}}, "nu": {"head": {"w": np.ones((2, 3))}}}
    moments["nu"]["head"]["w"][1, 0] = np.inf
    state = TrainState(params, {"frozen": None, **moments}, np.zeros(2, np.int32))
    found = find_broken(state, {"loss": np.array([0.1, 0.2])}, 2)
    assert "group head" in found
    assert list(found["group head"]) == [False, True]
    assert list(any_of({"group head": found["group head"]}, 2)) == [False, True]


def test_training_cannot_reach_the_test_part():
    dataset = ts.load("digits")
    seen, lockbox = dataset.lock()
    assert not hasattr(seen, "test")
    assert lockbox.count == 359
    assert lockbox.unlock() is dataset.test


def test_two_functions_unlock_the_test_part():
    """The one of a run, the one of an evaluation afterwards; both count it before."""
    found = []
    for path in Path(ts.__file__).parent.rglob("*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef):
                calls = [node for node in ast.walk(function) if isinstance(node, ast.Attribute)]
                found += [(path.stem, function.name) for node in calls if node.attr == "unlock"]
    assert sorted(found) == [("evaluation", "_measure"), ("judging", "_part")]


def test_a_run_reads_the_test_part_once_and_evaluations_are_counted(complete):
    assert json.loads((complete / "result.json").read_text())["test_reads"] == 1
    quiet = Terminal(quiet=True)
    for split, expected in (("validation", 1), ("test", 2), ("test", 3)):
        judging.judge(open_run(complete), quiet, split=split)
        assert open_run(complete).record["test_reads"] == expected
    go(ts.Config(out=complete), resume=True)
    assert open_run(complete).record["test_reads"] == 3


def test_nothing_but_the_evaluation_unlocks_the_test_part(members, tmp_path, monkeypatch):
    """Whatever is chosen has been chosen by then."""
    from twostage_jax.data import dataset as data

    def refused(self):
        raise AssertionError("the test part was read")

    drawn = []
    monkeypatch.setattr(evaluation, "plot_sweep", drawn.append)
    monkeypatch.setattr(data.Lockbox, "unlock", refused)
    config = small(tmp_path / "run", sweep=("head.learning-rate=1e-3,1e-2",))
    with pytest.raises(AssertionError, match="was read"):
        go(config)
    assert len(drawn) == 1  # the choice was made
    assert not (tmp_path / "run" / "result.json").exists()

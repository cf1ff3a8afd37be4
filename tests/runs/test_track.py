"""Records of epochs: on validation too, for a function of the user, and for TensorBoard."""

import json
import sys

import numpy as np
import pytest

import twostage_jax as ts
from tests import tiny
from twostage_jax.engine.loop import Progress
from twostage_jax.runs import train
from twostage_jax.runs.track import make_record
from twostage_jax.store.epochs import VALIDATION_PREFIX
from twostage_jax.store.records import read_manifest


def test_every_epoch_has_figures_on_validation(done, trio):
    """Those of the last epoch are the scores of the result."""
    for folder in (done, trio):
        lines = tiny.metrics(folder)
        assert [line["stage"] for line in lines] == ["pretrain"] * 2 + ["head"] * 2
        for line in lines:
            expected = {"loss"} if line["stage"] == "pretrain" else {"loss", "accuracy"}
            assert line["validation"].keys() == expected
        scores = tiny.stored(folder, "result.json")["member_validation"]["accuracy"]
        np.testing.assert_allclose(lines[-1]["validation"]["accuracy"], np.mean(scores), rtol=1e-6)
    np.testing.assert_allclose(lines[-1]["members"]["validation_accuracy"], scores, rtol=1e-6)


def test_without_a_validation_split_a_record_has_no_such_key():
    record = make_record("head", Progress(None, {}, 1, 1, {"loss": np.float32([1])}, 0.5, {}))
    assert json.loads(record.line).keys() == {"stage", "epoch", "loss", "seconds"}


def test_means_are_over_the_finite_members():
    metrics = {"loss": np.float32([1, 3, np.nan])}
    validation = {"loss": np.float32([2, np.inf, np.nan])}
    record = make_record("head", Progress(None, {}, 1, 1, metrics, 0.5, validation))
    assert record.loss == 2 and record.validation == {"loss": 2.0}
    assert record.members == {"loss": [1, 3, None], f"{VALIDATION_PREFIX}loss": [2, None, None]}


def test_on_epoch_gets_the_lines_of_the_file_and_ends_a_stage_with_true(data, tmp_path):
    """The result, the manifest and the config say so, and a resumed run trains no further."""
    lines = []

    def stop_early(record):
        lines.append(record)
        return record["epoch"] == 2 or None  # True ends the stage, and nothing else does

    longer = {"pretrain": {"epochs": 5}, "head": {"epochs": 5}}
    config = tiny.config(data, tmp_path / "run", members=2, members_per_chunk=1, **longer)
    result = tiny.run(config, on_epoch=stop_early)
    file = (config.out / "metrics.jsonl").read_text().splitlines()
    assert lines == list(map(json.loads, file)) and len(lines) == 4
    assert read_manifest(config.out).stopped == {"pretrain": 2, "head": 2}
    assert [result.record[stage]["epochs"] for stage in ("pretrain", "head")] == [2, 2]
    # A run with the config that it leaves repeats it.
    stored = tiny.stored(config.out, "config.json")
    assert [stored[stage]["epochs"] for stage in ("pretrain", "head")] == [2, 2]
    short = tiny.config(data, tmp_path / "short", members=2, members_per_chunk=1)
    assert ts.digest(tiny.run(short).params) == ts.digest(result.params)
    (config.out / "result.json").unlink()
    again = tiny.resume(config.out, on_epoch=lines.append)
    assert len(lines) == 4 and ts.digest(again.params) == ts.digest(result.params)
    assert again.record["head"]["epochs"] == 2
    assert tiny.stored(config.out, "config.json") == stored


def test_a_stage_that_has_ended_early_takes_more_epochs_if_they_are_allowed(data, tmp_path):
    config = tiny.config(data, tmp_path / "run", pretrain={"epochs": 3})
    with pytest.raises(ts.UserError, match="on_epoch is 3: give a function"):
        tiny.run(config, on_epoch=3, pretrain_only=True)
    # What a comparison of NumPy's numbers returns.
    tiny.run(config, on_epoch=lambda record: np.True_, pretrain_only=True)
    assert read_manifest(config.out).stopped == {"pretrain": 1}
    more = {"pretrain": {"epochs": 4}}
    tiny.resume(config.out, config=more, allow_changed=True, pretrain_only=True)
    assert len(tiny.metrics(config.out)) == 4
    assert read_manifest(config.out).stopped == {}


def test_an_exception_in_on_epoch_comes_after_the_state_is_saved(done, data, tmp_path):
    def fail(record):
        if record["stage"] == "head":
            raise ZeroDivisionError

    config = tiny.config(data, tmp_path / "run", save_predictions=True)
    with pytest.raises(ZeroDivisionError):
        tiny.run(config, on_epoch=fail)
    assert max(int(path.name) for path in (config.out / "head").iterdir()) == tiny.STEPS
    lines = []
    tiny.resume(config.out, on_epoch=lines.append)
    assert [(line["stage"], line["epoch"]) for line in lines] == [("head", 2)]
    tiny.same(config.out, done)


@pytest.mark.parametrize(("seconds", "steps"), [(1e9, {0, 9}), (0.0, {6, 9})])
def test_short_epochs_share_a_checkpoint(seconds, steps, data, tmp_path, monkeypatch):
    """The first and the last state are saved, and others once the last one is old enough."""
    monkeypatch.setattr(train, "BETWEEN_EPOCHS", seconds)
    config = tiny.config(data, tmp_path / "run", pretrain={"epochs": 3})
    tiny.run(config, pretrain_only=True)
    assert {int(path.name) for path in (config.out / "pretrain").iterdir()} == steps


def test_a_killed_process_leaves_lines_that_are_made_again(done, data, tmp_path, monkeypatch):
    """Here the process ends in the second epoch of stage 1, and only the start was saved."""
    monkeypatch.setattr(train, "BETWEEN_EPOCHS", 1e9)
    monkeypatch.setattr(train._Session, "_save", lambda session, progress: None)
    config = tiny.config(data, tmp_path / "run", save_predictions=True)
    with pytest.raises(ZeroDivisionError):
        tiny.run(config, on_epoch=lambda record: 1 // (2 - record["epoch"]) > 1)
    assert len(tiny.metrics(config.out)) == 2
    monkeypatch.undo()
    tiny.resume(config.out)
    tiny.same(config.out, done)


def scalars(folder):
    """Points `{(tag, epoch): [values]}` of the event files below a folder."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import struct

    points = {}
    pictures = []
    for path in folder.glob("events.*"):
        content = path.read_bytes()
        while content:
            # A record: its length in 8 bytes, a checksum in 4, the content, a checksum in 4.
            size = struct.unpack("<Q", content[:8])[0]
            for value in Event.FromString(content[12 : 12 + size]).summary.value:
                step = Event.FromString(content[12 : 12 + size]).step
                if value.HasField("image"):
                    pictures.append(value.tag)
                else:
                    points.setdefault((value.tag, step), []).append(value.simple_value)
            content = content[16 + size :]
    return points, pictures


def test_tensorboard_has_every_figure_once(data, tmp_path):
    """Also after a resumption, when the lines of unsaved epochs are made again."""
    config = tiny.config(data, tmp_path / "run", sweep=("head.learning-rate=1e-3,1e-2",))
    with pytest.raises(KeyboardInterrupt) as stop:
        tiny.run(config, seams=tiny.stopped_after(2 * tiny.STEPS + 2), tensorboard=True)
    assert " --tensorboard " in stop.value.resume
    tiny.resume(config.out, tensorboard=True, draw=True)
    training, pictures = scalars(config.out / "tensorboard" / "training")
    validation, _ = scalars(config.out / "tensorboard" / "validation")
    for line in tiny.metrics(config.out):
        for points, figures in ((training, line), (validation, line["validation"])):
            assert points[f"{line['stage']}/loss", line["epoch"]] == [np.float32(figures["loss"])]
    assert "head/accuracy" in {tag for tag, _ in validation}
    assert "sweep" in pictures
    assert pictures.count("head/predictions") == 2  # one for each epoch of stage 2


def test_a_missing_tensorboard_package_names_the_extra(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    config = tiny.config(data, tmp_path / "run")
    with pytest.raises(ts.UserError, match=r"pip install 'twostage-jax\[tensorboard\]'"):
        tiny.run(config, tensorboard=True)
    assert not config.out.exists()

"""Stopped, changed and corrupted runs: they resume to the same bits, or say what is wrong."""

import dataclasses
import os
import shutil

import jax
import numpy as np
import pytest

import twostage_jax as ts
from tests import tiny
from twostage_jax.errors import Corrupted
from twostage_jax.runs.complete import complete_result
from twostage_jax.runs.evaluate import evaluate
from twostage_jax.runs.open import open_run
from twostage_jax.runs.prepare import read_config
from twostage_jax.show.terminal import Terminal
from twostage_jax.signals import Interrupted
from twostage_jax.store.lock import locked
from twostage_jax.store.records import read_manifest, write_manifest


def flip(path):
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def newest(folder, stage):
    """Number of the newest checkpoint, and the largest of its files."""
    step = max(int(path.name) for path in (folder / stage).iterdir())
    files = (folder / stage / str(step)).glob("params/**/d/*")
    return step, max(files, key=lambda path: path.stat().st_size)


def noticed(folder, **options):
    """Resume a run and return its notices."""
    terminal = Terminal(quiet=True)
    tiny.resume(folder, terminal, **options)
    return terminal.notices


def change_manifest(folder, **changes):
    """Write a manifest with other values, as another machine or package would have."""
    write_manifest(folder, dataclasses.replace(read_manifest(folder), **changes))


def test_a_run_that_is_cut_anywhere_resumes_to_the_same_bits(done, data, tmp_path):
    """Within an epoch, between epochs, between the stages, and within stage 2."""
    config = tiny.config(data, tmp_path / "run", save_predictions=True)
    with pytest.raises(Interrupted) as interruption:
        tiny.run(config, seams=tiny.stopped_after(2))
    assert interruption.value.resume == f"twostage run --resume --out {config.out}"
    # A process that is killed between the line of an epoch and its checkpoint leaves the line.
    line = '{"stage": "pretrain", "epoch": 1, "loss": 0.5, "seconds": 1.0}\n'
    (config.out / "metrics.jsonl").write_text(line)
    for calls in (tiny.STEPS - 2, tiny.STEPS, tiny.STEPS + 2):
        with pytest.raises(Interrupted):
            tiny.resume(config.out, seams=tiny.stopped_after(calls))
    tiny.resume(config.out)
    tiny.same(config.out, done)
    for split in ("validation", "test"):
        name = f"predictions-{split}.npz"
        assert (config.out / name).read_bytes() == (done / name).read_bytes()


def test_members_resume_in_chunks_of_another_size(trio, data, tmp_path):
    """Parameters keep their bits; mean losses are sums in another order."""
    options = {"members": 3, "members_per_chunk": 1}
    # After two epochs of stage 1, one of three members of stage 2 is in its second epoch.
    calls = 3 * 2 * tiny.STEPS + 3 * tiny.STEPS + 2
    folder = tiny.cut(tiny.config(data, tmp_path / "run", **options), calls)
    notices = noticed(folder, config={"members_per_chunk": 3})
    assert "(members_per_chunk 1 -> 3)" in notices[0]
    manifest = tiny.stored(folder, "manifest.json")
    assert manifest["allowed"] == ["members_per_chunk 1 -> 3"]
    expected = tiny.outcome(trio)
    assert manifest["groups"] == expected["groups"]
    for name in ("test", "member_test", "validation", "member_validation"):
        assert tiny.stored(folder, "result.json")[name] == expected["result"][name]
    for line, other in zip(tiny.metrics(folder), expected["metrics"], strict=True):
        assert line["members"]["loss"] == pytest.approx(other["members"]["loss"], rel=1e-5)


def test_the_state_is_saved_within_long_epochs(data, tmp_path):
    config = tiny.config(data, tmp_path / "run")
    steps = set()
    seams = tiny.stopped_after(10**6)

    def noted(*arguments):
        for progress in seams.fit(*arguments):
            yield progress
            steps.update(path.name for path in (config.out / "pretrain").iterdir())

    tiny.run(config, checkpoint_every=1e-9, seams=seams._replace(fit=noted), pretrain_only=True)
    assert steps & {"1", "2", "4", "5"}  # an epoch ends after 3 and after 6 steps


def test_a_folder_with_a_run_is_taken(copy, data):
    config = tiny.config(data, copy)
    with pytest.raises(ts.UserError, match="already contains a run: .* --resume"):
        tiny.run(config)
    with locked(copy, print):
        for resume in (True, False):
            with pytest.raises(ts.UserError, match=f"in use by process {os.getpid()} on "):
                tiny.run(config, resume=resume)
    assert not (copy / "lock").exists()


def test_other_settings_are_refused_with_the_list_of_differences(copy):
    changes = {"seed": 3, "head": {"epochs": 7}}
    for allow in (False, True):
        with pytest.raises(ts.UserError, match="seed 0 -> 3, head.epochs 2 -> 7; resume without"):
            tiny.resume(copy, config=changes, allow_changed=allow)
    stage_1 = {"pretrain": {"epochs": 3}}
    with pytest.raises(ts.UserError, match="without --pretrain.epochs, because stage 2 has begun"):
        tiny.resume(copy, config=stage_1, allow_changed=True)
    with pytest.raises(ts.UserError, match="because trained epochs cannot be removed"):
        tiny.resume(copy, config={"head": {"epochs": 1}}, allow_changed=True)


def test_more_epochs_have_to_be_allowed(copy, done, tmp_path):
    more = {"head": {"epochs": 3}}
    with pytest.raises(ts.UserError, match="head.epochs 2 -> 3; --allow-changed resumes anyway"):
        tiny.resume(copy, config=more)
    result = tiny.resume(copy, config=more, allow_changed=True)
    whole = tiny.run(ts.Config(out=tmp_path / "whole", encoder_run=str(done), **more))
    assert ts.digest(result.params) == ts.digest(whole.params)
    assert tiny.stored(copy, "manifest.json")["allowed"] == ["head.epochs 2 -> 3"]
    assert tiny.stored(copy, "config.json")["head"]["epochs"] == 3
    # Somebody who has seen the test figures must not choose any more.
    (copy / "result.json").unlink()
    with pytest.raises(ts.UserError, match="because the test split has been read"):
        tiny.resume(copy, config={"head": {"epochs": 4}}, allow_changed=True)


def test_data_are_identified_by_content_and_order_and_not_by_location(copy, done, tmp_path):
    """The same resumption accepts other versions, and notices another machine."""
    moved = tiny.write(tmp_path / "moved.npz")
    other = tiny.write(tmp_path / "other.npz", more=3)
    turned = tiny.write(tmp_path / "turned.npz", order=-1)
    with pytest.raises(ts.UserError, match=r"was started on tiny sha256:.*: start a new run"):
        tiny.resume(copy, config={"data": other})
    with pytest.raises(ts.UserError, match="in another order, so other examples would be trained"):
        tiny.resume(copy, config={"data": turned})
    manifest = read_manifest(copy)
    machine = dataclasses.replace(manifest.machine, device="TPU v9")
    change_manifest(copy, versions={**manifest.versions, "jax": "0.9.0"}, machine=machine)
    with pytest.raises(ts.UserError, match="jax 0.9.0 -> .*; --allow-changed resumes anyway"):
        tiny.resume(copy)
    notices = noticed(copy, config={"data": moved}, allow_changed=True)
    assert "TPU v9 -> " in notices[0] and "to about 1e-05, not bit for bit" in notices[0]
    assert tiny.stored(copy, "manifest.json")["versions"] == manifest.versions
    assert tiny.stored(copy, "config.json")["data"] == moved
    outcome = tiny.outcome(copy)
    outcome["result"]["data"]["name"] = "tiny"
    assert outcome == tiny.outcome(done)


def test_a_head_resumes_with_the_encoder_and_the_settings_that_it_was_started_on(done, tmp_path):
    config = ts.Config(encoder_run=str(done), out=tmp_path / "head")
    folder = tiny.cut(config, tiny.STEPS + 2)
    other = shutil.copytree(folder, tmp_path / "other")
    change_manifest(other, encoder="sha256:0")
    with pytest.raises(ts.UserError, match="has another encoder than when"):
        tiny.resume(other)
    # Its checkpoints do not fit a run with another seed.
    foreign = ts.Config(encoder_run=str(done), out=tmp_path / "foreign", seed=1)
    foreign = tiny.cut(foreign, 1)
    shutil.rmtree(foreign / "head")
    shutil.copytree(folder / "head", foreign / "head")
    with pytest.raises(ts.UserError, match="has another config: start a new run"):
        tiny.resume(foreign)
    tiny.resume(folder, config={"encoder_run": str(done)})
    assert tiny.outcome(folder)["result"] == tiny.outcome(done)["result"]


def test_no_command_decides_by_the_config_file_of_a_run(copy, done):
    """Here it is edited; the checkpoint that is newest is corrupted, so an older one is used."""
    config = copy / "config.json"
    content = config.read_text()
    config.write_text(content.replace('"seed": 0', '"seed": 1'))
    assert read_config(copy).seed == 0
    step, largest = newest(copy, "head")
    flip(largest)
    notices = noticed(copy)
    assert f"head/{step} " in notices[0] and "falling back" in notices[0]
    tiny.same(copy, done)
    assert config.read_text() == content


def lose_stage(folder):
    shutil.rmtree(folder / "pretrain")
    return "pretrain"


def lose_array(folder):
    step, largest = newest(folder, "head")
    largest.unlink()
    return f"head/{step}"


def lose_tables(folder):
    for path in (folder / "head").iterdir():
        (path / "checkpoint.json").unlink(missing_ok=True)
    return "head/"


def flip_result(folder):
    flip(folder / "result.json")
    return "result.json"


def lose_config(folder):
    (folder / "config.json").unlink()
    return "config.json"


def flip_metrics(folder):
    flip(folder / "metrics.jsonl")
    return "metrics.jsonl"


def lose_sums(folder):
    (folder / "SHA256SUMS").unlink()
    return "SHA256SUMS"


def flip_predictions(folder):
    flip(folder / "predictions-test.npz")
    return "predictions-test.npz"


# A classifier needs neither the checkpoint of stage 1 nor predictions.
FOR_RESUMPTION = (lose_stage, flip_predictions)
FOR_ALL = (lose_array, lose_tables, flip_result, lose_config, flip_metrics, lose_sums)


def test_corrupted_files_of_a_complete_run_are_named_and_repaired(done, tmp_path):
    for damage in (*FOR_RESUMPTION, *FOR_ALL):
        folder = shutil.copytree(done, tmp_path / damage.__name__)
        name = damage(folder)
        if damage in FOR_ALL:
            with pytest.raises(Corrupted, match=name):
                open_run(folder)
        terminal = Terminal(quiet=True)
        config = ts.Config(out=folder, save_predictions=True)
        assert complete_result(config, False, terminal) is None
        assert name in terminal.notices[0]
        assert "continues from what is intact, to the same result" in terminal.notices[0]
    folder = shutil.copytree(done, tmp_path / "all")
    for damage in (*FOR_RESUMPTION, *FOR_ALL):
        damage(folder)
    assert noticed(folder)[-1] == "stage head restarts: no checkpoint is intact"
    tiny.same(folder, done)
    open_run(folder)
    content = (folder / "result.json").read_bytes()
    # Now it is complete, and resuming it shows its result.
    assert not noticed(folder)
    assert (folder / "result.json").read_bytes() == content


def test_a_corrupted_manifest_is_an_error(complete, tmp_path):
    flip(complete / "manifest.json")
    for use in (
        lambda: open_run(complete),
        lambda: tiny.resume(complete),
        lambda: tiny.run(ts.Config(encoder_run=str(complete), out=tmp_path / "head")),
    ):
        with pytest.raises(Corrupted, match="manifest.json.*restore it from a copy"):
            use()


def test_an_encoder_that_the_manifest_does_not_describe_is_refused(complete, tmp_path):
    groups = dict(read_manifest(complete).groups)
    groups["encoder"] = dataclasses.replace(groups["encoder"], sha256="sha256:0")
    change_manifest(complete, groups=groups)
    with pytest.raises(Corrupted, match="group encoder is not the one that manifest.json"):
        tiny.run(ts.Config(encoder_run=str(complete), out=tmp_path / "head"))


def test_predictions_are_written_only_by_a_run_that_was_asked_for_them(complete):
    for name in ("predictions-validation.npz", "predictions-test.npz"):
        (complete / name).unlink()
    change_manifest(complete, save_predictions=False)
    with pytest.raises(ts.UserError, match="write its predictions with twostage evaluate"):
        tiny.resume(complete, config={"save_predictions": True})


@pytest.mark.parametrize("stage", ["pretrain", "head"])
def test_a_divergence_names_the_stage_the_group_and_the_last_checkpoint(
    stage, done, data, tmp_path
):
    config = tiny.config(data, tmp_path / "run", pretrain={"learning_rate": 1e30})
    groups = "decoder and encoder"
    if stage == "head":
        groups = "head"
        head = {"learning_rate": 1e30}
        config = ts.Config(encoder_run=str(done), out=tmp_path / "run", head=head)
    with pytest.raises(ts.UserError) as error:
        tiny.run(config)
    message = str(error.value)
    assert f"stage {stage} diverged in epoch 1: " in message
    assert f"parameters or moments of {groups} are not finite" in message
    assert f"{stage}/0 is the last finite checkpoint" in message
    assert f"try a smaller --{stage}.learning-rate" in message
    assert not (config.out / "metrics.jsonl").exists()


def test_features_computed_in_the_loop_end_at_the_same_head(done, data, tmp_path):
    config = tiny.config(data, tmp_path / "loop", head={"encode": "loop"}, save_predictions=True)
    record = tiny.run(config).record
    assert record["head"]["encode"] == "loop" and record["seconds"]["encode"] == 0
    assert tiny.stored(done, "result.json")["head"]["encode"] == "once"
    assert tiny.stored(done, "config.json")["head"]["encode"] == "once"
    saved = [np.load(folder / "predictions-test.npz") for folder in (config.out, done)]
    np.testing.assert_allclose(*(file["probability"] for file in saved), atol=1e-4)


def test_random_numbers_do_not_depend_on_the_default_kind_of_keys(data, done, tmp_path):
    with jax.default_prng_impl("rbg"):
        tiny.run(tiny.config(data, tmp_path / "rbg", save_predictions=True))
    tiny.same(tmp_path / "rbg", done)


def test_other_settings_of_jax_are_refused_on_resume_and_noted_elsewhere(copy, complete, tmp_path):
    terminal = Terminal(quiet=True)
    with jax.default_prng_impl("rbg"):
        with pytest.raises(
            ts.UserError, match="JAX_DEFAULT_PRNG_IMPL threefry2x32 -> rbg; --allow"
        ):
            tiny.resume(copy)
        evaluate(open_run(complete), terminal)
        assert "JAX_DEFAULT_PRNG_IMPL threefry2x32 -> rbg" in terminal.notices[0]
        tiny.resume(copy, allow_changed=True)
    manifest = tiny.stored(copy, "manifest.json")
    assert manifest["allowed"] == ["JAX_DEFAULT_PRNG_IMPL threefry2x32 -> rbg"]
    assert manifest["switches"]["JAX_DEFAULT_PRNG_IMPL"] == "rbg"

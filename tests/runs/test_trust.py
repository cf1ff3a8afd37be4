"""Nothing in the files of a run imports code, unless the user trusts it."""

import dataclasses
import json
import shutil

import pytest

from twostage_jax import cli
from twostage_jax.errors import UserError
from twostage_jax.runs.open import open_run
from twostage_jax.store.records import read_manifest, write_manifest


@pytest.mark.parametrize(
    "path", [("pretrain", "encoder"), ("pretrain", "objective"), ("head", "protocol")]
)
def test_a_config_from_a_file_imports_nothing_unless_trusted(path, done, tmp_path, module, capsys):
    mark = tmp_path / "imported"
    module("cuckoo", f"open({str(mark)!r}, 'w').close()\nclass Egg: pass\n")
    run = shutil.copytree(done, tmp_path / "run")
    group, field = path
    manifest = read_manifest(run)
    values = json.loads(json.dumps(manifest.config))
    values[group][field] = "cuckoo:Egg"
    write_manifest(run, dataclasses.replace(manifest, config=values))
    (run / "config.json").write_text(json.dumps(values))
    out = str(tmp_path / "new")
    for argv in (
        ["run", "--config", str(run / "config.json"), "--out", out],
        ["run", "--resume", "--out", str(run)],
        ["head", "--from", str(run), "--out", out],
        ["evaluate", str(run)],
    ):
        assert cli.main(argv) == 2, argv
        assert "imports cuckoo:Egg: give --trust-code" in capsys.readouterr().err
    assert not mark.exists() and not (tmp_path / "new").exists()
    # The canary is alive.
    assert (
        cli.main(["run", "--config", str(run / "config.json"), "--out", out, "--trust-code"]) == 2
    )
    assert mark.exists()


@pytest.mark.parametrize("file", ["_CHECKPOINT_METADATA", "params/_METADATA"])
def test_a_checkpoint_imports_nothing_that_it_names(file, done, tmp_path, module):
    mark = tmp_path / "imported"
    module("cuckoo", f"open({str(mark)!r}, 'w').close()\nclass Egg: pass\n")
    run = shutil.copytree(done, tmp_path / "run")
    path = max((run / "head").iterdir(), key=lambda step: int(step.name)) / file
    text = path.read_text()
    handler = "orbax.checkpoint.experimental.v1._src.handlers.pytree_handler.PyTreeHandler"
    for name in (handler, "np.ndarray", "jax.Array"):
        text = text.replace(name, "cuckoo.Egg")
    assert "cuckoo" in text
    path.write_text(text)
    with pytest.raises(UserError):
        open_run(run)
    assert not mark.exists()

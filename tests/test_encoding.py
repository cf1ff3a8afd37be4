"""When the frozen encoder runs, and that it does not matter."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

import twostage_jax as ts
from twostage_jax.config.schema import HeadConfig, from_dict, to_dict
from twostage_jax.engine.passes import choose_encoding
from twostage_jax.show.terminal import Terminal

FEATURES = jax.ShapeDtypeStruct((1000, 250), np.float32)  # 1 MB


def go(out, encode):
    # The shapes of the runs in test_pipeline, whose programs are compiled already.
    head = HeadConfig(widths=(8,), epochs=2, batch_size=100, encode=encode)
    pretrain = ts.PretrainConfig(widths=(16, 8), epochs=1, batch_size=100)
    config = ts.Config(data="digits", out=out, pretrain=pretrain, head=head)
    return ts.run(config, terminal=Terminal(quiet=True))


def test_encoding_once_and_in_the_loop_end_at_the_same_head(tmp_path):
    once, loop = go(tmp_path / "once", "once"), go(tmp_path / "loop", "loop")
    assert ts.digest(once.params["encoder"]) == ts.digest(loop.params["encoder"])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4),
        once.params["head"],
        loop.params["head"],
    )
    assert once.record["head"]["encode"] == "once" and loop.record["head"]["encode"] == "loop"
    assert once.record["seconds"]["encode"] > 0 and loop.record["seconds"]["encode"] == 0
    for part in ("validation", "test"):
        one, other = once.record[part], loop.record[part]
        assert abs(one["accuracy"] - other["accuracy"]) <= 1 / one["count"]
        assert abs(one["nll"] - other["nll"]) < 1e-4


def test_what_was_chosen_is_in_the_config_so_that_a_repetition_computes_the_same(tmp_path):
    go(tmp_path / "run", None)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["head"]["encode"] == "once"


def test_a_config_from_before_there_was_a_choice_means_the_loop():
    values = to_dict(ts.Config())
    del values["head"]["encode"]
    assert from_dict(values, "config.json").head.encode == "loop"


@pytest.mark.parametrize(
    ("wanted", "free", "once"),
    [
        ("auto", 3e6, True),
        ("auto", 1.9e6, False),
        ("auto", None, True),
        ("once", 1.0, True),
        ("loop", 3e6, False),
    ],
)
def test_the_rule_and_its_reason(monkeypatch, wanted, free, once):
    monkeypatch.setattr("twostage_jax.engine.passes.free_bytes", lambda: free)
    chosen, why = choose_encoding(wanted, FEATURES)
    assert chosen is once
    assert ("once" if once else "in every step") in why


def test_another_way_to_encode_is_refused():
    with pytest.raises(ts.UserError, match="'twice'.*auto, once, loop"):
        ts.run(dataclasses.replace(ts.Config(), head=HeadConfig(encode="twice")))


CODE = """
import sys, jax
from twostage_jax.engine.compile import keep_compiled
print(keep_compiled(*sys.argv[1:]))
jax.jit(lambda x: x * 3 + 1)(2.0)
"""


def kept(tmp_path, *arguments, **variables):
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE"):
        variables.setdefault(name, None)
    home = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "home"), **variables}
    environment = {name: value for name, value in home.items() if value is not None}
    command = [sys.executable, "-c", CODE, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return done.stdout.strip(), [path for path in tmp_path.rglob("*") if path.is_file()]


def test_compiled_programs_are_kept_in_the_user_s_cache_folder(tmp_path):
    where, files = kept(tmp_path)
    assert where.startswith(str(tmp_path / "home" / "twostage_jax"))
    assert files and all(str(path).startswith(where) for path in files)


def test_the_cache_goes_where_it_is_told_or_nowhere(tmp_path):
    where, files = kept(tmp_path, tmp_path / "there")
    assert where == str(tmp_path / "there") and files
    for off in (tmp_path / "a", tmp_path / "b"):
        off.mkdir()
    assert kept(tmp_path / "a", "off") == ("None", [])
    assert kept(tmp_path / "b", JAX_ENABLE_COMPILATION_CACHE="false") == ("None", [])

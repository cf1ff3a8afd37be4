"""Compilation: each program once, the same bits with any option, and a cache between starts."""

import os
import subprocess
import sys

import jax
import pytest

import twostage_jax as ts
from tests.engine.tiny import CLASSIFIER, SPLIT
from twostage_jax.engine.compile import compile_all, keep_compiled
from twostage_jax.engine.state import make_init


def test_each_program_of_a_tree_is_compiled_once():
    lowered = jax.jit(lambda x: x + 1).lower(2.0)
    compiled = compile_all({"a": lowered, "b": (lowered, 3), "c": None})
    assert compiled["a"] is compiled["b"][0]
    assert compiled["a"](2.0) == 3
    assert compiled["b"][1] == 3 and compiled["c"] is None


@pytest.mark.slow
def test_compiler_options_change_no_bit():
    tx = ts.adam(1e-2, weight_decay=0.1)
    state = ts.init_state(CLASSIFIER, tx, jax.random.key(0), SPLIT)
    init = jax.jit(make_init(CLASSIFIER, tx))
    assert ts.digest(init(jax.random.key(0), SPLIT, {})) == ts.digest(state)
    train = ts.make_train(CLASSIFIER, tx, 8, 3)
    default = jax.jit(train)(state, SPLIT, jax.random.key(1))
    fast = jax.jit(train, compiler_options=ts.compiler_options())(state, SPLIT, jax.random.key(1))
    assert ts.digest(fast) == ts.digest(default)


@pytest.fixture
def unset(monkeypatch, tmp_path):
    """Settings of jax as in a fresh process, with a home folder of its own."""
    names = (
        "jax_compilation_cache_dir",
        "jax_enable_compilation_cache",
        "jax_persistent_cache_min_compile_time_secs",
    )
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_programs_are_kept_in_the_requested_folder_or_not_at_all(unset, tmp_path):
    default = keep_compiled()
    assert default.is_relative_to(tmp_path / "home" / "twostage_jax") and default.is_dir()
    # From now on the folder is a setting of jax, as if the user had set it; an argument wins.
    assert keep_compiled() == default
    assert keep_compiled(tmp_path / "here") == tmp_path / "here"
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "here")
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        keep_compiled(tmp_path / "file")
    assert keep_compiled("off") is None
    assert keep_compiled(tmp_path / "there") is None
    assert not (tmp_path / "there").exists()


def test_a_fresh_process_writes_programs_to_the_users_cache_folder(tmp_path):
    code = """
import jax
from twostage_jax.engine.compile import keep_compiled
print(keep_compiled())
jax.jit(lambda x: x * 3 + 1)(2.0)
"""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    del environment["JAX_COMPILATION_CACHE_DIR"]
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    files = [str(path) for path in tmp_path.rglob("*") if path.is_file()]
    assert files and all(path.startswith(done.stdout.strip()) for path in files)

"""The device is asked for first: the true cause of a failure, and no silent fallback."""

import os
import re
import subprocess
import sys

import jax
import pytest

import twostage_jax as ts
from twostage_jax.engine.device import find_device
from twostage_jax.engine.switches import check_switches, numeric_switches

SCRIPT = """
import sys
from twostage_jax.engine.device import find_device
try:
    device = find_device(*sys.argv[1:])
    print(device.platform, device.note)
except ValueError as error:
    print(error)
"""


def ask(*requested, **environment):
    """Output of a new process, in which jax is not in use yet."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *requested],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "", **environment},
    )
    assert not done.stderr, done.stderr
    return done.stdout


@pytest.fixture
def nvidia(tmp_path):
    """A `PATH` with NVIDIA's tool on it."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    return f"{tmp_path}:{os.environ['PATH']}"


def test_the_device_has_cores_and_versions():
    device = find_device()
    assert (device.platform, device.kind) == (jax.default_backend(), jax.devices()[0].device_kind)
    assert device.count == jax.device_count() and device.cores >= 1
    assert device.versions["jax"] == jax.__version__
    assert device.note is None


@pytest.mark.parametrize(
    ("variable", "value", "cause"),
    [
        ("JAX_PLATFORMS", "cuda", "JAX_PLATFORMS is 'cuda', but jax is installed without GPU"),
        ("JAX_PLATFORMS", "gpuu", "unknown platform 'gpuu': did you mean 'gpu'"),
        ("XLA_FLAGS", "--xla_foo=1", "Unknown flag in XLA_FLAGS: --xla_foo=1; correct or unset"),
    ],
)
def test_a_failure_to_start_names_the_variable_and_the_remedy(variable, value, cause):
    assert cause in ask(**{variable: value})


def test_a_gpu_that_is_asked_for_is_not_replaced_by_the_cpu():
    """Even if the environment asks for the CPU: a flag is more specific."""
    output = ask("gpu", JAX_PLATFORMS="cpu")
    assert "--device gpu, but jax is installed without GPU support" in output
    assert 'pip install "jax[cuda13]"' in output
    assert ask("cpu", JAX_PLATFORMS="cuda").startswith("cpu None")
    with pytest.raises(ts.UserError, match="unknown device 'gpuu': did you mean 'gpu'"):
        find_device("gpuu")


def test_an_nvidia_gpu_that_is_not_used_is_noted_with_the_remedy(nvidia):
    note = "this machine has an NVIDIA GPU, but jax is installed without GPU support: install it"
    assert note in ask(PATH=nvidia)
    # Somebody who chooses the CPU, or hides the GPU, knows.
    assert ask("cpu", PATH=nvidia).startswith("cpu None")
    assert ask(PATH=nvidia, JAX_PLATFORMS="cpu").startswith("cpu None")
    assert ask(PATH=nvidia, CUDA_VISIBLE_DEVICES="").startswith("cpu None")


@pytest.mark.parametrize(
    ("name", "value"), [("jax_disable_jit", True), ("jax_numpy_dtype_promotion", "strict")]
)
def test_a_setting_with_which_a_run_cannot_work_is_refused(name, value):
    previous = getattr(jax.config, name)
    jax.config.update(name, value)
    try:
        with pytest.raises(
            ts.UserError, match=f"{name.upper()} is {value}.*: unset {name.upper()}"
        ):
            check_switches()
    finally:
        jax.config.update(name, getattr(previous, "value", previous))


def test_settings_that_change_numbers_are_read(monkeypatch):
    flags = "--xla_cpu_enable_fast_math=true --xla_force_host_platform_device_count=3"
    monkeypatch.setenv("XLA_FLAGS", flags)
    with jax.enable_x64(True), jax.threefry_partitionable(False):
        changed = numeric_switches()
    assert changed["JAX_ENABLE_X64"] == "True" != numeric_switches()["JAX_ENABLE_X64"]
    assert changed["JAX_THREEFRY_PARTITIONABLE"] == "False"
    # The number of devices is recorded beside the machine.
    assert changed["XLA_FLAGS"] == "--xla_cpu_enable_fast_math=true"
    assert all(re.fullmatch("[A-Z0-9_]+", name) for name in changed)

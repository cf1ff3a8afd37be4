"""Settings of JAX, from its environment variables or from Python, that change what is computed."""

import os
import re
from typing import Any

import jax

from twostage_jax.errors import UserError

# Another value can change bits. A run records them and resumes under the same ones.
_NUMERIC = (
    "jax_allow_f16_reductions",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_disable_most_optimizations",
    "jax_enable_x64",
    "jax_exec_time_optimization_effort",
    "jax_high_dynamic_range_gumbel",
    "jax_memory_fitting_effort",
    "jax_optimization_level",
    "jax_random_seed_offset",
    "jax_softmax_custom_jvp",
    "jax_threefry_gpu_kernel_lowering",
    "jax_threefry_partitionable",
)
# A run cannot work with another value than these.
_MOVING = ("None", "allow", "log", "log_explicit")
_REQUIRED = {
    "jax_disable_jit": (("False",), "a run consists of compiled programs"),
    "jax_no_execution": (("False",), "a run executes its programs"),
    "jax_no_tracing": (("False",), "a run compiles its programs"),
    "jax_numpy_dtype_promotion": (("standard",), "a run adds numbers of several types"),
    "jax_transfer_guard": (_MOVING, "a run moves data to the device"),
    "jax_transfer_guard_device_to_host": (_MOVING, "a run reads its results from the device"),
    "jax_transfer_guard_host_to_device": (_MOVING, "a run moves data to the device"),
}
# These flags choose the number of devices, which is recorded beside the machine, or only print.
_NEUTRAL_FLAG = re.compile(r"--xla_(force_host_platform_device_count|dump_\w+)\b.*")
# Read by NVIDIA's libraries: 0 turns off the short format TF32.
_TF32 = "NVIDIA_TF32_OVERRIDE"


def numeric_switches() -> dict[str, str]:
    """Return the settings that the bits of a result depend on, by environment variable."""
    switches = {name.upper(): _value(name) for name in _NUMERIC}
    flags = os.environ.get("XLA_FLAGS", "").split()
    relevant = [flag for flag in flags if not _NEUTRAL_FLAG.fullmatch(flag)]
    return {
        **switches,
        "XLA_FLAGS": " ".join(sorted(relevant)),
        _TF32: os.environ.get(_TF32, ""),
    }


def check_switches() -> None:
    """Raise `UserError` for a setting with which a run cannot work."""
    for name, (accepted, reason) in _REQUIRED.items():
        value = _value(name)
        if value not in accepted:
            raise UserError(f"{name.upper()} is {value}, but {reason}: unset {name.upper()}")


def setting(name: str) -> Any:
    """Return a setting of jax, which type checkers do not know; None if this version lacks it."""
    # The attribute also sees a context such as `jax.enable_x64()`, but some settings have none.
    return getattr(jax.config, name, jax.config.values.get(name))


def _value(name: str) -> str:
    value = setting(name)
    # Some values are members of an enumeration, others are plain.
    return str(getattr(value, "value", value))

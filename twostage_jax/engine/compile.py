"""How programs are compiled: together, with the right options, and kept for the next start."""

import contextlib
import hashlib
import os
import platform
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

# What each option saves is in docs/benchmarks.md.
_LOOP = {
    "cpu": {
        "xla_cpu_copy_insertion_use_region_analysis": True,
        # Sums of batched and of single arrays then add up in one order, so that the members of a
        # vmapped training are bit for bit the trainings alone.
        "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT",
    }
}
_ONCE = {"cpu": {"xla_backend_optimization_level": 1, "xla_llvm_disable_expensive_passes": True}}


def compiler_options() -> dict[str, Any]:
    """Options for `jax.jit(f, compiler_options=…)` that make a training loop faster here.

    On the CPU, XLA copies weights in every step unless it looks at whole regions of the program;
    and it sums batched arrays in another order than single ones, unless told otherwise.
    """
    return dict(_LOOP.get(jax.default_backend(), {}))


def donated(*arguments: int) -> tuple[int, ...]:
    """Those arguments of a training loop whose buffers it takes over, for `jax.jit`: none on a CPU.

    There a loop that works in the buffers it was given is slower than one whose buffers XLA lays
    out: 64 heads on MNIST took 2.2 s an epoch instead of 1.6 s, on two cores of an AMD EPYC.
    """
    return () if _on_cpu() else arguments


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"


def options_for_once() -> dict[str, Any] | None:
    """Options for a program that runs once: sooner compiled rather than faster."""
    if isinstance(jnp.zeros(()), Tracer):
        return None  # within another program, and jax takes options of the outermost one only
    return dict(_ONCE.get(jax.default_backend(), {}))


def use_cores(count: int) -> None:
    """Let jax see up to `count` devices, one per core, where it will run on the CPU.

    Members of an ensemble then train side by side, each on a core of its own. It only has an effect
    before jax is first used, and none where the number of devices was chosen already.
    """
    chosen = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    settings: Any = jax.config
    if chosen or settings.jax_num_cpu_devices > 0:
        return
    # Once jax is in use it says so, and what it has stays.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", min(count, cores()))


def cores() -> int:
    """Cores that this process may use."""
    allowed = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if allowed else os.cpu_count() or 1


def compile_all(tree: Any) -> Any:
    """A tree with every `jax.stages.Lowered` in it compiled, several at a time, each one once."""
    leaves, structure = jax.tree.flatten(tree)
    lowered = {id(leaf): leaf for leaf in leaves if isinstance(leaf, jax.stages.Lowered)}
    # XLA lets go of Python's lock while it compiles.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        compiled = dict(
            zip(lowered, pool.map(lambda x: x.compile(), lowered.values()), strict=True)
        )
    return jax.tree.unflatten(structure, [compiled.get(id(leaf), leaf) for leaf in leaves])


def cache_folder() -> Path:
    """Where compiled programs are kept: in the user's cache folder, one folder per kind of CPU.

    A home may be shared by machines, and code for one CPU can be illegal on another.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "twostage_jax" / f"jax-{hashlib.sha256(_cpu().encode()).hexdigest()[:12]}"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))


def keep_compiled(folder: str | Path | None = None) -> Path | None:
    """Keep compiled programs in `folder` for the next start; call it before anything is compiled.

    Args:
        folder: where; `off` for nowhere; by default what jax was told by
            `JAX_COMPILATION_CACHE_DIR` or in Python, else `cache_folder()`.

    Returns:
        Where they are kept; None for `off`, or where jax was told not to keep any
        (`JAX_ENABLE_COMPILATION_CACHE=false`).

    Raises:
        OSError: a folder that cannot be made or written to; jax's own is not looked at.
    """
    settings: Any = jax.config
    if folder == "off":
        jax.config.update("jax_enable_compilation_cache", False)
    if not settings.jax_enable_compilation_cache:
        return None
    told = None if folder else settings.jax_compilation_cache_dir
    chosen = told or folder or cache_folder()
    if not told:
        Path(chosen).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=chosen):
            pass
    jax.config.update("jax_compilation_cache_dir", str(chosen))
    # A run is many small programs; each costs more to compile than to read.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return Path(chosen)

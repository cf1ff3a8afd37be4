"""Compilation: programs together, with the right options, and cached for the next start."""

import contextlib
import hashlib
import os
import platform
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar, cast

import jax
import jax.numpy as jnp
from jax.core import Tracer

from twostage_jax.engine.switches import setting

T = TypeVar("T")

# The gain of each option is in docs/benchmarks.md.
_LOOP = {
    "cpu": {
        "xla_cpu_copy_insertion_use_region_analysis": True,
        # Sums of batched and of single arrays then add up in one order, so the members of a vmapped
        # training are bit for bit equal to single trainings.
        "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT",
    }
}
_ONCE = {
    "cpu": {
        "xla_backend_optimization_level": 1,
        "xla_llvm_disable_expensive_passes": True,
        # XLA's newer emitters take a third of the time that a program compiles. Loops run 1.6 times
        # faster with them; initial values have the same bits without them.
        "xla_cpu_use_fusion_emitters": False,
    }
}


def compiler_options() -> dict[str, bool | str]:
    """Return options for `jax.jit(f, compiler_options=…)` that make a training loop faster.

    On the CPU, XLA copies weights in every step unless it analyses whole regions of the program,
    and it sums batched arrays in another order than single ones unless an option forbids it.

    >>> import jax, twostage_jax as ts
    >>> double = jax.jit(lambda x: 2 * x, compiler_options=ts.compiler_options())
    >>> float(double(2.0))
    4.0
    """
    return dict(_LOOP.get(jax.default_backend(), {}))


def donated(*arguments: int) -> tuple[int, ...]:
    """Return `donate_argnums` for a training loop: `arguments`, or none on the CPU.

    On the CPU a loop in donated buffers is slower than one in buffers that XLA chooses: 64 heads on
    MNIST took 2.2 s per epoch instead of 1.6 s, on two cores of an AMD EPYC.
    """
    return () if jax.default_backend() == "cpu" else arguments


def options_for_once() -> dict[str, bool | int] | None:
    """Return options for a program that runs once: compiled sooner rather than running faster."""
    if isinstance(jnp.zeros(()), Tracer):
        return None  # within another program: jax only takes options of the outermost one
    return dict(_ONCE.get(jax.default_backend(), {}))


def use_cores(count: int) -> None:
    """Give jax up to `count` CPU devices, one per core.

    Members of an ensemble then train side by side, each on its own core. This has an effect only
    before jax is first used, and only if the number of devices was not chosen already.
    """
    chosen = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if chosen or setting("jax_num_cpu_devices") > 0:
        return
    # jax raises this error once it is in use, and then keeps its devices.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", min(count, cores()))


def cores() -> int:
    """Return the number of cores that this process may use."""
    allowed = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if allowed else os.cpu_count() or 1


def compile_all(tree: T) -> T:
    """Compile every `jax.stages.Lowered` in a tree, several at a time, each object once."""
    return compile_each([tree])[0]


def compile_each(trees: Iterable[T]) -> list[T]:
    """Compile the programs of several trees as `compile_all` does.

    A tree is compiled while the next one is traced: XLA releases Python's lock.
    """
    collected = []
    # Both stages share the shuffle: one object must not be compiled twice.
    pending: dict[int, Future] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for tree in trees:
            collected.append(tree)
            for leaf in jax.tree.leaves(tree):
                if isinstance(leaf, jax.stages.Lowered) and id(leaf) not in pending:
                    pending[id(leaf)] = pool.submit(leaf.compile)
    compiled = {number: future.result() for number, future in pending.items()}
    return jax.tree.map(lambda leaf: compiled.get(id(leaf), leaf), collected)


def as_function(lowered: jax.stages.Lowered) -> Callable:
    """Type a lowered program as the function that `compile_all` makes of it."""
    return cast(Callable, lowered)


def cache_folder() -> Path:
    """Return the folder for compiled programs: in the user's cache folder, one per kind of CPU.

    Several machines may share a home folder, and code for one CPU can crash on another.
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
        folder: folder for the programs; `off` keeps none. The default is jax's own setting
            (`JAX_COMPILATION_CACHE_DIR`, or set in Python), else `cache_folder()`.

    Returns:
        The folder; None for `off`, or if jax keeps no programs
        (`JAX_ENABLE_COMPILATION_CACHE=false`).

    Raises:
        OSError: if the folder cannot be created or written to; jax's own folder is not checked.
        RuntimeError: if the user has no home folder.

    >>> import twostage_jax as ts
    >>> folder = ts.keep_compiled()
    """
    if folder == "off":
        jax.config.update("jax_enable_compilation_cache", False)
    if not setting("jax_enable_compilation_cache"):
        return None
    configured = None if folder else setting("jax_compilation_cache_dir")
    chosen = configured or folder or cache_folder()
    if not configured:
        chosen = Path(chosen).expanduser()
        chosen.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=chosen):
            pass
    jax.config.update("jax_compilation_cache_dir", str(chosen))
    # A run is many small programs; each takes longer to compile than to read.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return Path(chosen)

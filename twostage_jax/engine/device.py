"""The device of a run. It is found in one place, before anything else needs it.

Whatever keeps jax from starting shows here, so no later step is blamed for it.
"""

import importlib.util
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax

from twostage_jax import __version__
from twostage_jax.engine.compile import cores
from twostage_jax.engine.switches import check_switches, setting
from twostage_jax.errors import UserError, did_you_mean, shown

DEVICES = ("cpu", "gpu", "tpu")
# Names of jax's platforms for each device.
_PLATFORMS = {"cpu": ("cpu",), "gpu": ("gpu", "cuda", "rocm"), "tpu": ("tpu",)}
_INSTALL = {"gpu": 'pip install "jax[cuda13]"', "tpu": 'pip install "jax[tpu]"'}
# XLA ends the process without an exception if it cannot read its flags. It always knows this one.
_KNOWN_FLAGS = re.compile(r"\s*(--xla_force_host_platform_device_count=\d+\s*)?")
_XLA_MESSAGE = re.compile(r"(?:Unknown flag|Could not open file|Couldn't interpret).*")


class Device(NamedTuple):
    """Device that a run uses.

    Attributes:
        kind: kind of the devices, for instance `cpu` or `NVIDIA H100 80GB HBM3`.
        platform: `cpu`, `gpu` or `tpu`.
        count: number of devices.
        cores: CPU cores that this process may use.
        versions: versions of `twostage_jax`, `jax` and `Python`.
        note: advice if a device of the machine is not used; None otherwise.
    """

    kind: str
    platform: str
    count: int
    cores: int
    versions: dict[str, str]
    note: str | None = None


def find_device(requested: str | None = None) -> Device:
    """Start jax and return the device that it uses.

    Args:
        requested: `cpu`, `gpu` or `tpu`; by default the choice is jax's. It has an effect only
            before jax is first used in this process.

    Raises:
        UserError: a device that is not there or does not start, or a setting of jax with which a
            run cannot work; the message names the cause.

    >>> from twostage_jax.engine.device import find_device
    >>> find_device("cpu").platform
    'cpu'
    """
    if requested is not None and requested not in DEVICES:
        hint = did_you_mean(str(requested), DEVICES)
        raise UserError(f"unknown device {shown(requested)}: {hint}")
    _check_xla_flags()
    check_switches()
    _select(requested)
    # jax itself also warns about an unused GPU, in words that do not fit our installation.
    log = logging.getLogger("jax._src.xla_bridge")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        first = jax.devices()[0]
        used = jax.default_backend()
    except Exception as error:  # a plug-in may raise anything, and jax an empty AssertionError
        message = _not_available(requested, "cpu") if requested else _start_failure(error)
        raise UserError(message) from error
    finally:
        log.setLevel(level)
    if requested is not None and used != requested:
        raise UserError(_not_available(requested, used))
    return Device(
        kind=first.device_kind,
        platform=used,
        count=jax.device_count(),
        cores=cores(),
        versions={
            "twostage_jax": __version__,
            "jax": jax.__version__,
            "Python": platform.python_version(),
        },
        note=_unused_gpu() if used == "cpu" and requested is None else None,
    )


def _select(requested: str | None) -> None:
    """Let `requested` override the environment variables that choose a platform."""
    if requested is None:
        return
    first = _configured().split(",")[0]
    if first and first not in _PLATFORMS[requested]:
        # jax then prefers an accelerator and falls back to the CPU, which is noticed.
        jax.config.update("jax_platforms", None)
        jax.config.update("jax_platform_name", "")
    if requested == "cpu":
        jax.config.update("jax_platforms", "cpu")


def _configured() -> str:
    """Return the platforms that the user has chosen for jax; empty if there is no choice."""
    return setting("jax_platforms") or setting("jax_platform_name") or ""


def _start_failure(error: Exception) -> str:
    """Return why jax does not start, for a platform that no flag has chosen."""
    configured = _configured()
    if not configured:
        return (
            f"jax cannot start on this machine: {_cause(error)}; give --device cpu to run "
            "without an accelerator"
        )
    variable = "JAX_PLATFORMS" if setting("jax_platforms") else "JAX_PLATFORM_NAME"
    platforms = sorted({name for names in _PLATFORMS.values() for name in names})
    unknown = [name for name in configured.split(",") if name not in platforms]
    if unknown and "known backends" in str(error):
        hint = did_you_mean(unknown[0], platforms)
        return f"{variable} has the unknown platform {shown(unknown[0])}: {hint}"
    asked = configured.split(",")[0]
    wanted = next((device for device, names in _PLATFORMS.items() if asked in names), None)
    reason = _why_missing(wanted) if wanted in _INSTALL else _cause(error)
    return f"{variable} is {configured!r}, but {reason}; or unset {variable}"


def _why_missing(device: str) -> str:
    """Return why jax does not use this accelerator, with the next step."""
    install = f"install it with {_INSTALL[device]}"
    if device == "tpu":
        return f"jax finds no TPU ({_failure('tpu')}): {install}"
    if _hidden():
        return "CUDA_VISIBLE_DEVICES hides every GPU from it: unset CUDA_VISIBLE_DEVICES"
    if _has_cuda_plugin() and _has_nvidia_gpu():
        return f"jax cannot start the GPU ({_failure('cuda')}): {install}, or update its driver"
    if _has_cuda_plugin():
        return "this machine shows no NVIDIA GPU: use a machine with one"
    machine = "" if _has_nvidia_gpu() else ", and this machine shows no NVIDIA GPU"
    return f"jax is installed without GPU support{machine}: {install}"


def _failure(platform_name: str) -> str:
    """Return why a platform does not start, in jax's words."""
    try:
        jax.devices(platform_name)
    except Exception as error:
        return _cause(error)
    return "the reason is unknown"


def _cause(error: Exception) -> str:
    """Return jax's words for a failure, without its advice."""
    text = " ".join(str(error).split())
    text = re.sub(r" \((?:set JAX_PLATFORMS|you may need to).*", "", text)
    return text[:300].rstrip(". ") or "no such device"


def _not_available(requested: str, used: str) -> str:
    """Return why jax uses another device than the requested one, with the next step."""
    if requested in _INSTALL:
        return f"--device {requested}, but {_why_missing(requested)}; or give --device cpu"
    return (
        f"--device {requested}, but jax already uses the {used} in this process: ask for the "
        f"{requested} before jax is first used, or set JAX_PLATFORMS={requested}"
    )


def _unused_gpu() -> str | None:
    """Return advice if the machine has an NVIDIA GPU although jax uses the CPU; else None."""
    on_purpose = _configured().split(",")[0] == "cpu"
    if on_purpose or _hidden() or not _has_nvidia_gpu():
        return None
    return f"this machine has an NVIDIA GPU, but {_why_missing('gpu')}; or give --device cpu"


def _has_nvidia_gpu() -> bool:
    """Return True if the system has an NVIDIA GPU or the tool of its driver."""
    devices = [*Path("/dev").glob("nvidia[0-9]*"), *Path("/proc/driver/nvidia/gpus").glob("*")]
    return bool(devices) or shutil.which("nvidia-smi") is not None


def _hidden() -> bool:
    """Return True if the user hides all GPUs from CUDA."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1", "NoDevFiles")


def _has_cuda_plugin() -> bool:
    names = [f"jax_cuda{number}_plugin" for number in (12, 13, 14)]
    return any(importlib.util.find_spec(name) is not None for name in names)


def _check_xla_flags() -> None:
    """Raise `UserError` if XLA would end this process because of its flags.

    They are first read in a separate process, which takes a fifth of a second.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if _KNOWN_FLAGS.fullmatch(flags):
        return
    code = "from jaxlib import xla_client; xla_client.CompileOptions()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode == 0:
        return
    message = _XLA_MESSAGE.search(done.stderr)
    reason = message.group() if message else "XLA cannot read them"
    raise UserError(f"XLA_FLAGS is {shown(flags)}: {reason}; correct or unset XLA_FLAGS")

"""Machine of a benchmark: its processor, and the load of other processes."""

import contextlib
import os
import platform
import resource
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from twostage_jax.bench.records import Machine

CPUINFO = Path("/proc/cpuinfo")
STAT = Path("/proc/stat")
BUSY = ("user", "nice", "system", "irq", "softirq", "steal")
STAT_FIELDS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")


class Usage(NamedTuple):
    """Processor time at one moment; differences of two give the load between them."""

    clock: float  # seconds
    ours: float  # seconds of this process and of those that it has waited for
    busy: float | None  # seconds of all processes since the start; None if the system hides them
    cores: int


def usage() -> Usage:
    """Read the processor time up to now."""
    ours = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        times = resource.getrusage(who)
        ours += times.ru_utime + times.ru_stime
    busy = None
    with contextlib.suppress(OSError, ValueError):  # Linux only
        busy = busy_seconds(STAT.read_text(), os.sysconf("SC_CLK_TCK"))
    return Usage(time.monotonic(), ours, busy, os.cpu_count() or 1)


def busy_seconds(text: str, ticks: int) -> float | None:
    """Add up the busy seconds of all processors in the text of `/proc/stat`.

    Time that the host gave to other machines (`steal`) counts as busy. Returns None for zeros, with
    which some containers fill the file.

    >>> from twostage_jax.bench.machine import busy_seconds
    >>> busy_seconds("cpu  500 0 100 9000 30 0 0 100 0 0", 100)
    7.0
    """
    values = map(int, text.split("\n", 1)[0].split()[1:])
    fields = dict(zip(STAT_FIELDS, values, strict=False))
    return sum(fields.get(name, 0) for name in BUSY) / ticks or None


def load_between(before: Usage, after: Usage) -> float | None:
    """Percentage of the processors that other processes used between two moments.

    Returns None if the system does not tell.

    >>> from twostage_jax.bench.machine import Usage, load_between
    >>> load_between(Usage(0.0, 1.0, 5.0, 2), Usage(10.0, 11.0, 20.0, 2))
    25.0
    """
    available = (after.clock - before.clock) * after.cores
    if before.busy is None or after.busy is None or available <= 0:
        return None
    rest = (after.busy - before.busy) - (after.ours - before.ours)
    # The two clocks are rounded, so a quiet machine can give a little less than zero.
    return 100 * min(max(rest / available, 0.0), 1.0)


def load_average() -> float | None:
    """Return the load average of the last minute; None if the system has none."""
    with contextlib.suppress(OSError):
        return os.getloadavg()[0]
    return None


def describe(device: str) -> Machine:
    """Describe this machine; `device` is the name that jax gives to its device."""
    values: Mapping[str, str] = {}
    with contextlib.suppress(OSError):  # Linux only
        values = cpuinfo(CPUINFO.read_text())
    name = values.get("model name") or platform.processor() or platform.machine()
    # Virtual machines often hide the model in the name; its numbers are there all the same.
    if "cpu family" in values and "model" in values:
        name += f", family {values['cpu family']} model {values['model']}"
    frequency = values.get("cpu MHz")
    return {
        "cpu": name,
        "mhz": float(frequency) if frequency else None,
        "cores": os.cpu_count(),
        "device": device,
        "load": load_average(),
    }


def cpuinfo(text: str) -> dict[str, str]:
    """Read the first processor in the text of `/proc/cpuinfo`.

    >>> from twostage_jax.bench.machine import cpuinfo
    >>> cpuinfo("model name\\t: EPYC\\ncpu MHz\\t: 2245.7\\n\\nmodel name\\t: other")
    {'model name': 'EPYC', 'cpu MHz': '2245.7'}
    """
    pairs = (line.partition(":") for line in text.split("\n\n", 1)[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}

"""Flags that several commands share; the strings under the fields are their help."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from twostage_jax.config.fields import SWITCH, as_path, flag

FROM = tyro.conf.arg(name="from", metavar="RUN", help_behavior_hint="(default: none)")


@dataclass(frozen=True)
class Debug:
    """Flags of every command."""

    debug: Annotated[bool, SWITCH] = False
    """Show the full traceback on an error"""

    def __post_init__(self) -> None:
        """Expand `~` in every path, then convert the fields of a configuration into one form."""
        for name, value in vars(self).items():
            if isinstance(value, Path):
                # The dataclass is frozen, and this is its initialisation.
                object.__setattr__(self, name, as_path(value))
        settings = getattr(super(), "__post_init__", None)
        if settings is not None:
            settings()


@dataclass(frozen=True)
class Loading(Debug):
    """Flags of every command that computes."""

    trust_code: Annotated[bool, SWITCH] = False
    """Import the code that the config of an earlier run names"""
    compile_cache: Annotated[str | None, flag("DIR", "twostage_jax in the user's cache folder")] = (
        None
    )
    """Folder for compiled programs, so that the next start is faster; off disables it"""
    device: Annotated[
        Literal["cpu", "gpu", "tpu"] | None, flag("NAME", "the fastest available")
    ] = None
    """Device to use: cpu, gpu or tpu; the command stops if it is not available"""

"""The command `twostage report`; the strings under the fields are their help."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from twostage_jax.config.fields import flag
from twostage_jax.config.flags import Debug
from twostage_jax.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Report(Debug):
    """Rebuild the page report.html of a run, or write a page that compares several runs."""

    runs: Annotated[
        tyro.conf.Positional[tuple[Path, ...]],
        tyro.conf.arg(metavar="RUN...", help_behavior_hint="(required)"),
    ]
    """Folder of the run; with several folders, the page compares these runs"""
    out: Annotated[
        Path | None, flag("FILE", "RUN/report.html; comparison.html for several runs")
    ] = None
    """File to write"""
    study: Annotated[Path | None, flag("DIR", "the newest beside the run with its encoder")] = None
    """Folder of a label study that used the run's encoder; the page begins with its answer"""


def check_report(command: Report) -> None:
    """Check the flags of `twostage report`.

    Raises:
        UserError: no run, a run given twice, or a study of several runs.
    """
    if not command.runs:
        raise UserError("report needs the folder of a run: twostage report RUN")
    folders = [path.expanduser().absolute() for path in command.runs]
    if len(set(folders)) < len(folders):
        raise UserError("report got a run twice: give each run once")
    if command.study and len(folders) > 1:
        raise UserError("--study goes with one run, but several runs are compared: leave it out")

"""Input of the function of a study, and the type of its results."""

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from twostage_jax.config.studies import Study
from twostage_jax.runs.study.cells import Cells
from twostage_jax.runs.study.folder import Values as Values
from twostage_jax.runs.study.sources import Source
from twostage_jax.show.terminal import Terminal

Options = TypeVar("Options", bound=Study)


@dataclass(frozen=True, eq=False)
class Context(Generic[Options]):
    """Input of the function of a study.

    Attributes:
        study: options; those that are not given are None.
        source: data, encoder and features.
        folder: folder of the study.
        cells: parts that are computed once and kept.
        terminal: where to print.
    """

    study: Options
    source: Source
    folder: Path
    cells: Cells
    terminal: Terminal

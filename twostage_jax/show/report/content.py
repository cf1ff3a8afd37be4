"""Everything that the page of a run is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

import numpy as np

from twostage_jax.show.epochs import Record


@dataclass(frozen=True)
class Study:
    """A study of labels that used the run's encoder.

    Attributes:
        name: name of its folder.
        results: its results, from `study.json`.
    """

    name: str
    results: Record


@dataclass(frozen=True)
class Content:
    """Files of a run's folder. Data that a run lacks is None or empty, and its section is left out.

    Attributes:
        folder: folder of the run, as commands name it.
        manifest: `store.Manifest`.
        result: `runs.ResultRecord`.
        epochs: `store.EpochRecord` of both stages.
        arrays: pictures, points and bins of `report.npz`; see `runs.material`.
        tables: content of csv files by name (`duplicates`, `broken`); the first row has the names.
        study: study of labels that used the encoder.
    """

    folder: str
    manifest: Record
    result: Record = None
    epochs: Sequence[Record] = ()
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    tables: Mapping[str, Sequence[Sequence[str]]] = field(default_factory=dict)
    study: Study | None = None

    def has(self, prefix: str, *names: str) -> bool:
        """Return True if the arrays `PREFIX_NAME` are there; an older version wrote fewer."""
        return all(f"{prefix}_{name}" in self.arrays for name in names)

    @property
    def name(self) -> str:
        """Name of the run: that of its folder."""
        return PurePath(self.folder).name or self.folder

    @property
    def classes(self) -> Sequence[str]:
        """Names of the K classes."""
        return self.manifest.classes

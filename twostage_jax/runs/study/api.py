"""Label studies from Python, and their result as arrays and figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from twostage_jax.config.groups import PretrainConfig
from twostage_jax.config.studies import LabelStudy
from twostage_jax.data.npz import read_archive
from twostage_jax.errors import UserError, did_you_mean
from twostage_jax.reprs import Rows, html_table, text_table
from twostage_jax.runs.study.cells import cell_name
from twostage_jax.runs.study.context import Values
from twostage_jax.runs.study.folder import read_study
from twostage_jax.runs.study.labels import PREDICTIONS
from twostage_jax.runs.study.start import run_study
from twostage_jax.show.study import percent
from twostage_jax.show.terminal import Terminal

LINES = 11  # number of arms in a printed result


@dataclass(frozen=True, eq=False, repr=False)
class StudyResult:
    """Result of a study: its folder, and the content of `study.json`.

    Attributes:
        folder: folder of the study.
        record: content of `study.json`; `record["results"]` has the figures.

    >>> import twostage_jax as ts
    >>> record = {"results": {"headline": "…", "arms": [], "counts": [10], "table": []}}
    >>> ts.StudyResult(Path("runs/study"), record).headline
    '…'
    """

    folder: Path
    record: Values

    @property
    def headline(self) -> str:
        """Answer of the study, in words."""
        return self.record["results"]["headline"]

    @property
    def table(self) -> list[Values]:
        """Figures of each arm and number of labels, as in `table.csv`."""
        return self.record["results"]["table"]

    def predictions(self, arm: str, count: int) -> dict[str, np.ndarray]:
        """Return `predicted` `[R, T]`, `label` and `index` `[T]`, and `labelled` `[R, n]`.

        Raises:
            UserError: an arm or number of labels that the study does not have.
        """
        results = self.record["results"]
        if arm not in results["arms"] or count not in results["counts"]:
            choices = [f"{name} with {n}" for name in results["arms"] for n in results["counts"]]
            raise UserError(f"no {arm} with {count} labels: {did_you_mean(arm, choices)}")
        name = f"{cell_name(arm)}-{count}.npz"
        return dict(read_archive(self.folder / PREDICTIONS / name))

    def errors(self, arm: str, count: int) -> np.ndarray:
        """Return the test error of each draw, float64 `[R]`, from the saved predictions."""
        arrays = self.predictions(arm, count)
        return (arrays["predicted"] != arrays["label"][None]).mean(1)

    def __repr__(self) -> str:
        """Return the headline and a line with the errors of each arm."""
        return text_table(f"StudyResult in {self.folder}", self._rows())

    def _repr_html_(self) -> str:
        return html_table(f"StudyResult in {self.folder}", self._rows())

    def _rows(self) -> Rows:
        results = self.record["results"]
        means = {(x["arm"], x["labels"]): percent(x["mean"]) for x in results["table"]}
        counts = results["counts"]
        rows = [("answer", results["headline"]), ("labels", ", ".join(map(str, counts)))]
        for name in results["arms"][:LINES]:
            rows.append((name, ", ".join(means[name, count] for count in counts)))
        more = len(results["arms"]) - LINES
        return [*rows, ("…", f"{more} more arms in .table")] if more > 0 else rows


def study_labels(
    run: Path | str | None = None,
    *,
    data: str | None = None,
    out: Path | str | None = None,
    counts: Sequence[int | str] | str | None = None,
    draws: int | None = None,
    arms: Sequence[str] | str | None = None,
    protocols: Sequence[str] | str | None = None,
    select: str | None = None,
    seed: int | None = None,
    validation: int | None = None,
    preset: str | None = None,
    pretrain: PretrainConfig | None = None,
    resume: bool = False,
    trust_code: bool = False,
    device: str | None = None,
    terminal: Terminal | None = None,
) -> StudyResult:
    """Measure the error for several numbers of labels, as `twostage study labels` does.

    Args:
        run: folder of the run whose encoder is used; without it, the study trains an encoder first.
        data: source; by default that of the run, or `digits`.
        out: folder of the study; by default a new one below `runs`.
        counts: numbers of labels; `all` is the whole train split.
        draws: draws of labels for each number, 20 by default.
        arms: `frozen`, `random`, `pixels`, `pca`, `supervised`, `finetuned`, `features:FILE`; a
            protocol can follow, as in `frozen:knn`. By default all arms but `features:FILE`.
        protocols: heads of arms without a protocol; by default `propagate` and `ridge`.
        select: `draw` (the default) or `validation`: the labels that choose a head's strength.
        seed: seed of the first draw; draw r has `seed + r`.
        validation: validation examples, as for `ts.Config`.
        preset: preset of the pretraining, if no run is given.
        pretrain: stage 1, if no run is given.
        resume: resume the study in `out`.
        trust_code: allow the import of code that the run's config names.
        device: `cpu`, `gpu` or `tpu`; by default jax chooses.
        terminal: where to print; `Terminal(quiet=True)` prints nothing.

    Raises:
        UserError: options that are malformed or do not fit the data, the run or the folder.

    >>> import twostage_jax as ts
    >>> from twostage_jax.show.terminal import Terminal
    >>> pretrain = ts.PretrainConfig(epochs=1)
    >>> options = {"counts": [10, 20], "draws": 2, "arms": ["frozen:knn", "pixels:knn"]}
    >>> result = ts.study_labels(pretrain=pretrain, terminal=Terminal(quiet=True), **options)
    >>> result.errors("frozen:knn", 20).shape
    (2,)
    """
    study = LabelStudy(
        from_=None if run is None else Path(run).expanduser(),
        data=data,  # pyright: ignore[reportArgumentType]
        out=None if out is None else Path(out),
        counts=counts,  # pyright: ignore[reportArgumentType]
        draws=draws,  # pyright: ignore[reportArgumentType]
        arms=arms,  # pyright: ignore[reportArgumentType]
        protocols=protocols,  # pyright: ignore[reportArgumentType]
        select=select,  # pyright: ignore[reportArgumentType]
        seed=seed,  # pyright: ignore[reportArgumentType]
        validation=validation,  # pyright: ignore[reportArgumentType]
        preset=preset,  # pyright: ignore[reportArgumentType]
        pretrain=pretrain or PretrainConfig(),
        resume=resume,
        trust_code=trust_code,
        device=device,  # pyright: ignore[reportArgumentType]
    )
    folder, record = run_study(study, terminal or Terminal())
    return StudyResult(folder, record)


def open_study(folder: Path | str) -> StudyResult:
    """Open a finished study.

    Raises:
        UserError: a folder without a study, or with one that is not complete.
    """
    folder = Path(folder).expanduser()
    record = read_study(folder)
    if not record.get("complete"):
        raise UserError(
            f"{folder} is not complete: resume it with twostage study {record.get('study')} "
            f"--resume --out {folder}"
        )
    return StudyResult(folder, record)

"""Result of a run: `result.json` as dataclasses, and the object that `ts.run` returns."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twostage_jax.reprs import Rows, html_table, text_table
from twostage_jax.scores.figures import MemberScores, Scores, Summary, Uncertainty
from twostage_jax.scores.groups import GroupSummary
from twostage_jax.scores.sweep import SweepRecord
from twostage_jax.stages.stage import Params
from twostage_jax.store.records import FrozenRecord, PretrainRecord, Rejection


@dataclass(frozen=True)
class DataSizes:
    """Data of a run.

    Attributes:
        name: short name of the data set.
        train: training examples with a label in the source.
        validation: validation examples.
        test: test examples.
        labelled: labelled examples of one trial.
        unlabelled: images of stage 1 without a label.
        classes: number of classes.
        fingerprint: digest of the source's examples.
        noise: share of the chosen trials' labels that were flipped.
    """

    name: str
    train: int
    validation: int
    test: int
    labelled: int
    unlabelled: int
    classes: int
    fingerprint: str
    noise: float


@dataclass(frozen=True)
class HeadRecord:
    """Outcome of stage 2.

    Attributes:
        protocol: name of the head.
        epochs: number of epochs; 0 for a head that is solved.
        loss: mean loss of the last epoch; None without epochs.
        encode: `once` or `loop`, the use of the encoder.
        settings: values of the head's options and numbers that are not swept, by name.
    """

    protocol: str
    epochs: int
    loss: float | None
    encode: str
    settings: dict[str, object] | None = None


@dataclass(frozen=True)
class EnsembleRecord:
    """Members of the chosen ensemble, and members that diverged.

    Attributes:
        rows: numbers of the chosen trials.
        seeds: seed of each.
        encoders: number of different encoders among them.
        diverged: names of the trials that diverged.
    """

    rows: list[int]
    seeds: list[int]
    encoders: int
    diverged: list[str]

    def __post_init__(self) -> None:
        """Check that the rows are sorted and distinct."""
        if not self.rows or self.rows != sorted(set(self.rows)) or self.rows[0] < 0:
            raise ValueError("the rows of the ensemble are not sorted, distinct trial numbers")


@dataclass(frozen=True)
class Environment:
    """Software and hardware of a run."""

    python: str
    jax: str
    device: str
    devices: int
    processes: int


@dataclass(frozen=True)
class DuplicatePairs:
    """Images of one split that have a copy in an earlier split.

    Attributes:
        earlier: split with the copies.
        later: the other split.
        identical: number of images with a copy of identical pixels.
        near: number of images with a nearly identical copy.
        relabelled: number of them with another label than their copy; None without labels.
        rows: rows of the first 100 copies and images in the source, `[copy, image]`. All are in
            `duplicates.csv`.
    """

    earlier: str
    later: str
    identical: int
    near: int
    relabelled: int | None
    rows: list[list[int]]


@dataclass(frozen=True)
class DuplicatesRecord:
    """Copies of test and validation images in earlier splits.

    Attributes:
        near: True if nearly identical images were searched too.
        pairs: pairs of splits with copies.
        affected: number of test images that have a copy.
        test_without: scores on the other test images; None if all or none have a copy.
        reason: sentence that says why only identical images were searched.
    """

    near: bool
    pairs: list[DuplicatePairs]
    affected: int
    test_without: Scores | None = None
    reason: str | None = None


@dataclass(frozen=True)
class ResultRecord:
    """Content of `result.json`.

    Attributes:
        schema: version of this layout.
        data: sizes and identity of the data.
        pretrain: outcome of stage 1.
        head: outcome of stage 2.
        frozen: proof that the encoder did not change, or its digests if stage 2 trains it.
        validation: scores of the ensemble on validation.
        test: its scores on test.
        member_validation: scores of each member on validation.
        member_test: scores of each member on test.
        summary: spread of the members on test, and the gain of the ensemble.
        uncertainty: calibration, entropy and prediction sets on test.
        ensemble: chosen trials.
        members: number of members that were asked for.
        test_reads: number of times that the test split was read.
        seconds: seconds of each phase.
        environment: software and hardware.
        sweep: points of the sweep, if there is one.
        transductive: scores of the ensemble on the training images whose labels no chosen trial
            used, for a head that labels them (`Head.transduce`). The head has seen these images, so
            the scores are not those of new images (`test`).
        member_transductive: the same for each member, on the images without a label in that member.
        transductive_note: reason for missing transductive scores of such a head.
        duplicates: copies of test and validation images in earlier splits.
        rejection: threshold that rejects images of no class; None if validation is too small.
        groups: errors by group on test; None if the images have no groups.
    """

    schema: int
    data: DataSizes
    pretrain: PretrainRecord
    head: HeadRecord
    frozen: FrozenRecord
    validation: Scores
    test: Scores
    member_validation: MemberScores
    member_test: MemberScores
    summary: Summary
    uncertainty: Uncertainty
    ensemble: EnsembleRecord
    members: int
    test_reads: int
    seconds: dict[str, float]
    environment: Environment
    sweep: SweepRecord | None = None
    transductive: Scores | None = None
    member_transductive: MemberScores | None = None
    transductive_note: str | None = None
    duplicates: DuplicatesRecord | None = None
    rejection: Rejection | None = None
    groups: GroupSummary | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Result(Mapping[str, Any]):
    """Result of a run: its folder, its figures and its parameters.

    A result is also a mapping, with the content of `record`: `result["test"]["accuracy"]`.
    `ts.open_run(folder)` opens the run, to predict with it.

    Attributes:
        folder: folder of the run.
        record: content of `result.json`; empty after stage 1 alone.
        params: groups of both stages, such as `encoder`, `decoder` and `head`, of the members
            `[M, ...]` if there are several; after stage 1 alone, its groups.

    >>> import twostage_jax as ts
    >>> scores = {"accuracy": 0.97, "nll": 0.1, "count": 360}
    >>> ts.Result(Path("runs/a"), {"test": scores}, {})
    Result in runs/a
      test  accuracy 0.9700, nll 0.1000 (360 examples)
    """

    folder: Path
    record: dict[str, Any]
    params: Params

    def __getitem__(self, name: str) -> Any:
        """Return an entry of `record`."""
        return self.record[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the entries of `record`."""
        return iter(self.record)

    def __len__(self) -> int:
        """Return the number of entries of `record`."""
        return len(self.record)

    def __bool__(self) -> bool:
        """Return True, also for a result without figures."""
        return True

    def __repr__(self) -> str:
        """Return the folder, the stages and the scores, in a few lines."""
        return text_table(f"Result in {self.folder}", record_rows(self.record))

    def _repr_html_(self) -> str:
        return html_table(f"Result in {self.folder}", record_rows(self.record))


def record_rows(record: Mapping[str, Any]) -> Rows:
    """Return the rows that describe the content of `result.json`; parts may be missing."""
    rows = []
    if "data" in record:
        data = record["data"]
        rows.append(("data", f"{data['name']}, {data['classes']} classes"))
        labelled = f"{data['labelled']:,} with a label, {data['unlabelled']:,} without"
        rows.append(("trained on", labelled))
    if "pretrain" in record:
        rows.append(("stage 1", stage_text("objective", record["pretrain"])))
    if "head" in record:
        rows.append(("stage 2", stage_text("protocol", record["head"])))
    if record.get("members", 1) > 1:
        rows.append(("members", f"{len(record['ensemble']['rows'])} of {record['members']}"))
    for split in ("validation", "transductive", "test"):
        if split in record:
            rows.append((split, _scores_text(record[split])))
    if "seconds" in record:
        rows.append(("seconds", f"{record['seconds']['total']:.1f}"))
    return rows or [("stage 1", "trained; there is no stage 2, so there are no scores")]


def stage_text(kind: str, stage: Mapping[str, Any]) -> str:
    """Return `autoencoder, 20 epochs, loss 0.0018`; `kind` is `objective` or `protocol`."""
    epochs = stage["epochs"]
    text = f"{stage[kind]}, {epochs} epoch{'' if epochs == 1 else 's'}"
    if stage["loss"] is not None:
        text += f", loss {stage['loss']:.4f}"
    # Only stage 1 has this key. Labels are an exception there.
    return f"{text}; used {stage['labels']:,} labels" if stage.get("labels") else text


def _scores_text(scores: Mapping[str, Any]) -> str:
    if scores["accuracy"] is None:
        return f"no scores ({scores['count']:,} examples)"
    return (
        f"accuracy {scores['accuracy']:.4f}, nll {scores['nll']:.4f} ({scores['count']:,} examples)"
    )

"""`result.json` as dataclasses."""

from dataclasses import dataclass

from twostage_jax.scores.figures import MemberScores, Scores, Summary, SweepRecord, Uncertainty
from twostage_jax.store.records import FrozenRecord, PretrainRecord


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
    """

    protocol: str
    epochs: int
    loss: float | None
    encode: str


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
class ResultRecord:
    """Content of `result.json`.

    Attributes:
        schema: version of this layout.
        data: sizes and identity of the data.
        pretrain: outcome of stage 1.
        head: outcome of stage 2.
        frozen: proof that the encoder did not change.
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

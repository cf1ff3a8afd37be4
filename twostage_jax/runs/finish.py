"""The end of a run: the choice of a point on validation, and its measurement on test."""

import dataclasses
import platform
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from twostage_jax.config.sweep import grid, swept
from twostage_jax.data.dataset import Lockbox
from twostage_jax.data.split import Split
from twostage_jax.engine.passes import Pass, apply_pass
from twostage_jax.engine.predictor import Predictor
from twostage_jax.errors import UserError
from twostage_jax.runs.duplicates import duplicates_files, duplicates_record
from twostage_jax.runs.gaussians import gaussians_file
from twostage_jax.runs.handover import (
    chosen_groups,
    chosen_pretrained,
    chosen_probability,
    head_axes,
)
from twostage_jax.runs.plan import Plan
from twostage_jax.runs.programs import RunPrograms
from twostage_jax.runs.rejection import (
    fit_rejection,
    make_features,
    measure_rejection,
)
from twostage_jax.runs.result import (
    DataSizes,
    EnsembleRecord,
    Environment,
    HeadRecord,
    ResultRecord,
)
from twostage_jax.runs.transductive import transductive_fields
from twostage_jax.runs.trials import Trials
from twostage_jax.runs.watch import pretrain_record
from twostage_jax.scores.detection import mean_probability
from twostage_jax.scores.figures import (
    MemberScores,
    Scores,
    assess,
    compute_scores,
    member_scores,
    prediction_file,
    probabilities,
)
from twostage_jax.scores.groups import GroupSummary, summarise_groups
from twostage_jax.scores.sweep import SweepPoint, SweepRecord, choose_point
from twostage_jax.show.plots import plot_sweep
from twostage_jax.stages.stage import Params
from twostage_jax.store.epochs import EpochRecord, last_loss
from twostage_jax.store.records import FrozenRecord, PretrainRecord

SWEEP_PLOT = "sweep.png"
PREDICTIONS = {
    "validation": "predictions-validation.npz",
    "test": "predictions-test.npz",
}
Reconstruction = Callable[[np.ndarray], float | None]
REMEDY = "try a smaller --head.learning-rate"


class Trained(NamedTuple):
    """Outcome of both stages.

    Attributes:
        params: groups of stage 2 of all trials.
        pretrained: groups `[E, ...]` of stage 1.
        finite: bool `[R]`, True for trials that have not diverged in either stage.
        pretrain: record of stage 1.
        frozen: proof that the encoder did not change.
        records: records of all epochs, by stage.
    """

    params: Params
    pretrained: Params
    finite: np.ndarray
    pretrain: PretrainRecord
    frozen: FrozenRecord
    records: dict[str, Sequence[EpochRecord]]


class Finished(NamedTuple):
    """Everything that a finished run writes.

    Attributes:
        record: content of `result.json`, without seconds.
        params: groups of the chosen trials, as users see them.
        files: content of other files, by name.
        test: examples of the test split.
        probability: mean probabilities `[N, K]` of the chosen trials on test.
        predictor: encoders and heads of the chosen trials.
    """

    record: ResultRecord
    params: Params
    files: dict[str, bytes]
    test: Split
    probability: np.ndarray
    predictor: Predictor


def finish_run(
    plan: Plan, programs: RunPrograms, trained: Trained, lockbox: Lockbox, test_reads: int
) -> Finished:
    """Choose on validation, then measure on test.

    Args:
        plan: the run.
        programs: compiled.
        trained: outcome of both stages.
        lockbox: the test split; the caller has recorded that it is read.
        test_reads: number of times that it was read, including this one.

    Raises:
        UserError: if no output is finite.
    """
    validation = plan.dataset.validation
    # The test split stays locked until the choice is made.
    everybody = make_predictor(plan, programs, trained.params)
    logits = everybody.logits(validation["image"])
    held_out = probabilities(logits)
    scores = member_scores(held_out, validation["label"])
    finite = _finite_trials(logits, trained.finite)
    sweep, rows = _choose(plan, scores, finite)
    chosen = everybody.select(rows)
    files = {}
    if sweep is not None and len(validation["label"]):
        files[SWEEP_PLOT] = plot_sweep(sweep)
    features = make_features(plan, programs, trained.pretrained, chosen, rows)
    rejection = fit_rejection(plan, chosen, features, logits[rows], rows)
    test = lockbox.unlock()
    test_logits = chosen.logits(test["image"])
    if not np.isfinite(test_logits).all():
        raise UserError(f"the outputs of stage head on test are not finite; {REMEDY}")
    on_test = probabilities(test_logits)
    error = _reconstruction_error(plan, programs.reconstruct, trained, rows)
    assessment = assess(
        on_test,
        test["label"],
        (held_out[rows], validation["label"]),
        reconstruction=error(test["image"]),
    )
    record = ResultRecord(
        schema=1,
        data=_data_sizes(plan, rows, len(test["label"])),
        pretrain=_pretrain_record(plan, trained, rows),
        head=_head_record(plan, trained, rows),
        frozen=trained.frozen,
        validation=_validation_scores(held_out[rows], validation, error),
        test=assessment.scores,
        member_validation={n: [values[row] for row in rows] for n, values in scores.items()},
        member_test=assessment.members,
        summary=assessment.summary,
        uncertainty=assessment.uncertainty,
        ensemble=describe_ensemble(plan.trials, rows, finite),
        members=plan.config.members,
        test_reads=test_reads,
        seconds={},
        environment=_environment(),
        sweep=sweep,
        **transductive_fields(plan, chosen, rows),
        duplicates=duplicates_record(plan, mean_probability(on_test), test["label"]),
        groups=_group_summary(plan, mean_probability(on_test), test),
        rejection=rejection
        and measure_rejection(
            rejection, plan, chosen, features, test_logits, test, lockbox.outsiders
        ),
    )
    files |= gaussians_file(rejection.gaussians if rejection else ())
    files |= duplicates_files(plan, test)
    if plan.config.save_predictions:
        for split, values, label in (
            ("validation", held_out[rows], validation["label"]),
            ("test", on_test, test["label"]),
        ):
            visible = chosen_probability(values, plan.config.members)
            index = plan.dataset.rows[split]
            files[PREDICTIONS[split]] = prediction_file(visible, label, index)
    members = plan.config.members
    # All groups that `open_run` finds: the decoder too.
    groups = {
        **chosen_pretrained(trained.pretrained, plan.trials, rows, members),
        **chosen_groups(chosen.params, plan.trials, members),
    }
    return Finished(record, groups, files, test, mean_probability(on_test), chosen)


def make_predictor(plan: Plan, programs: RunPrograms, params: Params) -> Predictor:
    """Return a predictor of all trials."""
    return Predictor(
        plan.networks.network,
        plan.head_numbers,
        params,
        head_axes(plan.trials, params),
        plan.dataset.image_shape,
        max(len(plan.dataset.validation["label"]), plan.tested),
        programs.logits,
    )


def _finite_trials(logits: np.ndarray, finite: np.ndarray) -> np.ndarray:
    """Return a mask bool `[R]` of trials with finite logits on validation.

    Finite parameters can be so large that their outputs are not finite.

    Raises:
        UserError: if there is none.
    """
    finite = finite & np.isfinite(logits).all((1, 2))
    if not finite.any():
        raise UserError(f"stage head diverged: no trial has finite outputs; {REMEDY}")
    return finite


def _choose(
    plan: Plan, scores: MemberScores, finite: np.ndarray
) -> tuple[SweepRecord | None, np.ndarray]:
    """Return the record of the sweep if there is one, and the finite trials of its best point."""
    fields = swept(plan.config)
    with_scores = len(plan.dataset.validation["label"]) > 0
    points = []
    rows_of_points = []
    for number, values in enumerate(grid(fields)):
        rows = np.flatnonzero([trial.point == number for trial in plan.trials.heads] & finite)
        row_scores = {name: [x[row] for row in rows] for name, x in scores.items()}
        validation = row_scores if len(rows) and with_scores else None
        points.append(SweepPoint(values, len(rows), validation))
        rows_of_points.append(rows)
    best = choose_point(points)
    if not fields:
        return None, rows_of_points[best]
    values_of_fields = {name: list(values) for name, values in fields.items()}
    return SweepRecord(values_of_fields, points, best), rows_of_points[best]


def describe_ensemble(trials: Trials, rows: np.ndarray, finite: np.ndarray) -> EnsembleRecord:
    """Return the record of the chosen trials, and of those that diverged."""
    return EnsembleRecord(
        rows=[int(row) for row in rows],
        seeds=[trials.heads[row].seed for row in rows],
        encoders=len({trials.heads[row].encoder for row in rows}),
        diverged=[trials.heads[row].name for row in np.flatnonzero(~finite)],
    )


def _group_summary(plan: Plan, probability: np.ndarray, test: Split) -> GroupSummary | None:
    if "group" not in test:
        return None
    correct = probability.argmax(-1) == test["label"]
    return summarise_groups(correct, test["group"], plan.dataset.groups)


def _validation_scores(probability: np.ndarray, split: Split, error: Reconstruction) -> Scores:
    label = split["label"]
    if not len(label):
        return compute_scores(probability[0], label)
    return compute_scores(mean_probability(probability), label, error(split["image"]))


def _reconstruction_error(
    plan: Plan, program: Pass | None, trained: Trained, rows: np.ndarray
) -> Reconstruction:
    """Return a function of images: the mean squared error of the chosen trials' decoders."""
    if program is None:
        return lambda images: None
    # Each encoder once, however many heads it has.
    encoders = np.unique(plan.trials.encoder_numbers[rows])
    params = jax.tree.map(lambda leaf: leaf[encoders], jax.device_get(trained.pretrained))
    # Members that diverged are left out, so there may be fewer than the program was compiled for.
    placement = program.placement._replace(members=len(encoders))
    chosen = program._replace(placement=placement)

    def mean_error(images: np.ndarray) -> float:
        return float(apply_pass(chosen, params, images).mean(dtype=np.float64))

    return mean_error


def _data_sizes(plan: Plan, rows: np.ndarray, tested: int) -> DataSizes:
    dataset = plan.dataset
    train = len(dataset.train["label"])
    labelled = plan.examples.labelled
    noise = plan.trials.heads[rows[0]].values.get("noise", plan.config.noise)
    return DataSizes(
        name=dataset.name,
        train=train,
        validation=len(dataset.validation["label"]),
        test=tested,
        labelled=labelled,
        unlabelled=len(plan.examples.images) - labelled,
        classes=len(dataset.classes),
        fingerprint=dataset.fingerprint,
        noise=noise,
    )


def _pretrain_record(plan: Plan, trained: Trained, rows: np.ndarray) -> PretrainRecord:
    """Return the record of stage 1, with the loss of the chosen trials' encoders."""
    if plan.pretrained is not None:
        return trained.pretrain
    encoders = np.unique(plan.trials.encoder_numbers[rows]).tolist()
    records = trained.records["pretrain"]
    record = pretrain_record(
        plan.config, records, trained.pretrain.kept, plan.feature_count, encoders
    )
    # The same for all encoders.
    return dataclasses.replace(
        record, labels=trained.pretrain.labels, augmentation=trained.pretrain.augmentation
    )


def _head_record(plan: Plan, trained: Trained, rows: np.ndarray) -> HeadRecord:
    head = plan.config.head
    return HeadRecord(
        protocol=head.protocol,
        epochs=len(trained.records["head"]),  # a solved head has none
        loss=last_loss(trained.records["head"], rows.tolist()),
        encode="once" if plan.features_once else "loop",
        settings=plan.networks.head_settings or None,
    )


def _environment() -> Environment:
    return Environment(
        python=platform.python_version(),
        jax=jax.__version__,
        device=jax.devices()[0].device_kind,
        devices=jax.device_count(),
        processes=jax.process_count(),
    )

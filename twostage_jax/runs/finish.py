"""The end of a run: which point of a sweep is chosen, and what is measured of it on test."""

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from twostage_jax.config.schema import swept
from twostage_jax.config.sweep import grid
from twostage_jax.data.dataset import Lockbox
from twostage_jax.engine.predictor import Trained
from twostage_jax.errors import UserError
from twostage_jax.runs.open import choose_members
from twostage_jax.runs.programs import Job
from twostage_jax.runs.trials import Roster
from twostage_jax.scores.figures import (
    member_scores,
    predictions,
    probabilities,
    score,
    summary,
    uncertain,
)
from twostage_jax.show.plots import plot_sweep
from twostage_jax.stages.stage import Params
from twostage_jax.store import layout as folders

SWEEP_PLOT = "sweep.png"
SAVED = ("predictions-validation.npz", "predictions-test.npz")  # with --save-predictions
SMALLER = "try a smaller --head.learning-rate"


class Outcome(NamedTuple):
    """What the stages of a run have come to.

    Attributes:
        params: parameter groups.
        finite: bool `[R]`, which rows have not diverged in either stage.
        pretrain: what the manifest says of stage 1.
        frozen: proof that the encoder did not change.
        records: of all epochs, by stage.
    """

    params: Params
    finite: np.ndarray
    pretrain: dict[str, Any]
    frozen: dict[str, Any]
    records: Mapping[str, Sequence[Mapping[str, Any]]]


class Evaluated(NamedTuple):
    """What a run comes to.

    Attributes:
        record: what `result.json` is to hold.
        params: groups `encoder` and `head` that it is of.
        files: what other files are to hold, by name.
    """

    record: dict[str, Any]
    params: Params
    files: dict[str, bytes]


def evaluate_run(job: Job, outcome: Outcome, lockbox: Lockbox) -> Evaluated:
    """Choose on validation, then measure on test, which is read once.

    Raises:
        UserError: where nothing has come out that can be scored.
    """
    params, files = outcome.params, {}
    with job.terminal.phase("evaluate", "evaluating"):
        everybody = _everybody(job, params)
        held_out = everybody.logits(job.setting.dataset.validation["image"])
        each = member_scores(held_out, job.setting.dataset.validation["label"])
        finite = _scorable(job, held_out, each, outcome.finite)
        more: dict[str, Any] = {}
        rows, chosen = np.arange(1), everybody
        if not job.setting.roster.alone:
            sweep, rows = _choose(job, each, finite)
            more = {"ensemble": describe_rows(job.setting.roster, rows, finite), **sweep}
            chosen = choose_members(everybody.nets, everybody.params, rows, everybody.own_encoders)
            if sweep and len(job.setting.dataset.validation["label"]):
                files[SWEEP_PLOT] = plot_sweep(sweep["sweep"])
        record = _common(job, rows, outcome, lockbox.count) | more
        of_rows = {name: [values[row] for row in rows] for name, values in each.items()}
        measured, saved = _measure(job, chosen, held_out[rows], of_rows, lockbox)
    record |= measured | {"seconds": job.terminal.seconds}
    groups = {name: chosen.params[name] for name in ("encoder", "head")}
    return Evaluated(record, groups, files | saved)


def _scorable(
    job: Job, held_out: np.ndarray, each: Mapping[str, Any], finite: np.ndarray
) -> np.ndarray:
    """Which rows have finite logits and scores on validation, bool `[R]`.

    Finite parameters can be so large that nothing they give is.

    Raises:
        UserError: if there is none.
    """
    finite = finite & np.isfinite(held_out).all((1, 2))
    if held_out.shape[1]:
        finite &= np.isfinite(np.array(each["nll"], float))
    if not finite.any():
        who = "stage head" if job.setting.roster.alone else "all members"
        raise UserError(f"{who} diverged; {SMALLER}")
    return finite


def _everybody(job: Job, params: Params) -> Trained:
    if job.setting.roster.alone:
        return Trained(job.setting.nets, params)
    own = len(job.setting.roster.encoders) > 1
    return Trained(job.setting.nets, params, len(job.setting.roster.rows), own)


def _choose(
    job: Job, everybody: Mapping[str, Any], finite: np.ndarray
) -> tuple[dict[str, Any], np.ndarray]:
    """The sweep's record, and the rows of the chosen point that are finite.

    The point with the highest mean accuracy on validation is chosen, the one with the lowest mean
    NLL among equals. A point of which no member is finite cannot be.
    """
    roster, label = job.setting.roster, job.setting.dataset.validation["label"]
    fields = swept(job.setting.config)
    points = []
    for number, values in enumerate(grid(fields)):
        rows = np.array([i for i, r in enumerate(roster.rows) if r.point == number and finite[i]])
        known = len(rows) and len(label)
        scores = {n: [x[i] for i in rows] for n, x in everybody.items()} if known else None
        points.append({"values": values, "members": len(rows), "validation": scores})
    usable = [number for number, point in enumerate(points) if point["members"]]

    def merit(number: int) -> tuple[float, float]:
        scores = points[number]["validation"]
        return np.mean(scores["accuracy"]), -np.mean(scores["nll"])

    best = max(usable, key=merit) if len(points) > 1 else 0
    rows = np.array([i for i, r in enumerate(roster.rows) if r.point == best and finite[i]])
    if not fields:
        return {}, rows
    record = {
        "fields": {name: list(values) for name, values in fields.items()},
        "points": points,
        "chosen": best,
        "chosen_by": "highest mean accuracy of the members on validation, then lowest mean nll",
    }
    return {"sweep": record}, rows


def describe_rows(roster: Roster, rows: np.ndarray, finite: np.ndarray) -> dict[str, Any]:
    """Who is in the ensemble, and who diverged."""
    return {
        "rows": [int(i) for i in rows],
        "seeds": [roster.rows[i].seed for i in rows],
        "encoders": len({roster.rows[i].encoder for i in rows}),
        "diverged": [roster.rows[i].name for i in np.flatnonzero(~finite)],
    }


def _measure(
    job: Job, chosen: Trained, held_out: np.ndarray, each: Mapping[str, Any], lockbox: Lockbox
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Scores of what was chosen on validation and test, and files; all that reads the test part.

    Raises:
        UserError: scores on test that are not finite.
    """
    reads = _count_read(job.folder)
    validation, test = job.setting.dataset.validation, lockbox.unlock()
    logits = chosen.logits(test["image"])
    on_test = member_scores(logits, test["label"])
    if not np.isfinite(np.array(on_test["nll"], float)).all():
        raise UserError(f"the outputs of stage head on test are not finite; {SMALLER}")
    found: dict[str, Any] = {
        "validation": score(chosen, validation, held_out),
        "test": score(chosen, test, logits),
        "test_reads": reads,
    }
    if not job.setting.roster.alone:
        found["member_test"], found["member_validation"] = on_test, each
        found["summary"] = summary(found["member_test"], found["test"])
    some = len(validation["label"]) > 0
    found["uncertainty"] = uncertain(
        (probabilities(held_out), validation["label"]) if some else None,
        (probabilities(logits), test["label"]),
    )
    files = {}
    if job.setting.config.save_predictions:
        one = job.setting.config.members == 1
        for name, part, values in zip(SAVED, (validation, test), (held_out, logits), strict=True):
            files[name] = predictions(values, part["label"], one)
    return found, files


def _count_read(folder: Path) -> int:
    """Note in the manifest that the test part is read, before it is; how often that now was.

    A run that is taken up here measures the same again, which is no further look at it.
    """
    manifest = folders.read_json(folder, folders.MANIFEST)
    reads = max(1, manifest["test_reads"])
    folders.write_json(folder, folders.MANIFEST, {**manifest, "test_reads": reads})
    return reads


def _common(job: Job, rows: np.ndarray, outcome: Outcome, tested: int) -> dict[str, Any]:
    dataset, head = job.setting.dataset, job.setting.config.head
    roster = job.setting.roster
    encoders, pretrain = np.unique(roster.encoder_of[rows]), outcome.pretrain
    if job.setting.config.encoder_run is None:
        loss = folders.last_loss(outcome.records["pretrain"], encoders)
        pretrain = pretrain | {"loss": loss}
    counts = {part: len(getattr(dataset, part)["label"]) for part in ("train", "validation")}
    counts["test"] = tested
    return {
        "schema": 1,
        "data": {
            "name": dataset.name,
            **counts,
            "labelled": counts["train"],
            "classes": len(dataset.classes),
            "fingerprint": dataset.fingerprint,
            "noise": roster.rows[rows[0]].values.get("noise", job.setting.config.noise),
        },
        "pretrain": pretrain,
        "head": {
            "protocol": head.protocol,
            "epochs": head.epochs,
            "loss": folders.last_loss(outcome.records["head"], rows),
            "encode": head.encode,
        },
        "frozen": outcome.frozen,
        "members": job.setting.config.members,
        "environment": {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "device": jax.devices()[0].device_kind,
            "devices": jax.device_count(),
            "processes": jax.process_count(),
        },
    }

"""What a trained classifier, or an ensemble of them, is worth: predictions, and figures of them."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from twostage_jax.engine.passes import reconstruction
from twostage_jax.engine.predictor import Trained
from twostage_jax.scores import uncertainty
from twostage_jax.scores.metrics import per_class_accuracy, score_sums, scores

SCORES = ("accuracy", "nll", "ece", "brier")
COVERAGE = 0.95


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax of `[..., K]`, float32: what is saved, and what every figure of uncertainty is of."""
    return jax.device_get(jax.nn.softmax(jnp.asarray(logits, jnp.float32)))


def pooled(logits: np.ndarray) -> np.ndarray:
    """Log of the members' mean probability, `[N, K]` from logits `[M, N, K]`."""
    if len(logits) == 1:
        return logits[0]
    log_probability = jax.nn.log_softmax(jnp.asarray(logits))
    return jax.device_get(jax.nn.logsumexp(log_probability, axis=0) - np.log(len(logits)))


def figures(logits: np.ndarray, label: np.ndarray) -> dict[str, Any]:
    """Scores of logits `[N, K]` as `result.json` has them, None where there is no example.

    Accuracy, NLL, ECE, Brier and count of `metrics.scores`; accuracy per class; confusion counts
    `[K][K]` (row true, column predicted).
    """
    if not len(label):
        return dict.fromkeys(SCORES) | {"count": 0}
    found, each, confusion = jax.device_get(_figures(logits, label))
    result: dict[str, Any] = {name: plain(x) for name, x in found.items()}
    result["per_class_accuracy"] = [None if np.isnan(x) else plain(x) for x in each]
    result["confusion"] = np.asarray(confusion).astype(int).tolist()
    return result


@jax.jit
def _figures(logits: jax.Array, label: jax.Array) -> Any:
    sums = score_sums(logits, label, jnp.ones(label.shape, jnp.float32))
    return scores(sums), per_class_accuracy(sums.confusion), sums.confusion


def score(trained: Trained, split: Mapping[str, Any], logits: np.ndarray) -> dict[str, Any]:
    """`figures` of the classifier or the ensemble on a split.

    One classifier that can decode has `reconstruction` too, the mean squared error in [-1, 1].
    """
    result = figures(pooled(logits), split["label"])
    decode = trained.nets.decode
    if decode and "decoder" in trained.params and trained.members is None and result["count"]:
        split = jax.device_put(dict(split))
        result["reconstruction"] = plain(reconstruction(decode, trained.params, split))
    return result


def member_scores(logits: np.ndarray, label: np.ndarray) -> dict[str, list[float | None]]:
    """Scores of each member, `{"accuracy": [M values], …}`, from logits `[M, N, K]`."""
    each = [figures(one, label) for one in logits]
    return {name: [one[name] for one in each] for name in SCORES}


def summary(values: Mapping[str, Sequence[Any]], whole: Mapping[str, Any]) -> dict[str, Any]:
    """Members as mean, standard deviation and 95 % interval, and what the ensemble gains on them.

    Args:
        values: of `member_scores`.
        whole: scores of the ensemble.

    Returns:
        For each score `mean`, `std`, `low`, `high`, `ensemble` and `gain`, the ensemble's score
        less the mean; `fewer_errors` is the share of the mean member's errors that it avoids.
    """
    found: dict[str, Any] = {}
    for name in SCORES:
        spread = uncertainty.interval(np.array(values[name], float))
        found[name] = {**spread, "ensemble": whole[name], "gain": whole[name] - spread["mean"]}
    errors = 1 - found["accuracy"]["mean"]
    found["fewer_errors"] = found["accuracy"]["gain"] / errors if errors else None
    return found


def uncertain(
    validation: tuple[np.ndarray, np.ndarray] | None,
    test: tuple[np.ndarray, np.ndarray],
    coverage: float = COVERAGE,
) -> dict[str, Any]:
    """Figures of uncertainty on test, with what is fitted fitted on validation.

    Args:
        validation: probabilities `[M, N, K]` and labels `[N]`; None where there are no examples.
        test: the same.
        coverage: of the prediction sets, in (0, 1).

    Returns:
        `predictive_entropy` and `mutual_information` (means in nats, the latter for members),
        `aurc`; with a validation part `temperature`, the scores `calibrated` by it, and
        `conformal`, None where the part is too small for that coverage.
    """
    probability, label = test
    whole = uncertainty.pool(probability)
    found: dict[str, Any] = {
        "predictive_entropy": float(uncertainty.predictive_entropy(whole).mean()),
        "mutual_information": (
            float(uncertainty.mutual_information(probability).mean())
            if len(probability) > 1
            else None
        ),
        "aurc": uncertainty.aurc(whole, label),
        "temperature": None,
        "calibrated": None,
        "conformal": None,
    }
    if validation is None:
        return found
    held_out = uncertainty.pool(validation[0])
    temperature = uncertainty.fit_temperature(held_out, validation[1])
    found["temperature"] = temperature
    found["calibrated"] = uncertainty.scores(
        uncertainty.apply_temperature(whole, temperature), label
    )
    if len(validation[1]) >= uncertainty.needed_examples(coverage):
        found["conformal"] = uncertainty.conformal(held_out, validation[1], whole, label, coverage)
    return found


def detect(
    trained: Trained, train: Mapping[str, Any], inside: Any, outside: Any
) -> tuple[dict[str, dict[str, float]], dict[str, np.ndarray]]:
    """How well images of another source are told from one's own, by each score.

    Args:
        trained: the classifier or the ensemble.
        train: what the features' Gaussians are fitted on.
        inside: images of the run's own data, uint8 `[N, H, W, C]`.
        outside: images of the other source.

    Returns:
        `{score: {"auroc", "fpr95"}}`, and the scores themselves, `inside_SCORE` `[N]` and
        `outside_SCORE`; higher means further out.
    """
    gaussians = [
        uncertainty.fit_gaussians(features, train["label"])
        for features in trained.features(train["image"])
    ]
    found: dict[str, np.ndarray] = {}
    for part, images in (("inside", inside), ("outside", outside)):
        logits = trained.logits(images)
        probability = probabilities(logits)
        whole = uncertainty.pool(probability)
        found[f"{part}_maximum_probability"] = 1 - whole.max(-1)
        found[f"{part}_entropy"] = uncertainty.predictive_entropy(whole)
        found[f"{part}_energy"] = uncertainty.energy(logits)
        if len(probability) > 1:
            found[f"{part}_mutual_information"] = uncertainty.mutual_information(probability)
        distances = [
            uncertainty.mahalanobis(one, features)
            for one, features in zip(gaussians, trained.features(images), strict=True)
        ]
        found[f"{part}_mahalanobis"] = np.mean(distances, axis=0)
    names = [name.removeprefix("inside_") for name in found if name.startswith("inside_")]
    table = {
        name: uncertainty.detection(found[f"inside_{name}"], found[f"outside_{name}"])
        for name in names
    }
    return table, found


def predictions(logits: np.ndarray, label: np.ndarray, alone: bool) -> bytes:
    """An npz file: `probability` float32 `[N, K]`, or `[M, N, K]`; `label`, `index` `[N]`."""
    probability = probabilities(logits)
    arrays = {
        "probability": probability[0] if alone else probability,
        "label": np.int32(label),
        "index": np.arange(len(label), dtype=np.int32),
    }
    return as_npz(arrays)


def as_npz(arrays: Mapping[str, Any]) -> bytes:
    """An npz file of some arrays."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def plain(value: Any) -> int | float:
    """A scalar for JSON, with the digits that a float32 has: 0.9712, not 0.9711999893188477."""
    number = value.item()
    return float(f"{number:.7g}") if isinstance(number, float) else number

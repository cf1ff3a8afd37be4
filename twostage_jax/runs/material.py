"""Arrays of the page of a run: examples, their features, and bins of confidence.

They are written into `report.npz`, so that the page can be rebuilt without the data and without the
network. Images are small copies.
"""

from collections.abc import Callable
from functools import partial

import jax
import numpy as np

from twostage_jax.data.split import SPLIT_SEED, Split
from twostage_jax.engine.passes import apply_pass
from twostage_jax.runs.duplicates import duplicate_arrays
from twostage_jax.runs.finish import Finished
from twostage_jax.runs.handover import FROZEN
from twostage_jax.runs.pictures import Reconstructions, as_pixels, sample_rows
from twostage_jax.runs.plan import Plan
from twostage_jax.runs.programs import RunPrograms
from twostage_jax.runs.views import make_augment
from twostage_jax.scores.calibration import apply_temperature, reliability
from twostage_jax.show.mosaics import find_mistakes
from twostage_jax.show.report.images import thumbnail
from twostage_jax.stages.pretrain.two_views import two_views
from twostage_jax.stages.stage import Params, as_image, new_key

Arrays = dict[str, np.ndarray]
Features = Callable[[np.ndarray], np.ndarray]  # images [N, H, W, C] -> features [N, D]
MAPPED = 1500  # points of the map
SEARCHED = 10_000  # training images among which neighbours are searched
QUERIES = 10  # test images with their neighbours
NEAREST = 5
UNCERTAIN = 12
VIEWED = 8


def first_material(
    plan: Plan, pretrained: Params, reconstructions: Reconstructions | None, split: Split
) -> Arrays:
    """Return the arrays of a run of stage 1 alone: reconstructions, views, map.

    Args:
        plan: the run.
        pretrained: groups `[E, ...]` of stage 1; those of the first encoder are used.
        reconstructions: images with their reconstructions, if there is a decoder.
        split: examples whose features are mapped.
    """
    params = jax.tree.map(lambda leaf: leaf[0], jax.device_get(pretrained[FROZEN]))
    encode = jax.jit(lambda images: plan.networks.features(params, as_image(images)))

    def features(images: np.ndarray) -> np.ndarray:
        return np.asarray(encode(images))

    return _stage_1(plan, reconstructions) | _map(features, split)


def run_material(
    plan: Plan,
    programs: RunPrograms,
    pretrained: Params,
    finished: Finished,
    reconstructions: Reconstructions | None,
) -> Arrays:
    """Return the arrays of a finished run.

    Args:
        plan: the run.
        programs: compiled.
        pretrained: groups `[E, ...]` of stage 1.
        finished: outcome, with the test split and its probabilities.
        reconstructions: images with their reconstructions, if there is a decoder.
    """
    features = _encoder(plan, programs, pretrained, finished)
    test = finished.test
    return {
        **_stage_1(plan, reconstructions),
        **_map(features, test),
        **_neighbours(features, plan.dataset.train, test),
        **_bins(finished),
        **_mistakes(finished),
        **_uncertain(finished),
        **duplicate_arrays(plan, test),
    }


def _encoder(plan: Plan, programs: RunPrograms, pretrained: Params, finished: Finished) -> Features:
    """Return a function of images: features from the first of the chosen encoders."""
    rows = finished.record.ensemble.rows
    program = programs.encode
    if program is None or not finished.record.frozen.groups:
        predictor = finished.predictor.select(np.array([0]))
        return lambda images: predictor.features(images)[0]
    number = int(plan.trials.encoder_numbers[rows[0]])
    params = jax.tree.map(lambda leaf: leaf[[number]], jax.device_get(pretrained[FROZEN]))
    narrow = program._replace(placement=program.placement._replace(members=1))

    def features(images: np.ndarray) -> np.ndarray:
        return apply_pass(narrow, params, images)[0].reshape(len(images), -1)

    return features


def _stage_1(plan: Plan, reconstructions: Reconstructions | None) -> Arrays:
    """Return reconstructions beside their images, or views of training images."""
    arrays: Arrays = {}
    if reconstructions is not None:
        arrays["reconstruction_image"] = thumbnails(reconstructions.images)
        arrays["reconstruction_decoded"] = thumbnails(reconstructions.decoded)
    if plan.augmentation is not None:
        # All images of stage 1: a source may have no labelled ones.
        images = plan.examples.images
        rows = np.unique(np.linspace(0, len(images) - 1, VIEWED).astype(int))
        images = images[rows]
        augment = make_augment(plan.config, images.shape[1:])
        assert augment is not None, "the objective takes views"
        views = jax.jit(partial(two_views, augment))(new_key(), as_image(images))
        first, second = np.split(as_pixels(views), 2)
        arrays["view_image"] = thumbnails(images)
        arrays["view_first"] = thumbnails(first)
        arrays["view_second"] = thumbnails(second)
    return arrays


def _map(features: Features, split: Split) -> Arrays:
    """Return the features of a sample on their first two principal components."""
    rows = _random_rows(len(split["label"]), MAPPED)
    if len(rows) < 3:
        return {}
    values = features(split["image"][rows]).astype(np.float64)
    points, shares = principal_plane(values)
    return {"map_point": points, "map_label": split["label"][rows], "map_share": shares}


def principal_plane(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Project features `[N, D]` on their first two principal components.

    Returns:
        Points float32 `[N, 2]`, and the shares of the variance along the two axes.

    >>> points, shares = principal_plane(np.array([[0.0, 1], [2, 1], [4, 1]]))
    >>> points[:, 1].tolist(), shares.tolist()
    ([0.0, 0.0, 0.0], [1.0, 0.0])
    """
    centred = features - features.mean(0)
    covariance = centred.T @ centred
    variances, directions = np.linalg.eigh(covariance)
    plane = np.zeros((features.shape[1], 2))
    largest = directions[:, ::-1][:, :2]
    plane[:, : largest.shape[1]] = largest
    # The sign of a direction is arbitrary: its largest entry is positive.
    plane *= np.sign(plane[np.abs(plane).argmax(0), [0, 1]])
    shares = np.zeros(2)
    shares[: largest.shape[1]] = np.maximum(variances[::-1][:2], 0) / max(variances.sum(), 1e-30)
    return (centred @ plane).astype(np.float32), shares


def _neighbours(features: Features, train: Split, test: Split) -> Arrays:
    """Return the nearest training images of some test images, by the cosine of their features."""
    queries = sample_rows(test["label"], QUERIES)
    rows = _random_rows(len(train["label"]), SEARCHED)
    near = _unit(features(test["image"][queries])) @ _unit(features(train["image"][rows])).T
    order = rows[np.argsort(-near, axis=1, kind="stable")[:, :NEAREST]]
    shape = order.shape
    images = thumbnails(train["image"][order.ravel()])
    return {
        "neighbour_image": thumbnails(test["image"][queries]),
        "neighbour_label": test["label"][queries],
        "neighbour_near_image": images.reshape(*shape, *images.shape[1:]),
        "neighbour_near_label": train["label"][order],
        "neighbour_searched": np.array(len(rows)),
    }


def _unit(features: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(length, np.finfo(np.float32).tiny)


def _bins(finished: Finished) -> Arrays:
    """Return bins of confidence `[S, B, 3]`, as predicted and with the temperature."""
    label = finished.test["label"]
    bins = [reliability(finished.probability, label)]
    temperature = finished.record.uncertainty.temperature
    if temperature is not None:
        bins.append(reliability(apply_temperature(finished.probability, temperature), label))
    return {"reliability": np.stack(bins)}


def _mistakes(finished: Finished) -> Arrays:
    mistakes = find_mistakes(finished.probability, finished.test["image"], finished.test["label"])
    return {
        "mistake_image": thumbnails(mistakes.images),
        "mistake_label": mistakes.label,
        "mistake_predicted": mistakes.predicted,
        "mistake_confidence": mistakes.confidence,
        **_paths(finished, "mistake", mistakes.rows),
    }


def _uncertain(finished: Finished) -> Arrays:
    """Return the test images with the lowest confidence."""
    confidence = finished.probability.max(-1)
    rows = np.argsort(confidence, kind="stable")[:UNCERTAIN]
    return {
        "uncertain_image": thumbnails(finished.test["image"][rows]),
        "uncertain_label": finished.test["label"][rows],
        "uncertain_predicted": finished.probability[rows].argmax(-1),
        "uncertain_confidence": confidence[rows],
        **_paths(finished, "uncertain", rows),
    }


def _paths(finished: Finished, name: str, rows: np.ndarray) -> Arrays:
    """Return the paths of test images, if they come from files."""
    paths = finished.test.get("path")
    if paths is None:
        return {}
    # A file name can have bytes that are no text.
    texts = [str(path).encode("utf-8", "backslashreplace").decode() for path in paths[rows]]
    return {f"{name}_path": np.array(texts, str)}


def thumbnails(images: np.ndarray) -> np.ndarray:
    """Return small copies of images uint8 `[N, H, W, C]`."""
    if not len(images):
        return images
    return np.stack([thumbnail(image) for image in images])


def _random_rows(count: int, limit: int) -> np.ndarray:
    """Return at most `limit` rows, always the same ones, in order."""
    if count <= limit:
        return np.arange(count)
    return np.sort(np.random.RandomState(SPLIT_SEED).permutation(count)[:limit])

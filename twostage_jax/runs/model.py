"""A classifier to predict with: from a run's folder or from an exported file, in one form."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from twostage_jax.errors import UserError, shown
from twostage_jax.reprs import Rows, html_table, text_table
from twostage_jax.runs.images import network_images
from twostage_jax.scores.calibration import apply_temperature
from twostage_jax.scores.detection import Gaussians, Outputs, mean_probability
from twostage_jax.scores.figures import probabilities
from twostage_jax.scores.rejection import Rule, reject

if TYPE_CHECKING:
    from twostage_jax.engine.predictor import Predictor
    from twostage_jax.runs.opened import Run

# Up to so many images, `assess` uses programs for small batches: a page shows one image at a time.
SMALL_BATCH = 16
# Images at a time, so that memory does not grow with their number.
MANY = 4000

Program = Callable[[np.ndarray], dict[str, np.ndarray]]  # images to logits and features


class Assessment(NamedTuple):
    """Everything that a classifier says about images.

    Attributes:
        probability: float32 `[N, K]`, at the temperature that was fitted on validation.
        rejected: bool `[N]`, True for an image that belongs to no class; None if the run has no
            threshold.
        score: out-of-distribution score float64 `[N]`, higher for images that are further away;
            None if the run has no threshold.
        sets: bool `[N, K]`, True for classes in the prediction set; None if validation was too
            small for them.
    """

    probability: np.ndarray
    rejected: np.ndarray | None
    score: np.ndarray | None
    sets: np.ndarray | None


class Passes(NamedTuple):
    """Functions of images uint8 or float32 `[N, H, W, C]`, for any N.

    Attributes:
        logits: returns logits float32 `[M, N, K]`.
        features: returns features float32 `[E, N, D]`.
        both: returns logits and features; a file computes them together.
    """

    logits: Callable[[np.ndarray], np.ndarray]
    features: Callable[[np.ndarray], np.ndarray]
    both: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class Settings(NamedTuple):
    """Everything beside the network that a classifier needs.

    Attributes:
        classes: names of the K classes, in the order of the labels.
        image_shape: `(H, W, C)`.
        fit: `pad` or `crop`, the way in which images of another shape are fitted to `(H, W)`.
        temperature: divides the logarithms of probabilities; None without validation examples.
        coverage: target coverage of the prediction sets; None if there are none.
        set_threshold: classes with `1 - p` up to this value are in the set.
        scale: range of the values in the source of the training data, in words.
        rule: outlier score that rejects images, and its threshold; None without one.
        gaussians: of each encoder, if the score needs them.
    """

    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    fit: str = "pad"
    temperature: float | None = None
    coverage: float | None = None
    set_threshold: float | None = None
    scale: str = ""
    rule: Rule | None = None
    gaussians: tuple[Gaussians, ...] = ()


@dataclass(frozen=True, eq=False, repr=False)
class Model:
    """A classifier from an exported file or a run's folder.

    Images are as for `ts.Run`: integers in 0 to 255, `[N, H, W, C]`, or `[N, H, W]` if the model
    has one channel. A model from a folder also takes floats in [0, 1].

    Attributes:
        path: the file or folder.
        settings: classes, image shape and thresholds.
        passes: the network.
        quick: the network for few images: compiled for small batches, so it rounds in another way.

    >>> import twostage_jax as ts
    >>> from twostage_jax.show.terminal import Terminal
    >>> config = ts.Config(out="runs/a", pretrain={"epochs": 1}, head={"protocol": "ridge"})
    >>> result = ts.run(config, terminal=Terminal(quiet=True))
    >>> model = ts.load_model(ts.export("runs/a"))
    >>> images = ts.load("digits").test["image"]
    >>> model.predict(images).shape, model.assess(images).sets.shape
    ((359,), (359, 10))
    """

    path: Path
    settings: Settings
    passes: Passes
    quick: Passes

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the K classes, in the order of the labels."""
        return self.settings.classes

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(H, W, C)` of the images that the network takes."""
        return self.settings.image_shape

    @property
    def fit(self) -> str:
        """`pad` or `crop`, the way in which images of another shape are fitted to `(H, W)`."""
        return self.settings.fit

    def predict(self, images: object) -> np.ndarray:
        """Return the most probable class of each image, int32 `[N]`.

        Raises:
            UserError: images of another shape or out of range.
        """
        return self._mean(self.passes, self._images(images)).argmax(-1).astype(np.int32)

    def probabilities(self, images: object) -> np.ndarray:
        """Return probabilities float32 `[N, K]`, the same bits as `ts.Run.probabilities`.

        They are not calibrated; `assess` applies the temperature.

        Raises:
            UserError: images of another shape or out of range.
        """
        return self._mean(self.passes, self._images(images)).astype(np.float32)

    def assess(self, images: object, decoded: bool = False) -> Assessment:
        """Return calibrated probabilities, rejections, out-of-distribution scores and sets.

        Args:
            images: as for `probabilities`.
            decoded: True for pixels of image files, whose scale is certain even if all are dark.

        Raises:
            UserError: images of another shape or out of range.
        """
        array = network_images(images, self.image_shape, self.path, decoded)
        passes = self.quick if len(array) <= SMALL_BATCH else self.passes
        parts = [self._assess(passes, part) for part in _parts(array)]
        probability = np.concatenate([part.probability for part in parts])
        rejected, score, sets = (_joined(x) for x in list(zip(*parts, strict=True))[1:])
        return Assessment(probability, rejected, score, sets)

    def _assess(self, passes: Passes, images: np.ndarray) -> Assessment:
        settings = self.settings
        features = np.empty((0, len(images), 0), np.float32)
        if settings.gaussians:
            logits, features = passes.both(images)
        else:
            logits = passes.logits(images)
        members = probabilities(logits)
        mean = mean_probability(members)
        probability = mean
        if settings.temperature is not None:
            probability = apply_temperature(mean, settings.temperature)
        sets = None
        if settings.set_threshold is not None:
            # The threshold was fitted on probabilities without the temperature.
            sets = 1 - mean <= settings.set_threshold
        rejected = score = None
        if settings.rule is not None:
            outputs = Outputs(members, logits, features)
            score, rejected = reject(outputs, settings.rule, settings.gaussians)
        return Assessment(probability.astype(np.float32), rejected, score, sets)

    def _images(self, images: object) -> np.ndarray:
        return network_images(images, self.image_shape, self.path)

    def _mean(self, passes: Passes, images: np.ndarray) -> np.ndarray:
        """Return mean probabilities float64 `[N, K]`."""
        parts = [mean_probability(probabilities(passes.logits(x))) for x in _parts(images)]
        return np.concatenate(parts)

    def __repr__(self) -> str:
        """Return the path, the shape of the images and the classes."""
        return text_table(f"Model in {self.path}", self._rows())

    def _repr_html_(self) -> str:
        return html_table(f"Model in {self.path}", self._rows())

    def _rows(self) -> Rows:
        names = ", ".join(self.classes)
        shape = "×".join(map(str, self.image_shape))
        return [("images", shape), ("classes", f"{len(self.classes)}: {names}")]


def _parts(images: np.ndarray) -> list[np.ndarray]:
    """Split images, so that the memory for their results does not grow with their number."""
    return [images[start : start + MANY] for start in range(0, max(len(images), 1), MANY)]


def _joined(parts: tuple[np.ndarray | None, ...]) -> np.ndarray | None:
    arrays = [part for part in parts if part is not None]
    return np.concatenate(arrays) if arrays else None


def load_model(file: Path | str) -> Model:
    """Load a file that `twostage export` wrote.

    Its probabilities have the same bits as those of the run, on the CPU with the same versions.

    Args:
        file: the file; `~` is the home folder.

    Raises:
        UserError: another kind of file, one that a newer version wrote, or a program that this
            version of jax cannot run.
        Corrupted: if the file differs from what was written.

    >>> import twostage_jax as ts
    >>> from twostage_jax.show.terminal import Terminal
    >>> config = ts.Config(out="runs/e", pretrain={"epochs": 1}, head={"protocol": "ridge"})
    >>> result = ts.run(config, terminal=Terminal(quiet=True))
    >>> model = ts.load_model(ts.export("runs/e"))
    >>> model.probabilities(ts.load("digits").test["image"]).shape
    (359, 10)
    """
    path = _as_path(file)
    from twostage_jax.runs.deploy.loading import load_program
    from twostage_jax.runs.deploy.model_file import read_gaussians, read_model_file

    about, programs, arrays = read_model_file(path)
    params = {name: arrays[name] for name in about.params}
    program = load_program(path, programs["program"], params, about.batch)

    @cache  # loaded when it is first needed; most uses need only one of the two
    def load_small() -> Program:
        content = programs.get("program_small")
        return program if content is None else load_program(path, content, params, SMALL_BATCH)

    def small(images: np.ndarray) -> dict[str, np.ndarray]:
        return load_small()(images)

    rejection = about.rejection
    settings = Settings(
        classes=tuple(about.classes),
        image_shape=about.preprocessing.image_shape,
        temperature=about.temperature,
        coverage=None if about.sets is None else about.sets.coverage,
        set_threshold=None if about.sets is None else about.sets.threshold,
        scale=about.scale,
        fit=about.preprocessing.fit,
        rule=None
        if rejection is None
        else Rule(rejection.score, rejection.threshold, rejection.limits),
        gaussians=read_gaussians(arrays, about),
    )
    return Model(path, settings, _as_passes(path, program), _as_passes(path, small))


def _as_passes(path: Path, program: Program) -> Passes:
    def compute(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if images.dtype != np.uint8:
            raise UserError(
                f"images are floats, but {path} takes integers in 0 to 255: give uint8 images"
            )
        results = program(images)
        return results["logits"], results["features"]

    return Passes(lambda images: compute(images)[0], lambda images: compute(images)[1], compute)


def open_model(path: Path | str, trust_code: bool = False) -> Model:
    """Open a run's folder or an exported file to predict with.

    Args:
        path: folder of a run, or a file from `twostage export`; `~` is the home folder.
        trust_code: True to allow the import of code that the config of a run names.

    Raises:
        UserError: if there is neither, or the run has no head.
        Corrupted: if a file differs from what was written.
    """
    path = _as_path(path)
    if path.is_file():
        return load_model(path)
    # Imported here: an exported file needs neither Flax nor Orbax.
    from twostage_jax.runs.open import open_run

    return from_run(open_run(path, trust_code))


def _as_path(path: Path | str) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise UserError(f"the model is {shown(path)}: give the path of a run or of a file")
    return Path(path).expanduser()


def from_run(run: "Run") -> Model:
    """Return the classifier of an opened run.

    Raises:
        UserError: a run without a head.
    """
    predictor = run.predictor
    uncertainty = run.record.uncertainty
    sets = uncertainty.conformal
    rejection = run.rejection
    preprocessing = run.manifest.preprocessing
    settings = Settings(
        classes=run.classes,
        image_shape=preprocessing.image_shape,
        temperature=uncertainty.temperature,
        coverage=None if sets is None else sets.asked,
        set_threshold=None if sets is None else sets.threshold,
        scale=run.manifest.data.scale,
        fit=preprocessing.fit,
        rule=None
        if rejection is None
        else Rule(rejection.score, rejection.threshold, rejection.limits or {}),
        gaussians=run.gaussians,
    )
    small = predictor.with_batches(SMALL_BATCH)
    return Model(run.folder, settings, _predictor_passes(predictor), _predictor_passes(small))


def _predictor_passes(predictor: "Predictor") -> Passes:
    def both(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits = predictor.logits(images)
        return logits, predictor.features(images)

    return Passes(predictor.logits, predictor.features, both)

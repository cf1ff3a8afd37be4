"""An opened run: its parameters, its modules and its predictions."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from flax import linen as nn

from twostage_jax.config.schema import Config
from twostage_jax.engine.predictor import Predictor
from twostage_jax.errors import UserError
from twostage_jax.reprs import Rows, html_table, text_table
from twostage_jax.runs.handover import FROZEN
from twostage_jax.runs.images import network_images
from twostage_jax.runs.result import Result, ResultRecord, record_rows, stage_text
from twostage_jax.scores.detection import Gaussians, Outputs, mean_probability
from twostage_jax.scores.figures import probabilities
from twostage_jax.scores.rejection import Rule, reject
from twostage_jax.stages.stage import Head, Params
from twostage_jax.store.decoding import encode
from twostage_jax.store.records import Manifest, Rejection


@dataclass(frozen=True, eq=False, repr=False)
class Run:
    """A verified run: its predictions, parameters and modules.

    Images are integers in 0 to 255 (uint8) or floats in [0, 1], `[N, H, W, C]`, or `[N, H, W]` if
    the run has one channel. A single image without the axis N is a batch of one. Integers and
    floats are normalised here. PyTorch tensors and PIL images are converted. All results are
    NumPy arrays.

    With members, `probabilities` and `predict` are those of the ensemble, and `features` and
    `reconstruct` return an array for each member, `[M, N, ...]`, unless the members share one
    encoder (`--share encoder`).

    Attributes:
        folder: folder of the run.
        config: resolved config.
        manifest: content of `manifest.json`.
        params: verified groups, such as `encoder`, `decoder` and `head`, of the chosen trials: as
            `init` of each module returned them, or `[M, ...]` if there are several members.
        encoder: Linen module, images as `ts.as_image` returns them to features.
        decoder: Linen module, features to images; None if the run has no group `decoder`.
        head: Linen module, features to logits; a `ts.Head` if the head has no module; None without
            stage 2.

    >>> import twostage_jax as ts
    >>> from twostage_jax.show.terminal import Terminal
    >>> config = ts.Config(out="runs/a", pretrain={"epochs": 1}, head={"protocol": "ridge"})
    >>> result = ts.run(config, terminal=Terminal(quiet=True))
    >>> run = ts.open_run("runs/a")
    >>> images = ts.load("digits").test["image"]
    >>> run.predict(images).shape, run.probabilities(images / 255).shape
    ((359,), (359, 10))
    >>> run.features(images).shape, run.reconstruct(images).shape
    ((359, 128), (359, 8, 8, 1))
    """

    folder: Path
    config: Config
    manifest: Manifest
    params: Params
    encoder: nn.Module
    decoder: nn.Module | None
    head: nn.Module | Head | None
    finished: ResultRecord | None  # None without stage 2
    classifier: Predictor | None  # None without stage 2
    pretrained: Predictor | None  # None if the run that trained the encoder is gone
    no_decoder: str  # reason why images cannot be reconstructed, or empty
    several: bool  # True if the encoder has a member axis
    gaussians: tuple[Gaussians, ...] = ()  # of each encoder, if `rejection` needs them

    @property
    def tuned(self) -> bool:
        """True if stage 2 has trained the encoder, so it differs from that of stage 1."""
        return self.finished is not None and FROZEN not in self.finished.frozen.groups

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the K classes, in the order of the labels."""
        return tuple(self.manifest.classes)

    @property
    def result(self) -> Result:
        """Folder, figures (content of `result.json`) and parameters; no figures after stage 1."""
        record = {} if self.finished is None else encode(self.finished)
        return Result(self.folder, record, self.params)

    @property
    def record(self) -> ResultRecord:
        """Content of `result.json` as dataclasses.

        Raises:
            UserError: a run without stage 2.
        """
        if self.finished is None:
            raise self._no_head()
        return self.finished

    @property
    def predictor(self) -> Predictor:
        """Encoders and heads of the chosen trials.

        Raises:
            UserError: a run without stage 2.
        """
        if self.classifier is None:
            raise self._no_head()
        return self.classifier

    def check_head(self) -> None:
        """Check that the run can classify.

        Raises:
            UserError: a run without stage 2.
        """
        if self.classifier is None:
            raise self._no_head()

    @property
    def rejection(self) -> Rejection | None:
        """Threshold that rejects images of no class; None if validation was too small for it.

        Raises:
            UserError: a run without stage 2.
        """
        return self.record.rejection

    def reject(self, images: object) -> tuple[np.ndarray, np.ndarray]:
        """Return the outlier score `[N]` of each image, and True for images of no class.

        Raises:
            UserError: images of another shape or out of range; a run without a threshold.
        """
        array = self._images(images)
        return self.reject_outputs(self.predictor.logits(array), array)

    def reject_outputs(
        self, logits: np.ndarray, images: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the same as `reject` from the logits `[M, N, K]` of images for the network.

        Raises:
            UserError: a run without a threshold.
        """
        rejection = self.rejection
        if rejection is None:
            raise UserError(
                f"{self.folder} has no threshold, because its validation split is too small: train "
                "with a larger --validation"
            )
        features = np.empty((0, len(images), 0), np.float32)
        if self.gaussians:
            features = self.predictor.features(images)
        outputs = Outputs(probabilities(logits), logits, features)
        rule = Rule(rejection.score, rejection.threshold, rejection.limits or {})
        return reject(outputs, rule, self.gaussians)

    def predict(self, images: object) -> np.ndarray:
        """Return the most probable class of each image, int32 `[N]`.

        Raises:
            UserError: images of another shape or out of range; a run without stage 2.
        """
        return self._probability(images).argmax(-1).astype(np.int32)

    def probabilities(self, images: object) -> np.ndarray:
        """Return probabilities float32 `[N, K]`, the mean over the members.

        Raises:
            UserError: images of another shape or out of range; a run without stage 2.
        """
        return self._probability(images).astype(np.float32)

    def features(self, images: object, decoded: bool = False) -> np.ndarray:
        """Return features float32 `[N, D]`, or `[M, N, D]` if each member has its own encoder.

        Args:
            images: as for `probabilities`.
            decoded: True for images of a source, whose scale is certain even if all are dark.

        Raises:
            UserError: images of another shape or out of range.
        """
        array = self._images(images, decoded)
        if self.tuned:
            features = self.predictor.features(array)
            return features if self.config.members > 1 else features[0]
        return self._without_axis((self.pretrained or self.predictor).features(array))

    def reconstruct(self, images: object) -> np.ndarray:
        """Return decoded images float32 `[N, H, W, C]`, or `[M, N, H, W, C]` as for `features`.

        Values are in [0, 1], also for uint8 images; values outside are clipped.

        Raises:
            UserError: images of another shape or out of range; a run without a decoder.
        """
        if self.no_decoder or self.pretrained is None:
            raise UserError(f"{self.folder} cannot reconstruct images: {self.no_decoder}")
        decoded = self._without_axis(self.pretrained.reconstructions(self._images(images)))
        return np.clip((decoded + 1) / 2, 0, 1)

    def _images(self, images: object, decoded: bool = False) -> np.ndarray:
        shape = self.manifest.preprocessing.image_shape
        return network_images(images, shape, self.folder, decoded)

    def _probability(self, images: object) -> np.ndarray:
        """Return probabilities float64 `[N, K]`, from which all figures are computed."""
        predictor = self.predictor
        return mean_probability(probabilities(predictor.logits(self._images(images))))

    def _without_axis(self, values: np.ndarray) -> np.ndarray:
        return values if self.several else values[0]

    def _no_head(self) -> UserError:
        return UserError(
            f"{self.folder} has no head, only stage 1: train one with twostage head --from "
            f"{self.folder}, or finish the run with twostage run --resume --out {self.folder}"
        )

    def __repr__(self) -> str:
        """Return the folder, the stages and the scores, in a few lines."""
        return text_table(f"Run in {self.folder}", self._rows())

    def _repr_html_(self) -> str:
        return html_table(f"Run in {self.folder}", self._rows())

    def _rows(self) -> Rows:
        shape = "×".join(map(str, self.manifest.preprocessing.image_shape))
        names = ", ".join(self.classes)
        groups = ", ".join(self.params)
        rows = [("images", shape), ("classes", f"{len(self.classes)}: {names}")]
        if self.finished is not None:
            rows += record_rows(encode(self.finished))
        elif self.manifest.pretrain is not None:
            rows.append(("stage 1", stage_text("objective", vars(self.manifest.pretrain))))
            rows.append(("stage 2", "none"))
        return [*rows, ("params", groups)]

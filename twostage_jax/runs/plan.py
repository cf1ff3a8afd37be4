"""The plan of a run: a request with everything resolved, before anything is placed or compiled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from twostage_jax.config.schema import Config
from twostage_jax.data.dataset import TrainingData
from twostage_jax.data.duplicates import Duplicates
from twostage_jax.runs.examples import Examples
from twostage_jax.runs.networks import Networks, head_shapes
from twostage_jax.runs.trials import Trials, first_numbers, own_numbers
from twostage_jax.stages.stage import Params
from twostage_jax.store.records import AugmentationRecord


@dataclass(frozen=True, eq=False)
class Plan:
    """A request with everything resolved.

    Attributes:
        config: resolved config.
        networks: modules and stages.
        dataset: data without the test split.
        tested: number of test examples.
        trials: all trainings.
        examples: training examples of all trials.
        pretrained: groups `[1, ...]` of an earlier run's stage 1, or None.
        stages: names of the stages to train.
        chunks: members that train together, by stage, of the run that is resumed.
        encoding: use of the encoder in stage 2, in words.
        augmentation: augmentation of stage 1, None if its objective takes no views.
        duplicates: copies of test and validation images in earlier splits; None without stage 2.
    """

    config: Config
    networks: Networks
    dataset: TrainingData
    tested: int
    trials: Trials
    examples: Examples
    pretrained: Params | None
    stages: tuple[str, ...]
    chunks: Mapping[str, int]
    encoding: str
    augmentation: AugmentationRecord | None = None
    duplicates: Duplicates | None = None

    @property
    def features_once(self) -> bool:
        """True if the encoder runs once, before stage 2."""
        return self.config.head.encode != "loop"

    @property
    def feature_count(self) -> int:
        """Number of features D of one image."""
        return int(np.prod(self.networks.feature_shape))

    def numbers(self, stage: str) -> dict[str, np.ndarray]:
        """Return the swept numbers of a stage, one value for each training."""
        networks = self.networks
        defaults = networks.pretrain_numbers if stage == "pretrain" else networks.head_numbers
        return self.trials.numbers(stage, defaults)

    @property
    def head_numbers(self) -> dict[str, np.ndarray]:
        """Return the swept numbers that the head itself takes, without the optimiser's."""
        return own_numbers(self.trials, self.networks)

    @property
    def labels_read(self) -> int:
        """Number of labels that stage 1 uses: 0 if its loss does not depend on labels."""
        return self.examples.labelled if self.networks.reads_labels else 0

    @cached_property
    def head_shapes(self) -> Params:
        """Shapes of the groups of stage 2 of one trial."""
        return head_shapes(
            self.networks,
            self.examples.labelled,
            len(self.dataset.validation["label"]),
            first_numbers(self.head_numbers),
        )


def few_examples(dataset: TrainingData) -> dict[str, np.ndarray]:
    """Return two training examples, for functions that only need shapes."""
    train = dataset.train
    if not len(train["label"]):
        return as_one_class(dataset.unlabelled["image"][:2])
    return {name: train[name][:2] for name in ("image", "label")}


def as_one_class(images: np.ndarray) -> dict[str, np.ndarray]:
    """Return images without labels as examples of one class, where no label counts."""
    return {"image": images, "label": np.zeros(len(images), np.int32)}


def stage_names(pretrained: Params | None, pretrain_only: bool) -> Sequence[str]:
    """Return the names of the stages that a run trains."""
    first = [] if pretrained else ["pretrain"]
    return (*first, *([] if pretrain_only else ["head"]))

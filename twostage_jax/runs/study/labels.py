"""`twostage study labels`: error against the number of labels, for every arm."""

from typing import Any

from twostage_jax.config.studies import LabelStudy
from twostage_jax.data.dataset import Dataset


def check_labels(study: LabelStudy, dataset: Dataset) -> None:
    """Check."""


def study_label_counts(context: Any) -> dict[str, Any]:
    """Compute."""
    f = context.source.features("train")
    context.source.unlock()
    return {"shape": list(f.shape), "random": list(context.source.random_features("test", 1).shape)}

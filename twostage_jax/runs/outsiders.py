"""Images of the other class: left out of the data, and enough of the rest for a threshold."""

from twostage_jax.data.dataset import Dataset
from twostage_jax.data.outsiders import without_class
from twostage_jax.errors import UserError
from twostage_jax.scores.rejection import needed_images


def without_outsiders(dataset: Dataset, other_class: str | None) -> Dataset:
    """Return a data set without the images of `--other-class`, which become its `outsiders`.

    Raises:
        UserError: a class that does not exist, that leaves a single class, or that has images only
            in the test split; too few validation images for a threshold.
    """
    if other_class is None:
        return dataset
    dataset = without_class(dataset, other_class)
    if not sum(len(images) for name, images in dataset.outsiders.items() if name != "test"):
        raise UserError(
            f"--other-class {other_class!r} has images only in the test split, and nothing may be "
            "chosen on them: give some in train or validation"
        )
    count = len(dataset.validation["label"])
    if count < needed_images():
        raise UserError(
            f"--other-class needs at least {needed_images()} validation images of the other "
            f"classes for its threshold, but there are {count}: give a larger --validation"
        )
    return dataset

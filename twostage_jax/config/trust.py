"""Fields about rare classes, images of no class, and duplicates across splits."""

from dataclasses import dataclass
from typing import Annotated

from twostage_jax.config.choices import CLASS_WEIGHTS, DUPLICATES
from twostage_jax.config.fields import UNSET, check_text, choice, declare
from twostage_jax.config.settings import Settings


@dataclass(frozen=True, repr=False)
class TrustConfig(Settings):
    """Fields of every command that trains heads: class weights, other class, duplicates."""

    class_weights: Annotated[
        str,
        *declare("auto|none", choice("--class-weights", CLASS_WEIGHTS), default="none"),
    ] = UNSET
    """Weights of the classes in stage 2: none, or auto (inverse to their numbers of labels)"""
    other_class: Annotated[str, *declare("NAME", check_text, "none")] = UNSET
    """Class for images that belong to no other class. Nothing is trained on it; its images help \
to choose the score that rejects such images"""
    duplicates: Annotated[
        str,
        *declare("auto|exact|near", choice("--duplicates", DUPLICATES), default="auto"),
    ] = UNSET
    """Search for copies of test and validation images in earlier splits: exact (identical \
pixels), near (nearly identical, mirrored and cropped images, too), or auto (near, but less for \
large data)"""

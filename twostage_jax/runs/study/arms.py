"""The arms of a label study: representations with a head, and networks trained end to end."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from twostage_jax.config.choices import PROTOCOLS
from twostage_jax.config.fields import choice
from twostage_jax.config.studies import LabelStudy
from twostage_jax.data.spec import expanded
from twostage_jax.errors import UserError

END_TO_END = ("supervised", "finetuned")
REPRESENTATIONS = ("frozen", "random", "pixels", "pca")
ARMS = (*REPRESENTATIONS, *END_TO_END)
# The headline uses the first protocol.
DEFAULT_PROTOCOLS = ("propagate", "ridge")
PLAIN = "ridge"  # protocol of the arms pixels and pca, if they name none
TUNED = "finetune"  # this protocol is not a head on frozen features
FILE = "features:"


class Arm(NamedTuple):
    """Arm of a label study.

    Attributes:
        name: its name in tables, such as `frozen:linear`.
        representation: `frozen`, `random`, `pixels`, `pca` or the stem of a file of features;
            empty for a network that is trained end to end.
        protocol: head; empty for a network that is trained end to end.
        file: file of the features, if there is one.
    """

    name: str
    representation: str
    protocol: str
    file: Path | None = None


def make_arms(study: LabelStudy) -> list[Arm]:
    """Return the requested arms of a study.

    Raises:
        UserError: an unknown arm or protocol, or the same arm twice.
    """
    protocols = study.protocols or tuple(p for p in DEFAULT_PROTOCOLS if p in PROTOCOLS)
    for protocol in protocols:
        _check_protocol("--protocols", protocol)
    arms = []
    for text in study.arms or ARMS:
        arms += _parse(text, protocols)
    names = [arm.name for arm in arms]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--arms has {name} twice: give each arm once")
    return arms


def _check_protocol(flag: str, protocol: str) -> None:
    choice("protocol", PROTOCOLS, imports=True)(flag, protocol)
    if protocol == TUNED:
        raise UserError(f"{flag} has {TUNED}, but it trains the encoder: give --arms finetuned")


def _parse(text: str, protocols: Sequence[str]) -> list[Arm]:
    if text in END_TO_END:
        return [Arm(text, "", "")]
    if text.startswith(FILE):
        path = expanded(text.removeprefix(FILE))
        name = f"features-{path.stem}"
        return [Arm(f"{name}:{protocol}", name, protocol, path) for protocol in protocols]
    name, colon, protocol = text.partition(":")
    if name not in REPRESENTATIONS:
        raise UserError(
            f"unknown arm {text!r}: choose from {', '.join(ARMS)} and features:FILE; a protocol "
            "may follow, as in frozen:knn"
        )
    if colon:
        _check_protocol("--arms", protocol)
        return [Arm(text, name, protocol)]
    if name in ("pixels", "pca"):
        return [Arm(name, name, PLAIN)]
    return [Arm(f"{name}:{protocol}", name, protocol) for protocol in protocols]

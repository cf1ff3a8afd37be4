"""The arms of a noise study: frozen features with a head and a loss, and networks end to end."""

from collections.abc import Sequence
from typing import NamedTuple

from twostage_jax.config.choices import METHODS, SOLVED
from twostage_jax.errors import UserError

REPRESENTATIONS = ("frozen", "random")
END_TO_END = "supervised"
# Losses of trained heads: name in an arm, and arguments of `mlp`.
LOSSES: dict[str, dict[str, object]] = {
    "": {},
    "smooth": {"label_smoothing": 0.1},
    "gce": {"loss": "gce"},
    "elr": {"loss": "elr"},
    "forward": {"loss": "forward"},
}
TRAINED = ("mlp", "linear")
HIDDEN = 64  # units of the hidden layer of `mlp`
KNN = "knn"
NEIGHBOURS = (20, 100, 500)
RELIABLE = "knn-reliable"
PROPAGATE = "propagate"
# Solved heads without a number in their name.
PLAIN = tuple(head for head in SOLVED if head not in (KNN, "linear"))


class NoiseArm(NamedTuple):
    """Arm of a noise study.

    Attributes:
        name: its name in tables, such as `frozen:mlp-gce`.
        representation: `frozen` or `random`; empty for a network that is trained end to end.
        head: `mlp`, `linear` or a head that is solved; `linear` end to end.
        loss: key of `LOSSES`, for a trained head.
        k: number of neighbours of `knn`; 0 for other heads.
        method: method of `propagate`; empty for its default.
    """

    name: str
    representation: str
    head: str
    loss: str = ""
    k: int = 0
    method: str = ""

    @property
    def trained(self) -> bool:
        """True for heads and networks that are trained step by step."""
        return self.head in TRAINED


def default_arms(examples: int) -> list[str]:
    """Return the names of the default arms of a study."""
    trained = [f"{head}-{loss}".rstrip("-") for head in TRAINED for loss in LOSSES]
    neighbours = [f"{KNN}-{k}" for k in NEIGHBOURS if k <= examples] or [f"{KNN}-{examples}"]
    frozen = [*trained, "ridge", *neighbours, RELIABLE, f"{PROPAGATE}-zhou"]
    random = ["mlp", "mlp-gce", "ridge", neighbours[min(1, len(neighbours) - 1)]]
    random.append(f"{PROPAGATE}-zhou")
    return [
        *(f"frozen:{name}" for name in frozen),
        *(f"random:{name}" for name in random),
        END_TO_END,
        f"{END_TO_END}-gce",
    ]


def parse_arms(names: Sequence[str], examples: int) -> list[NoiseArm]:
    """Return the arms with the given names.

    Args:
        names: names of arms.
        examples: number of labelled training examples.

    Raises:
        UserError: an unknown representation, head or loss, or more neighbours than examples.
    """
    return [_parse(name, examples) for name in names]


def _parse(name: str, examples: int) -> NoiseArm:
    representation, colon, head = name.partition(":")
    if not colon:
        network, _, loss = name.partition("-")
        if network != END_TO_END or loss not in LOSSES:
            raise _unknown(name)
        return NoiseArm(name, "", "linear", loss)
    if representation not in REPRESENTATIONS:
        raise _unknown(name)
    if head in PLAIN:
        return NoiseArm(name, representation, head)
    family, _, rest = head.partition("-")
    if family == PROPAGATE and rest in METHODS:
        return NoiseArm(name, representation, family, method=rest)
    if family in TRAINED and rest in LOSSES:
        return NoiseArm(name, representation, family, rest)
    if family == KNN and (not rest or rest.isdecimal()):
        k = int(rest or NEIGHBOURS[0])
        if not 1 <= k <= examples:
            raise UserError(
                f"--arms {name} asks for {k:,} neighbours of {examples:,} examples: give 1 to "
                f"{examples:,}"
            )
        return NoiseArm(name, representation, KNN, k=k)
    raise _unknown(name)


def _unknown(name: str) -> UserError:
    losses = ", ".join(loss for loss in LOSSES if loss)
    return UserError(
        f"unknown arm {name!r}: write frozen:HEAD, random:HEAD or {END_TO_END}, with mlp, linear, "
        f"knn-K, {', '.join(PLAIN)} as HEAD; add -LOSS to mlp, linear and {END_TO_END} (LOSS is "
        f"{losses}), and -METHOD to propagate (METHOD is {', '.join(METHODS)})"
    )

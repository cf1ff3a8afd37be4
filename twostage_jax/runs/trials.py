"""Who trains in a run: members with seeds of their own, at each point of a sweep.

A row is one training of a head. Rows that differ only in what concerns the head share an encoder,
and so does everybody where the config says so.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from twostage_jax.config.schema import Config, swept
from twostage_jax.config.sweep import grid, point_name
from twostage_jax.data.labels import flip_labels
from twostage_jax.stages.stage import Key


class Row(NamedTuple):
    """One training of a head.

    Attributes:
        member: number from 0.
        seed: of the run that this member is.
        point: number of the point of the sweep.
        values: of the swept fields there.
        encoder: number of its encoder.
    """

    member: int
    seed: int
    point: int
    values: dict[str, float]
    encoder: int

    @property
    def name(self) -> str:
        """What it is called in reports."""
        point = f" at {point_name(self.values)}" if self.values else ""
        return f"member {self.member} (seed {self.seed}){point}"


class Encoder(NamedTuple):
    """One training of an encoder: its seed, and the values of what is swept in stage 1."""

    seed: int
    values: dict[str, float]

    @property
    def name(self) -> str:
        """What it is called in reports."""
        point = f" at {point_name(self.values)}" if self.values else ""
        return f"encoder of seed {self.seed}{point}"


class Roster(NamedTuple):
    """All that trains, point by point, and within a point member by member.

    Attributes:
        rows: trainings of heads.
        encoders: trainings of encoders.
        alone: whether there is one of each and nothing is swept or placed: an ordinary run.
        placed: whether the config asks for a mesh.
    """

    rows: tuple[Row, ...]
    encoders: tuple[Encoder, ...]
    alone: bool
    placed: bool

    def stacked(self, stage: str) -> bool:
        """Whether a stage trains members, even if it is one, rather than an ordinary training."""
        if stage == "head":
            return not self.alone
        return len(self.encoders) > 1 or bool(self.hyper(stage)) or self.placed

    def hyper(self, stage: str) -> dict[str, np.ndarray]:
        """Swept scalars of a stage by the names of its fields, float32, one for each training."""
        them = self.encoders if stage == "pretrain" else self.rows
        names = [name for name in them[0].values if name.startswith(f"{stage}.")]
        return {
            name.partition(".")[2].replace("-", "_"): np.array(
                [x.values[name] for x in them], np.float32
            )
            for name in names
        }

    def keys(self, stage: str, purpose: int) -> Key:
        """A key for each training of a stage, the one that the run of its seed uses."""
        them = self.encoders if stage == "pretrain" else self.rows
        return jnp.stack([stage_key(one.seed, stage, purpose) for one in them])

    def names(self, stage: str) -> list[str]:
        """What the trainings of a stage are called in reports."""
        return [one.name for one in (self.encoders if stage == "pretrain" else self.rows)]

    @property
    def encoder_of(self) -> np.ndarray:
        """Number of each row's encoder."""
        return np.array([row.encoder for row in self.rows])


STAGES = {"pretrain": 1, "head": 2, "noise": 3}  # folded into the seed's key
INITIAL, TRAINING = 0, 1  # folded into the stage's


def stage_key(seed: int, stage: str, purpose: int) -> Key:
    """The key for the initial values or for the training of a stage."""
    key = jax.random.fold_in(jax.random.key(seed), STAGES[stage])
    return jax.random.fold_in(key, purpose)


def make_roster(config: Config) -> Roster:
    """Who trains, for a resolved config."""
    one_encoder = "encoder" in config.share or config.encoder_run is not None
    encoders: dict[Any, tuple[int, Encoder]] = {}
    rows = []
    for point, values in enumerate(grid(swept(config))):
        for member in range(config.members):
            first = {name: x for name, x in values.items() if name.startswith("pretrain.")}
            seed = config.seed + member
            encoder = Encoder(config.seed if one_encoder else seed, first)
            key = (encoder.seed, tuple(first.items()))
            number, _ = encoders.setdefault(key, (len(encoders), encoder))
            rows.append(Row(member, seed, point, values, number))
    alone = len(rows) == 1 and not config.sweep and not config.mesh
    return Roster(tuple(rows), tuple(one for _, one in encoders.values()), alone, bool(config.mesh))


def has_noise(config: Config) -> bool:
    """Whether rows train on labels of their own."""
    return bool(config.noise) or "noise" in swept(config)


def noisy_labels(config: Config, roster: Roster, label: np.ndarray, classes: int) -> Any:
    """Training labels int32 `[R, N]` with each row's noise, or `[N]` where there is none."""
    if not has_noise(config):
        return label
    shares = np.array([row.values.get("noise", config.noise) for row in roster.rows], np.float32)
    flip = jax.jit(lambda key, share: flip_labels(key, jnp.asarray(label), share, classes))
    keys = [stage_key(row.seed, "noise", INITIAL) for row in roster.rows]
    return np.stack([jax.device_get(flip(*one)) for one in zip(keys, shares, strict=True)])

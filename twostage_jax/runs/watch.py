"""Figures of the encoder after each epoch of stage 1, the best epoch, and collapsed features."""

from collections.abc import Sequence

import numpy as np

from twostage_jax.config.schema import Config
from twostage_jax.data.split import SPLIT_SEED, stratified_indices
from twostage_jax.engine.members import TrialData, gather
from twostage_jax.engine.watch import FIGURES
from twostage_jax.runs.examples import Examples
from twostage_jax.runs.trials import Trials
from twostage_jax.store.epochs import VALIDATION_PREFIX, EpochRecord, last_loss
from twostage_jax.store.records import PretrainRecord

LIMIT = 2000  # largest number of labelled images, and of validation images
# Features are collapsed if they are nearly equal, or nearly multiples of one vector.
SMALLEST_SPREAD = 0.01
SMALLEST_RANK = 1.5
FEW_FEATURES = 8  # with fewer features, a rank near 1 is not a collapse
REMEDY = (
    "try a smaller --pretrain.learning-rate, or an objective with a term against collapse such as "
    "simclr or vicreg"
)


def watch_data(examples: Examples, trials: Trials) -> TrialData:
    """Return the examples from which the figures of an encoder are computed.

    These are at most 2,000 labelled images for each encoder and at most 2,000 validation images. If
    several trials share an encoder, the labels are those of the first of them. Without a validation
    split, the examples are at most 2,000 images of stage 1.
    """
    validation = examples.dataset.validation
    if not len(validation["label"]):
        random = np.random.RandomState(SPLIT_SEED)
        rows = np.sort(random.permutation(len(examples.images))[:LIMIT])
        return TrialData({"image": examples.images[rows]}, {})
    rows = _rows(validation["label"])
    held_out = {f"validation_{name}": validation[name][rows] for name in ("image", "label")}
    image = examples.dataset.train["image"]
    label = examples.label
    if label.ndim == 1:
        rows = _rows(label)
        return TrialData({"image": image[rows], "label": label[rows], **held_out}, {})
    numbers = trials.encoder_numbers.tolist()
    first = [numbers.index(encoder) for encoder in range(len(trials.encoders))]
    label = label[first]
    source = np.broadcast_to(np.arange(len(image)), (len(first), len(image)))
    if examples.drawn is not None:
        source = examples.drawn[first]
    rows = np.stack([_rows(labels) for labels in label])
    encoders = np.arange(len(first))
    own_data = {
        "image": gather(image, np.take_along_axis(source, rows, 1)),
        "label": gather(np.take_along_axis(label, rows, 1), encoders),
    }
    return TrialData(held_out, own_data)


def _rows(label: np.ndarray) -> np.ndarray:
    """Sorted rows of at most 2,000 labels, stratified by class."""
    return stratified_indices(label, min(LIMIT, len(label)))


def member_figures(record: EpochRecord, name: str) -> list[float | None]:
    """Return a figure of the encoder for each member; empty if it is missing."""
    for prefix, means in ((VALIDATION_PREFIX, record.validation), ("", record.metrics)):
        if name in means:
            return record.members.get(f"{prefix}{name}", [means[name]])
    return []


def find_collapsed(record: EpochRecord, features: int) -> list[int]:
    """Return the numbers of the members whose features have collapsed."""
    ranks = member_figures(record, "rank")
    spreads = member_figures(record, "spread")
    collapsed = []
    for member, (rank, spread) in enumerate(zip(ranks, spreads, strict=True)):
        if rank is None or spread is None:
            continue
        on_a_line = features >= FEW_FEATURES and rank < SMALLEST_RANK
        if spread < SMALLEST_SPREAD or on_a_line:
            collapsed.append(member)
    return collapsed


def describe_collapse(
    record: EpochRecord,
    features: int,
    names: Sequence[str],
    members: Sequence[int] | None = None,
) -> str | None:
    """Return a sentence about members whose features have collapsed; None if there are none.

    Args:
        record: record of the epoch.
        features: number of features D.
        names: names of all members.
        members: numbers of the members to describe, by default all of them.
    """
    collapsed = [x for x in find_collapsed(record, features) if _in(x, members)]
    if not collapsed:
        return None
    rank = member_figures(record, "rank")[collapsed[0]]
    who = f" of {names[collapsed[0]]}" if len(names) > 1 else ""
    more = f" (and of {len(collapsed) - 1:,} more)" if len(collapsed) > 1 else ""
    return (
        f"features{who}{more} have collapsed in epoch {record.epoch}: effective rank {rank:.1f} of "
        f"{features:,}; {REMEDY}"
    )


def pretrain_record(
    config: Config,
    records: Sequence[EpochRecord],
    kept: Sequence[int] | None,
    features: int,
    encoders: Sequence[int] | None = None,
) -> PretrainRecord:
    """Return the record of stage 1, with the figures of the epochs whose encoders are kept.

    Args:
        config: resolved config.
        records: records of all epochs of the stage.
        kept: epoch of each encoder; None for the last one.
        features: number of features D.
        encoders: numbers of the encoders to describe, by default all of them.
    """
    figures = {}
    for name in FIGURES:
        values = _kept_values(records, name, kept, encoders)
        if values:
            figures[name] = float(np.mean(values))
    chosen = None
    if kept is not None:
        chosen = [int(kept[number]) for number in range(len(kept)) if _in(number, encoders)]
    return PretrainRecord(
        config.pretrain.objective,
        len(records),
        last_loss(records, encoders),
        **figures,
        features=features if figures else None,
        kept=chosen,
        collapsed=_collapsed_at_end(records, features, encoders),
    )


def _in(number: int, encoders: Sequence[int] | None) -> bool:
    return encoders is None or number in encoders


def _kept_values(
    records: Sequence[EpochRecord],
    name: str,
    kept: Sequence[int] | None,
    encoders: Sequence[int] | None,
) -> list[float]:
    """Return the finite values of a figure, of each encoder at its own epoch."""
    if not records:
        return []
    values = []
    for encoder in range(len(member_figures(records[-1], name))):
        epoch = len(records) if kept is None else int(kept[encoder])
        if _in(encoder, encoders) and epoch > 0:
            values.append(member_figures(records[epoch - 1], name)[encoder])
    return [value for value in values if value is not None]


def _collapsed_at_end(
    records: Sequence[EpochRecord], features: int, encoders: Sequence[int] | None
) -> str | None:
    if not records:
        return None
    names = [f"encoder {number}" for number in range(len(member_figures(records[-1], "rank")))]
    return describe_collapse(records[-1], features, names, encoders)

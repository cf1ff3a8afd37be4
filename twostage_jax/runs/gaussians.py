"""The file with the Gaussians of a run's threshold."""

from collections.abc import Sequence
from pathlib import Path

from twostage_jax.data.npz import read_archive
from twostage_jax.errors import Corrupted, UserError
from twostage_jax.scores.detection import Gaussians
from twostage_jax.scores.figures import arrays_file
from twostage_jax.scores.rejection import needs_features
from twostage_jax.store.checksums import check_output
from twostage_jax.store.layout import REJECTION
from twostage_jax.store.records import Rejection


def gaussians_file(gaussians: Sequence[Gaussians]) -> dict[str, bytes]:
    """Return the content of the file, by its name; empty without Gaussians."""
    if not gaussians:
        return {}
    arrays = {
        f"{name}_{number}": values
        for number, encoder in enumerate(gaussians)
        for name, values in encoder._asdict().items()
    }
    return {REJECTION: arrays_file(arrays)}


def load_gaussians(folder: Path, rejection: Rejection | None) -> tuple[Gaussians, ...]:
    """Load the Gaussians of a run's threshold; empty if it needs none.

    Raises:
        Corrupted: if the file is missing or differs from what was written.
    """
    if rejection is None or not needs_features(rejection.score):
        return ()
    check_output(folder, REJECTION)
    try:
        arrays = read_archive(folder / REJECTION)
        count = sum(name.startswith("whiten_") for name in arrays)
        return tuple(
            Gaussians(*(arrays[f"{name}_{number}"] for name in Gaussians._fields))
            for number in range(count)
        )
    except (UserError, KeyError) as error:
        raise Corrupted(f"{folder / REJECTION} is corrupted: {error}") from error

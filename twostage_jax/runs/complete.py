"""A run that is resumed and has nothing left to do."""

from pathlib import Path

from twostage_jax.config.schema import Config
from twostage_jax.errors import Corrupted, UserError
from twostage_jax.runs.finish import PREDICTIONS, SWEEP_PLOT
from twostage_jax.runs.open import open_run
from twostage_jax.runs.pictures import PICTURES
from twostage_jax.runs.result import Result
from twostage_jax.runs.resume import resumed_folder
from twostage_jax.show.result import show_result
from twostage_jax.show.terminal import Terminal
from twostage_jax.store.checkpoint import Store
from twostage_jax.store.checksums import corrupted_outputs, write_files
from twostage_jax.store.layout import DUPLICATES, MATERIAL, REJECTION, REPORT, RESULT, remove_output
from twostage_jax.store.records import read_manifest


def complete_result(config: Config, trust_code: bool, terminal: Terminal) -> Result | None:
    """Show and return the result of a complete run.

    Returns None if the run is incomplete or a file is corrupted. The run then resumes from its
    verified files.
    """
    folder = resumed_folder(config)
    if not (folder / RESULT).is_file():
        return None
    if config.save_predictions and not read_manifest(folder).save_predictions:
        raise UserError(
            f"{folder} is complete: write its predictions with twostage evaluate {folder} "
            "--save-predictions"
        )
    try:
        finished = open_run(folder, trust_code)
        for stage in ("head",) if config.encoder_run else ("pretrain", "head"):
            Store(folder / stage).check()
        _check_outputs(folder, config, terminal)
    except Corrupted as error:
        terminal.notice(f"{error}: the run continues from what is intact, to the same result")
        return None
    show_result(finished.record, folder, finished.manifest.classes, terminal)
    return finished.result


def _check_outputs(folder: Path, config: Config, terminal: Terminal) -> None:
    """Verify plots and predictions; outputs that only `twostage evaluate` writes are removed.

    Raises:
        Corrupted: if an output that the run writes itself is corrupted.
    """
    predictions = PREDICTIONS.values() if config.save_predictions else ()
    written = (SWEEP_PLOT, *PICTURES, REPORT, MATERIAL, DUPLICATES, REJECTION, *predictions)
    removed = []
    for name, problem in corrupted_outputs(folder):
        if name in written:
            raise Corrupted(problem)
        removed.append(name)
        terminal.notice(
            f"{problem}; it is removed, and twostage evaluate --save-predictions writes it again"
        )
    for name in removed:
        remove_output(folder, name)
    if removed:
        write_files(folder, {})

"""Files that a run draws at its end: pictures, the page, and the arrays of the page."""

from collections.abc import Sequence

from twostage_jax.data.split import Split
from twostage_jax.runs.finish import Finished, Trained
from twostage_jax.runs.material import first_material, run_material
from twostage_jax.runs.pictures import draw_pictures, draw_stage_1, reconstruct
from twostage_jax.runs.plan import Plan, as_one_class
from twostage_jax.runs.preview import progress_arrays, read_progress
from twostage_jax.runs.report import draw_report
from twostage_jax.runs.result import ResultRecord
from twostage_jax.runs.steps import RunContext
from twostage_jax.scores.figures import arrays_file
from twostage_jax.stages.stage import Params
from twostage_jax.store.epochs import EpochRecord
from twostage_jax.store.layout import MATERIAL, REPORT
from twostage_jax.store.records import Manifest


def draw_run(
    context: RunContext,
    manifest: Manifest,
    trained: Trained,
    finished: Finished,
    record: ResultRecord,
) -> dict[str, bytes]:
    """Return the content of the files of a finished run, by name.

    Args:
        context: the run.
        manifest: content of `manifest.json`.
        trained: outcome of both stages.
        finished: outcome on the test split.
        record: content of `result.json`.
    """
    plan = context.plan
    epochs = [epoch for stage in trained.records.values() for epoch in stage]
    # The first of the chosen encoders stands for all of them.
    first = int(plan.trials.encoder_numbers[record.ensemble.rows[0]])
    decoded = reconstruct(plan, trained.pretrained, first, "test", finished.test)
    arrays = {
        **run_material(plan, context.programs, trained.pretrained, finished, decoded),
        **progress_arrays(plan, read_progress(context.folder)),
    }
    return {
        **draw_pictures(plan, epochs, finished, decoded),
        MATERIAL: arrays_file(arrays),
        REPORT: draw_report(context.folder, manifest, record, epochs, arrays, files=finished.files),
    }


def draw_pretrained(
    context: RunContext, manifest: Manifest, pretrained: Params, epochs: Sequence[EpochRecord]
) -> dict[str, bytes]:
    """Return the content of the files of a run of stage 1 alone, by name.

    Args:
        context: the run.
        manifest: content of `manifest.json`.
        pretrained: groups `[E, ...]` of stage 1; the first encoder stands for all of them.
        epochs: records of all epochs.
    """
    plan = context.plan
    name, split = _images_to_show(plan)
    decoded = reconstruct(plan, pretrained, 0, name, split)
    arrays = first_material(plan, pretrained, decoded, split)
    return {
        **draw_stage_1(epochs, decoded),
        MATERIAL: arrays_file(arrays),
        REPORT: draw_report(context.folder, manifest, None, epochs, arrays),
    }


def _images_to_show(plan: Plan) -> tuple[str, Split]:
    """Return the split whose images stage 1 reconstructs in a picture, and its name."""
    # The test split stays locked.
    held_out = plan.dataset.validation
    if len(held_out["label"]):
        return "validation", held_out
    train = plan.dataset.train
    return "train", train if len(train["label"]) else as_one_class(plan.examples.images)

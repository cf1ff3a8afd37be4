"""The page of one run."""

from collections.abc import Callable

from twostage_jax.show.report import checks, features, figures, guard, result
from twostage_jax.show.report.blocks import Section
from twostage_jax.show.report.content import Content
from twostage_jax.show.report.page import render_page

# In the order of the page. A section that is None has no data in this run.
SECTIONS: tuple[Callable[[Content], Section | None], ...] = (
    result.result_section,
    result.study_section,
    result.training_section,
    features.encoder_section,
    features.neighbours_section,
    figures.confusion_section,
    figures.classes_section,
    figures.calibration_section,
    guard.groups_section,
    guard.rejection_section,
    features.mistakes_section,
    guard.duplicates_section,
    checks.broken_section,
    checks.ensemble_section,
    checks.sweep_section,
    features.epochs_section,
    checks.proof_section,
    checks.environment_section,
    checks.repeat_section,
)


def render_run(content: Content) -> bytes:
    """Return the page of a run, `report.html`: one file that needs no other file."""
    sections = [section for make in SECTIONS if (section := make(content)) is not None]
    return render_page(f"{content.manifest.data.name}: run {content.name}", sections)

"""A data set in a few lines of text or HTML, as Python and notebooks print it."""

import html
from typing import TYPE_CHECKING

from twostage_jax.errors import printable, shortened

if TYPE_CHECKING:
    from twostage_jax.data.dataset import TrainingData

NOTES = 8  # at most; all of them are in `Dataset.notes`
LINE_LIMIT = 160  # characters of a value
CLASSES = 12  # names that are listed


def as_text(dataset: "TrainingData") -> str:
    """Return the kind, name and figures of a data set in at most fifteen lines."""
    rows = _figures(dataset)
    width = max(map(len, rows))
    lines = [f"  {name:{width}}  {value}" for name, value in rows.items()]
    name = shortened(repr(dataset.name), LINE_LIMIT)
    return "\n".join([f"{type(dataset).__name__}({name})", *lines, *_notes(dataset, "  note: ")])


def as_html(dataset: "TrainingData") -> str:
    """Return the same as a table."""
    rows = [
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
        for name, value in _figures(dataset).items()
    ]
    notes = "".join(f"<br>{html.escape(note)}" for note in _notes(dataset, ""))
    title = html.escape(printable(shortened(dataset.name, LINE_LIMIT)))
    return f"<table><caption>{title}</caption>{''.join(rows)}</table>{notes}"


def _figures(dataset: "TrainingData") -> dict[str, str]:
    sizes = (f"{name} {len(part['image']):,}" for name, part in dataset.splits.items())
    classes = dataset.classes
    more = f", … ({len(classes)} in all)" if len(classes) > CLASSES else ""
    values = {
        "examples": ", ".join(sizes),
        "images": f"{'×'.join(map(str, dataset.image_shape))}, uint8",
        "scale": dataset.scale,
        "classes": ", ".join(classes[:CLASSES]) + more,
        "fingerprint": dataset.fingerprint,
    }
    # A file may name its classes as it likes.
    return {name: printable(shortened(value, LINE_LIMIT)) for name, value in values.items()}


def _notes(dataset: "TrainingData", before: str) -> list[str]:
    notes = [before + printable(shortened(note, LINE_LIMIT)) for note in dataset.notes]
    if len(notes) > NOTES:
        return [*notes[: NOTES - 1], f"{before}{len(notes) - NOTES + 1} more in .notes"]
    return notes

"""Sections to HTML. Names of classes and files are escaped by the template."""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from twostage_jax.errors import printable
from twostage_jax.show.report.blocks import Section
from twostage_jax.show.report.images import data_address
from twostage_jax.show.report.vector import inline_svg, page_colour

FOLDER = Path(__file__).parent
TEMPLATE = "page.html"


def render_page(title: str, sections: Sequence[Section]) -> bytes:
    """Return a page with these sections.

    Args:
        title: name of the page.
        sections: at least one; the first one stands on top.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (FOLDER / "page.js").read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment.filters["address"] = data_address
    environment.filters["svg"] = inline_svg
    environment.filters["colour"] = page_colour
    text = environment.get_template(TEMPLATE).render(
        title=title,
        sections=sections,
        style=(FOLDER / "page.css").read_text(),
        script=script,
        # No script but this one may run, whatever a name contains.
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'",
    )
    return text.encode()


def _shown(value: object) -> object:
    """Escape control characters of texts; the template escapes HTML afterwards."""
    # A number and its unit stay on one line.
    return printable(value).replace(" %", "\N{NO-BREAK SPACE}%") if type(value) is str else value

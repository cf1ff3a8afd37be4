"""An SVG file of matplotlib as a part of the page: in its colours, and without its names."""

import re

from twostage_jax.show.figure import BLUE, GREY, MORE, ORANGE, STYLE

# Colours of the page, which has a light and a dark scheme, instead of those of a file.
COLOURS = {
    BLUE: "var(--blue)",
    ORANGE: "var(--orange)",
    GREY: "var(--muted)",
    STYLE["grid.color"]: "var(--line)",
    "#000000": "currentColor",
    **{colour: f"var(--more-{number})" for number, colour in enumerate(MORE[:-1])},
}
COLOURS = {colour.lower(): name for colour, name in COLOURS.items()}
ANY_COLOUR = re.compile(r"#[0-9a-fA-F]{6}\b")
HEAD = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>", re.DOTALL)
SIZE = re.compile(r'(<svg[^>]*?) width="([\d.]+)pt"', re.DOTALL)
HEIGHT = re.compile(r'(<svg[^>]*?) height="[\d.]+pt"', re.DOTALL)
FAMILY = re.compile(r"'DejaVu Sans'[^;\"]*")


def inline_svg(svg: bytes, name: str) -> str:
    """Return the element `<svg>` of a file for the page.

    Args:
        svg: content of a file, from `figure.as_file`.
        name: beginning of all identifiers, which must be unique on the page.
    """
    text = HEAD.sub("", svg.decode()).strip()
    text = HEIGHT.sub(r"\1", SIZE.sub(r'\1 style="--width: \2pt"', text, count=1), count=1)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(url\(|href=")#', rf"\1#{name}-", text)
    text = FAMILY.sub("var(--sans)", text)
    return ANY_COLOUR.sub(lambda match: page_colour(match.group()), text)


def page_colour(colour: str) -> str:
    """Return the page's own colour instead of one of a drawing, `#rrggbb`; others stay.

    >>> page_colour("#0072B2"), page_colour("#123456")
    ('var(--blue)', '#123456')
    """
    return COLOURS.get(colour.lower(), colour)

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
    colours = "|".join(map(re.escape, COLOURS))
    return re.sub(f"(?i)({colours})(?![0-9a-f])", lambda match: COLOURS[_key(match.group())], text)


def _key(colour: str) -> str:
    # matplotlib writes small letters.
    return next(name for name in COLOURS if name.lower() == colour.lower())

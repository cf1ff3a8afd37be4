"""Common style of all pictures: size, fonts and colours; and their PNG and SVG files."""

import contextlib
import io
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, TypeAlias

from twostage_jax.errors import printable

if TYPE_CHECKING:  # the import takes half a second, and most commands draw nothing
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Kind: TypeAlias = Literal["png", "svg", "page"]
WIDTH = 7.0  # inches
DPI = 150  # a README that shows 700 pixels shrinks this width by a third
# Okabe and Ito's colours, which colour-blind people can tell apart.
BLUE = "#0072B2"
ORANGE = "#D55E00"
MORE = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
COLOURS = (BLUE, ORANGE, *MORE)
GREY = "#666666"
STYLE: dict = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.edgecolor": GREY,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Draw within this block, without the user's own settings of matplotlib."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        # Names of classes can be in a script that the font lacks; a box stands for each letter.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        warnings.filterwarnings("ignore", category=matplotlib.MatplotlibDeprecationWarning)
        matplotlib.rcdefaults()
        with matplotlib.rc_context(STYLE):
            yield


def new_figure(height: float, width: float = WIDTH) -> "Figure":
    """Make a figure of the common width, in inches; call it within `style`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI)
    # The canvas of the command line, whatever the user's notebook would choose.
    FigureCanvasAgg(figure)
    return figure


def place_axes(figure: "Figure", left: float, right: float, bottom: float, top: float) -> "Axes":
    """Add axes with margins in inches. It is ten times faster than a layout that is computed."""
    width, height = figure.get_size_inches()
    box = (left, bottom, width - left - right, height - bottom - top)
    x, y, w, h = box
    return figure.add_axes((x / width, y / height, w / width, h / height))


def as_png(figure: "Figure") -> bytes:
    """Content of a PNG file. The same figure always gives the same bytes."""
    file = io.BytesIO()
    # Without the version of matplotlib, the bytes do not depend on it.
    figure.savefig(file, dpi=DPI, format="png", metadata={"Software": None})
    return file.getvalue()


def as_svg(figure: "Figure", transparent: bool = False) -> bytes:
    """Content of an SVG file with text as text. The same figure always gives the same bytes."""
    import matplotlib

    file = io.BytesIO()
    # Without a date and with a fixed salt, identifiers and bytes do not change.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "twostage"}):
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=metadata, transparent=transparent)
    return file.getvalue()


def as_file(figure: "Figure", kind: Kind) -> bytes:
    """Content of a file: `png`, `svg`, or `page`, an SVG that shows the page behind it."""
    return as_png(figure) if kind == "png" else as_svg(figure, transparent=kind == "page")


def short_name(name: object, limit: int) -> str:
    """Name of a class for a picture: printable, and at most `limit` characters long."""
    text = printable(str(name))
    if len(text) <= limit:
        return text
    # Names of many classes differ at the end, as in `class 17`.
    end = limit // 3
    return f"{text[: limit - end - 1]}…{text[-end:]}"

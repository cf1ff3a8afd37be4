"""Parts of a section of the page. `page.html` has a macro for each kind."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, TypeAlias

import numpy as np


@dataclass(frozen=True)
class Text:
    """A paragraph.

    Attributes:
        words: the sentence or sentences.
        tone: `plain`, `answer` for the first sentence of the page, or `warning`.
    """

    words: str
    tone: str = "plain"
    kind: ClassVar[str] = "text"


class Fact(NamedTuple):
    """A value with its name, and a note in smaller letters."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Facts:
    """Names and values; `large` for the few that matter most."""

    facts: Sequence[Fact]
    large: bool = False
    kind: ClassVar[str] = "facts"


@dataclass(frozen=True)
class Table:
    """A table. The first column is text on the left; the others are on the right.

    Attributes:
        caption: what the table shows.
        columns: names of the columns.
        rows: a text for each column.
        left: number of columns on the left.
        sortable: True if a click on a column sorts the rows.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1
    sortable: bool = False
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Drawing:
    """A drawing.

    Attributes:
        name: name of the drawing, unique on the page.
        svg: content of an SVG file.
        alt: the drawing in words, for people who do not see it.
        caption: text below it.
        wide: True for a drawing of the full width.
        legend: colours `#rrggbb` with their names.
    """

    name: str
    svg: bytes
    alt: str
    caption: str = ""
    wide: bool = False
    legend: Sequence[tuple[str, str]] = ()
    kind: ClassVar[str] = "drawing"


@dataclass(frozen=True)
class Drawings:
    """Drawings side by side, where the page is wide enough."""

    drawings: Sequence[Drawing]
    kind: ClassVar[str] = "drawings"


class Picture(NamedTuple):
    """Images side by side, with lines of text below.

    Attributes:
        images: uint8 `[H, W, C]` each.
        alt: the picture in words.
        lines: text below; the first line stands out.
        wrong: True for a picture that shows a mistake.
    """

    images: Sequence[np.ndarray]
    alt: str
    lines: Sequence[str] = ()
    wrong: bool = False


@dataclass(frozen=True)
class Gallery:
    """Pictures in rows."""

    caption: str
    pictures: Sequence[Picture]
    kind: ClassVar[str] = "gallery"


@dataclass(frozen=True)
class Matrix:
    """Counts `[K][K]` of true classes (rows) and predicted classes (columns)."""

    caption: str
    classes: Sequence[str]
    counts: Sequence[Sequence[int]]
    kind: ClassVar[str] = "matrix"


@dataclass(frozen=True)
class Commands:
    """Lines to copy into a terminal."""

    lines: Sequence[str]
    kind: ClassVar[str] = "commands"


Block: TypeAlias = Text | Facts | Table | Drawing | Drawings | Gallery | Matrix | Commands


class Section(NamedTuple):
    """A section of the page; `name` is its address on the page."""

    name: str
    title: str
    blocks: Sequence[Block]

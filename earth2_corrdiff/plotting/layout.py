# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Layout of a figure in inches: a grid of equal maps under a heading.

Sizes are computed, so that nothing overlaps with any shape of the domain, and all frames of an animation
have one geometry.
"""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass

from matplotlib.figure import Figure

Box = tuple[float, float, float, float]

PANEL_AREA = 4.5**2
WIDEST, TALLEST = 9.0, 7.5
COLUMN = 3.1  # of a panel's title and its arrow key, at least
LEFT, RIGHT, BOTTOM, GAP = 0.75, 0.3, 0.1, 0.36
PANEL_TITLE, LON_LABELS, BAR, BAR_LABELS = 0.4, 0.36, 0.14, 0.3
TOP = 0.14


@dataclass(frozen=True)
class TextLook:
    """Font of a line of the heading, its height in inches and its characters per inch."""

    size: float
    color: str
    weight: str
    height: float
    characters: float


TITLE_LOOK = TextLook(14, "black", "bold", 0.3, 8.3)
SYNTHETIC_LOOK = TextLook(10.5, "#a8321f", "bold", 0.24, 11.0)
NOTE_LOOK = TextLook(8, "0.35", "normal", 0.17, 14.5)
CREDIT_LOOK = TextLook(6.5, "0.35", "normal", 0.14, 17.5)


@dataclass(frozen=True)
class Heading:
    """The lines above the maps: subject, time, notes on synthetic data and on the data's makers, provenance.

    Those of the notes that are empty are left out.
    """

    what: str
    when: str
    note: str
    synthetic: str = ""
    credit: str = ""

    def lines(self, width: float) -> list[tuple[str, TextLook]]:
        """All lines and their fonts, wrapped to a width in inches."""
        title = f"{self.what} · {self.when}"
        titles = [title] if len(title) <= width * TITLE_LOOK.characters else [self.what, self.when]
        parts = [(text, TITLE_LOOK) for text in titles]
        parts += [(self.synthetic, SYNTHETIC_LOOK)] if self.synthetic else []
        parts += [(self.note, NOTE_LOOK), (self.credit, CREDIT_LOOK)]
        return [
            (line, look)
            for text, look in parts
            for line in textwrap.wrap(text, max(int(width * look.characters), 20))
        ]

    def height(self, width: float) -> float:
        """Height of all lines in inches."""
        return TOP + sum(look.height for _, look in self.lines(width))


@dataclass(frozen=True)
class Layout:
    """`rows` x `columns` maps of `width` x `height` inches, under `head` inches of heading."""

    rows: int
    columns: int
    width: float
    height: float
    head: float

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of the figure in inches."""
        width = LEFT + _inner_width(self.columns, self.width) + RIGHT
        return width, self.head + self.rows * self._row + BOTTOM

    @property
    def _row(self) -> float:
        return PANEL_TITLE + self.height + LON_LABELS + BAR + BAR_LABELS

    def map_box(self, row: int, column: int) -> Box:
        """Left, bottom, width and height of a map, as fractions of the figure."""
        top = self.head + row * self._row + PANEL_TITLE
        return self._fractions(self._left(column), top + self.height, self.height)

    def bar_box(self, row: int, column: int) -> Box:
        """The same of its colour bar, below the longitude labels."""
        top = self.head + row * self._row + PANEL_TITLE + self.height + LON_LABELS
        return self._fractions(self._left(column), top + BAR, BAR)

    def _left(self, column: int) -> float:
        return LEFT + column * (max(self.width, COLUMN) + GAP)

    def _fractions(self, left: float, foot: float, height: float) -> Box:
        w, h = self.size
        return left / w, 1.0 - foot / h, self.width / w, height / h


def arrange(rows: int, columns: int, aspect: float, heading: Heading) -> Layout:
    """Lay out maps whose width is `aspect` times their height."""
    width = min(math.sqrt(PANEL_AREA * aspect), WIDEST, TALLEST * aspect)
    return Layout(rows, columns, width, width / aspect, heading.height(_inner_width(columns, width)))


def _inner_width(columns: int, width: float) -> float:
    return columns * max(width, COLUMN) + (columns - 1) * GAP


def draw_heading(figure: Figure, heading: Heading) -> None:
    """Write the heading's lines from the top, left-aligned with the maps."""
    w, h = figure.get_size_inches()
    down = TOP
    for text, look in heading.lines(w - LEFT - RIGHT):
        figure.text(
            LEFT / w,
            1.0 - down / h,
            text,
            va="top",
            ha="left",
            fontsize=look.size,
            color=look.color,
            fontweight=look.weight,
            parse_math=False,
        )
        down += look.height

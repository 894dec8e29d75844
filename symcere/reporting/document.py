"""A report as a value: sections of text, tables and figures, which three writers turn into a page, Markdown, LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawn


@dataclass(frozen=True)
class Cell:
    """One figure of a table.

    Attributes:
        spread: what stands small beside it (``± 0.0012``).
        marks: stars of significance.
        best, second: best and second best of their row.
        good: +1 and -1 colour it as better and worse.
    """

    text: str
    spread: str = ""
    marks: str = ""
    best: bool = False
    second: bool = False
    good: int = 0


Row = Sequence[Cell | str]


@dataclass(frozen=True)
class Table:
    """A table; its ``name`` is that of its file, its first ``stub`` columns are words.

    Attributes:
        note: small print below it.
        folded: shown on the page only when asked for.
    """

    name: str
    caption: str
    head: Sequence[str]
    rows: Sequence[Row]
    stub: int = 1
    note: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Figure:
    """A picture; ``caption`` says what to see in it, and stands in for it where it cannot be seen."""

    name: str
    caption: str
    drawn: Drawn


@dataclass(frozen=True)
class Text:
    """A paragraph; `` `words` `` between back-quotes are code. ``missing``: it says what is not there, and why."""

    text: str
    missing: bool = False


Block = Text | Table | Figure


@dataclass(frozen=True)
class Section:
    title: str
    blocks: Sequence[Block]

    @property
    def anchor(self) -> str:
        return "-".join("".join(c if c.isalnum() else " " for c in self.title.lower()).split())


@dataclass(frozen=True)
class Document:
    """The whole report.

    Attributes:
        lead: what it all comes to, in one or two sentences.
        facts: figures shown at the head, by name.
        gaps: what is missing, said at the head.
    """

    title: str
    subtitle: str
    lead: Sequence[str]
    facts: dict[str, str]
    gaps: Sequence[str] = ()
    sections: Sequence[Section] = field(default_factory=tuple)

    def tables(self) -> list[Table]:
        return [block for section in self.sections for block in section.blocks if isinstance(block, Table)]

    def figures(self) -> list[Figure]:
        return [block for section in self.sections for block in section.blocks if isinstance(block, Figure)]


def cell(value: Cell | str) -> Cell:
    return value if isinstance(value, Cell) else Cell(value)

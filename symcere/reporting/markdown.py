"""A report as Markdown: the same text and tables, figures by the files beside it."""

from __future__ import annotations

from symcere.reporting.document import Cell, Document, Figure, Table, Text, cell


def markdown(document: Document, figures: str = "figures") -> str:
    """The whole report.

    Args:
        figures: folder of the pictures, beside the file.
    """
    parts = [f"# {document.title}", document.subtitle, *document.lead]
    parts.append(" · ".join(f"{name}: {value}" for name, value in document.facts.items()))
    if document.gaps:
        parts += ["**Read this first**", "\n".join(f"- {gap}" for gap in document.gaps)]
    for section in document.sections:
        parts.append(f"## {section.title}")
        for block in section.blocks:
            if isinstance(block, Text):
                parts.append(block.text)
            elif isinstance(block, Table):
                parts.append(table(block))
            elif isinstance(block, Figure):
                parts.append(f"![{block.caption.replace('`', '')}]({figures}/{block.name}.png)\n\n*{block.caption}*")
    return "\n\n".join(parts) + "\n"


def table(block: Table) -> str:
    """One table, with its caption above and its note below."""
    lines = [
        _line(block.head),
        _line([":--" if n < block.stub else "--:" for n in range(len(block.head))]),
        *(_line([_cell(cell(value)) for value in row]) for row in block.rows),
    ]
    return "\n\n".join(filter(None, [f"**{block.caption}**", "\n".join(lines), block.note.replace(" * ", r" \* ")]))


def _line(cells: object) -> str:
    return "| " + " | ".join(str(c).replace("|", r"\|").replace("\n", " ") for c in cells) + " |"  # type: ignore[attr-defined]


def _cell(value: Cell) -> str:
    text = f"**{value.text}**" if value.best else f"_{value.text}_" if value.second else value.text
    marks = value.marks.replace("*", r"\*")
    return text + marks + (f" {value.spread}" if value.spread else "")

"""A report as one page: styles and pictures inside it, nothing fetched, light or dark as the reader's screen is."""

from __future__ import annotations

import base64
import re
from html import escape
from pathlib import Path

from symcere.plots import svg
from symcere.reporting.document import Block, Cell, Document, Figure, Row, Section, Table, Text, cell

DENSE = 9
"""Tables of more columns put spreads below their means."""


def page(document: Document) -> str:
    """The page as HTML. A policy in its head forbids it to load anything."""
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    contents = "".join(f'<li><a href="#{s.anchor}">{escape(s.title)}</a></li>' for s in document.sections)
    facts = "".join(f"<div><dd>{escape(v)}</dd><dt>{escape(k)}</dt></div>" for k, v in document.facts.items())
    lead = "".join(f"<p>{_inline(text)}</p>" for text in document.lead)
    gaps = "".join(f"<li>{_inline(text)}</li>" for text in document.gaps)
    gaps = f'<aside class="gaps"><h2>Read this first</h2><ul>{gaps}</ul></aside>' if gaps else ""
    body = "\n".join(_section(section) for section in document.sections)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<link rel="icon" href="data:,">
<title>{escape(document.title)} · symcere</title>
<style>
{style}</style>
</head>
<body>
<main>
<header>
<p class="kind">symcere · report</p>
<h1>{escape(document.title)}</h1>
<p class="subtitle">{escape(document.subtitle)}</p>
<div class="lead">{lead}</div>
<dl class="facts">{facts}</dl>
</header>
{gaps}
<nav aria-label="Contents"><ol>{contents}</ol></nav>
{body}
</main>
</body>
</html>
"""


def _section(section: Section) -> str:
    """Figures that follow each other stand side by side where there is room."""
    parts: list[str] = []
    row: list[str] = []
    for block in [*section.blocks, None]:
        if isinstance(block, Figure):
            row.append(_figure(block))
            continue
        if row:
            parts.append(f'<div class="figures">{"".join(row)}</div>' if len(row) > 1 else row[0])
            row = []
        if block is not None:
            parts.append(_block(block))
    return f'<section id="{section.anchor}">\n<h2>{escape(section.title)}</h2>\n' + "\n".join(parts) + "\n</section>"


def _block(block: Block) -> str:
    if isinstance(block, Text):
        return f"<p{' class=missing' if block.missing else ''}>{_inline(block.text)}</p>"
    assert isinstance(block, Table)
    return _table(block)


def _figure(figure: Figure) -> str:
    picture = base64.b64encode(svg(figure.drawn).encode()).decode()
    inches = figure.drawn.get_figwidth()
    return (
        f'<figure><img alt="{escape(_bare(figure.caption), quote=True)}" style="width:{inches * 100:.0f}px" '
        f'src="data:image/svg+xml;base64,{picture}"><figcaption>{_inline(figure.caption)}</figcaption></figure>'
    )


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col"{_words(n, table)}>{escape(title)}</th>' for n, title in enumerate(table.head))
    rows = "\n".join(_row(row, table, before) for row, before in zip(table.rows, [None, *table.rows], strict=False))
    note = f'<p class="note">{_inline(table.note)}</p>' if table.note else ""
    caption = _inline(table.caption)
    kind = " class=dense" if len(table.head) > DENSE else ""
    inside = f"<table{kind}>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table>"
    # The caption stands outside what scrolls, so that it stays in sight.
    if table.folded:
        return f'<details><summary>{caption}</summary><div class="scroll">{inside}</div>{note}</details>'
    return f'<div class="table"><p class="caption">{caption}</p><div class="scroll">{inside}</div>{note}</div>'


def _row(row: Row, table: Table, before: Row | None) -> str:
    """A row; where several columns are words, what the row before says already is left out, and a line parts groups."""
    cells = []
    same = before is not None and table.stub > 1
    for n, value in enumerate(row):
        shown = cell(value)
        same = same and n < table.stub - 1 and before is not None and before[n] == value
        tag = "th scope=row" if n == 0 else "td"
        marked = any(cell(other[n]).marks for other in table.rows)
        cells.append(f"<{tag}{_words(n, table)}>{'' if same else _cell(shown, marked)}</{tag.split()[0]}>")
    new = before is not None and table.stub > 1 and before[0] != row[0]
    return f"<tr{' class=group' if new else ''}>{''.join(cells)}</tr>"


def _words(column: int, table: Table) -> str:
    return " class=words" if column < table.stub else ""


def _cell(value: Cell, marked: bool = False) -> str:
    """``marked``: a neighbour above or below has stars, so that room is kept for them and digits stay aligned."""
    text = _inline(value.text)
    if value.best:
        text = f"<strong>{text}</strong>"
    elif value.second:
        text = f"<u>{text}</u>"
    if value.marks or marked:
        text += f'<sup class="marks">{value.marks}</sup>'
    if value.good:
        text = f'<span class="{"better" if value.good > 0 else "worse"}">{text}</span>'
    return text + (f" <small>{_inline(value.spread)}</small>" if value.spread else "")


def _inline(text: str) -> str:
    """Escaped, with code, strong and emphasis."""
    text = escape(text, quote=False)
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    text = re.sub(r"\*\*(\w[^*]*)\*\*", r"<strong>\1</strong>", text)
    return re.sub(r"(?<!\w)_(\w[^_]*)_(?!\w)", r"<u>\1</u>", text)


def _bare(text: str) -> str:
    return text.replace("`", "")

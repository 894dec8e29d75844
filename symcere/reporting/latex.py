"""Tables of a report for a paper: LaTeX with booktabs."""

from __future__ import annotations

import re

from symcere.reporting.document import Cell, Table, cell

_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "\u00a0": "~", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "|": r"\textbar{}",
    "±": r"$\pm$", "−": "$-$", "τ": r"$\tau$", "λ": r"$\lambda$", "≥": r"$\geq$", "·": r"$\cdot$", "–": "--",
    "…": r"\dots{}",
}  # fmt: skip


def escape(text: str) -> str:
    """Text as LaTeX shows it."""
    return "".join(_SPECIAL.get(c, c) for c in text)


def table(block: Table) -> str:
    r"""A ``table*`` float; the preamble needs ``\usepackage{booktabs}``."""
    columns = "l" * block.stub + "r" * (len(block.head) - block.stub)
    lines = [
        r"\begin{table*}[t]",
        r"\centering",
        rf"\caption{{{_text(block.caption)}}}",
        rf"\label{{tab:{block.name.replace('_', '-')}}}",
        r"\scriptsize\setlength{\tabcolsep}{3pt}" if len(block.head) > 9 else r"\small",
        rf"\begin{{tabular}}{{@{{}}{columns}@{{}}}}",
        r"\toprule",
        _line(escape(title) for title in block.head),
        r"\midrule",
    ]
    for row, before in zip(block.rows, [None, *block.rows], strict=False):
        if before is not None and block.stub > 1 and before[0] != row[0]:
            lines.append(r"\addlinespace")
        lines.append(_line(_cell(cell(value)) for value in row))
    lines += [r"\bottomrule", r"\end{tabular}"]
    if block.note:
        lines.append(rf"\par\smallskip\footnotesize {_text(block.note)}")
    return "\n".join([*lines, r"\end{table*}", ""])


def _line(cells: object) -> str:
    return " & ".join(cells) + r" \\"  # type: ignore[arg-type]


def _cell(value: Cell) -> str:
    text = _text(value.text)
    text = rf"\textbf{{{text}}}" if value.best else rf"\underline{{{text}}}" if value.second else text
    if value.marks:
        text += rf"$^{{{value.marks.replace('*', chr(92) + 'ast ').strip()}}}$"
    return text + (rf" {{\scriptsize {escape(value.spread)}}}" if value.spread else "")


def _text(text: str) -> str:
    r"""Escaped; `` `code` `` as ``\texttt``, ``**strong**`` and ``_second_`` as in the tables."""
    parts = re.split(r"`([^`]+)`", text)
    shown = []
    for n, part in enumerate(parts):
        if n % 2:
            shown.append(rf"\texttt{{{escape(part)}}}")
            continue
        marked = re.split(r"\*\*(\w[^*]*)\*\*", part)
        shown += [rf"\textbf{{{escape(p)}}}" if m % 2 else _underlined(p) for m, p in enumerate(marked)]
    return "".join(shown)


def _underlined(text: str) -> str:
    parts = re.split(r"(?<!\w)_(\w[^_]*)_(?!\w)", text)
    return "".join(rf"\underline{{{escape(p)}}}" if n % 2 else escape(p) for n, p in enumerate(parts))

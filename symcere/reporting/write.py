"""A report as files in one folder, which appears whole or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from symcere.home import writing
from symcere.plots import save
from symcere.reporting.document import Document
from symcere.reporting.html import page
from symcere.reporting.latex import table as latex_table
from symcere.reporting.markdown import markdown


@dataclass(frozen=True)
class Written:
    """Where a report lies.

    Attributes:
        page: the page that needs nothing beside it.
        tables: LaTeX, one file for each table.
        figures: PNG and PDF of each figure.
    """

    folder: Path
    page: Path
    markdown: Path
    tables: list[Path]
    figures: list[Path]


def write(document: Document, folder: Path) -> Written:
    """Writes ``report.html``, ``report.md``, ``tables/NAME.tex`` and ``figures/NAME.{png,pdf}``; an older report in
    ``folder`` is replaced.

    Raises:
        UserError: the folder cannot be written.
    """
    with writing(folder, mark="report.md", holds=("report.*", "tables", "figures")) as temporary:
        for part in ("tables", "figures"):
            (temporary / part).mkdir(parents=True)
        (temporary / "report.html").write_text(page(document), encoding="utf-8")
        (temporary / "report.md").write_text(markdown(document), encoding="utf-8")
        for table in document.tables():
            (temporary / "tables" / f"{table.name}.tex").write_text(latex_table(table), encoding="utf-8")
        for figure in document.figures():
            for ending in ("png", "pdf"):
                save(figure.drawn, temporary / "figures" / f"{figure.name}.{ending}")
    return Written(
        folder,
        folder / "report.html",
        folder / "report.md",
        sorted((folder / "tables").iterdir()),
        sorted((folder / "figures").iterdir()),
    )

"""One document as a page, as Markdown, as LaTeX."""

import base64
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest

from symcere import plots
from symcere.reporting.document import Cell, Document, Figure, Section, Table, Text
from symcere.reporting.html import page
from symcere.reporting.latex import escape
from symcere.reporting.latex import table as latex
from symcere.reporting.markdown import markdown
from symcere.reporting.markdown import table as as_markdown
from symcere.reporting.write import write

TABLE = Table(
    "main_ndcg",
    "NDCG@10 & more, 100 %",
    ["data set", "method", "NDCG@10", "gain"],
    [
        ["hotels_<b>", "a|b", Cell("0.0815", "± 0.0028", best=True), Cell("+10.0\u00a0%", marks="**", good=1)],
        ["hotels_<b>", "c", Cell("0.0700", second=True), "–"],
        ["inns", "a|b", "0.1", Cell("−3.0\u00a0%", marks="*", good=-1)],
    ],
    stub=2,
    note="**Best** and _second best_. Stars: * p < .05.",
)


@pytest.fixture(scope="module")
def document() -> Document:
    drawn = plots.temperature_curve([0.1, 0.2, 0.4], {"hotels": np.array([0.1, 0.3, 0.2])})
    return Document(
        "quick <test>",
        "A sweep",
        ["It is +10 % better & more."],
        {"trials": "12"},
        ["Nothing is said about `x < y`."],
        [
            Section(
                "Accuracy, first",
                [Text("In `code`."), TABLE, Figure("curve", "A `curve`", drawn), Text("None.", missing=True)],
            )
        ],
    )


class Seen(HTMLParser):
    """Every element with its attributes; fails where a tag is closed that is not open."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_well_formed_and_needs_nothing_from_outside(document):
    text = page(document)
    seen = Seen(text)
    assert seen.open == []
    assert not {tag for tag, _ in seen.elements} & {"script", "iframe", "object", "video"}
    for tag, attrs in seen.elements:
        for name in ("src", "href"):
            if name in attrs:
                assert attrs[name].startswith(("data:", "#")), (tag, attrs)
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in text
    links = [a["href"][1:] for t, a in seen.elements if t == "a"]
    assert set(links) <= {a.get("id") for _, a in seen.elements}


def test_words_of_the_store_are_shown_and_never_run(document):
    text = page(document)
    assert "<test>" not in text
    assert "hotels_<b>" not in text
    shown = "".join(Seen(text).text)
    assert "quick <test>" in shown
    assert "hotels_<b>" in shown
    assert "x < y" in shown
    assert "* p < .05." in shown


def test_pictures_lie_inside_the_page_as_valid_svg_without_letters_that_need_a_font(document):
    (source,) = [a["src"] for t, a in Seen(page(document)).elements if t == "img"]
    kind, _, data = source.partition(",")
    assert kind == "data:image/svg+xml;base64"
    picture = ElementTree.fromstring(base64.b64decode(data))
    assert picture.tag.endswith("svg")
    assert not list(picture.iter("{http://www.w3.org/2000/svg}text"))
    assert len(list(picture.iter("{http://www.w3.org/2000/svg}path"))) > 10


def test_the_same_report_is_the_same_page(document):
    assert page(document) == page(document)


def test_marks_best_and_gains_are_marked_up(document):
    text = page(document)
    assert "<strong>0.0815</strong> <small>± 0.0028</small>" in text
    assert "<u>0.0700</u>" in text
    assert re.search(r'<span class="better">\+10.0.%<sup class="marks">\*\*</sup></span>', text)
    assert re.search(r'<span class="worse">−3.0.%<sup class="marks">\*</sup></span>', text)
    assert '–<sup class="marks"></sup>' in text  # room is kept, digits stay aligned
    assert text.count("hotels_&lt;b&gt;") == 1  # said once for the rows that follow each other


def test_markdown_has_every_row_with_every_column(document):
    lines = [line for line in as_markdown(TABLE).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 3
    assert {len(re.split(r"(?<!\\)\|", line)) for line in lines} == {4 + 2}
    assert r"| hotels_<b> | a\|b | **0.0815** ± 0.0028 | +10.0" in lines[2]
    assert r"%\*\* |" in lines[2]
    text = markdown(document)
    assert "![A curve](figures/curve.png)" in text
    assert "- Nothing is said about `x < y`." in text


def test_latex_is_booktabs_with_every_special_escaped():
    text = latex(TABLE)
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == 1
    assert r"\begin{tabular}{@{}llrr@{}}" in text
    assert r"\caption{NDCG@10 \& more, 100 \%}" in text
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert [len(re.findall(r"(?<!\\)&", row)) for row in rows] == [3] * 4
    assert (
        r"hotels\_$<$b$>$ & a\textbar{}b & \textbf{0.0815} {\scriptsize $\pm$ 0.0028} & +10.0~\%$^{\ast \ast}$"
        in rows[1]
    )
    assert r"\underline{0.0700}" in rows[2]
    assert text.count(r"\addlinespace") == 1
    assert r"\textbf{Best} and \underline{second best}. Stars: * p $<$ .05." in text
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    assert escape(r"\{~^}") == r"\textbackslash{}\{\textasciitilde{}\textasciicircum{}\}"


def test_wide_tables_are_set_closer():
    wide = Table("w", "Wide", [f"m{n}" for n in range(12)], [[Cell("0.1", "± 0.2")] * 12])
    assert "<table class=dense>" in page(Document("", "", [], {}, (), [Section("s", [wide])]))
    assert r"\tabcolsep" in latex(wide)
    assert r"\tabcolsep" not in latex(TABLE)


def test_all_files_appear_together(document, tmp_path):
    written = write(document, tmp_path / "report")
    assert sorted(p.name for p in written.figures) == ["curve.pdf", "curve.png"]
    assert (tmp_path / "report/figures/curve.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "report/figures/curve.pdf").read_bytes().startswith(b"%PDF")
    assert [p.name for p in written.tables] == ["main_ndcg.tex"]
    assert [p.name for p in tmp_path.iterdir()] == ["report"]
    write(Document("again", "", [], {}), tmp_path / "report")  # replaced as a whole
    assert not list((tmp_path / "report/figures").iterdir())

"""``symcere explain``: one pair and a whole model, what is written, what is said of bad input."""

import json
from html.parser import HTMLParser

import numpy as np
import pytest

from symcere import console, steps, tracking
from symcere.cli import main
from symcere.errors import UserError


class Page(HTMLParser):
    """Checks that tags nest, and gathers text and what a page would load."""

    def __init__(self, text):
        super().__init__()
        self.open, self.texts, self.loads = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.loads += [v for k, v in attributes if k in ("src", "href") and not str(v).startswith(("#", "data:"))]
        if tag not in ("meta", "link", "br", "input", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture
def pair(world):
    entries = world.corpus.val.tocoo().coords
    return world.corpus.user_ids[int(entries[0][0])].as_py(), world.corpus.item_ids[int(entries[1][0])].as_py()


def test_a_pair_in_terminal_and_page(in_world, pair, tmp_path, capsys):
    user, item = pair
    page = tmp_path / "why.html"
    assert main(["explain", in_world.text, "--user", user, "--item", item, "--html", str(page)]) == 0
    told = capsys.readouterr().out
    assert user in told
    assert "alignment" in told
    parsed = Page(page.read_text(encoding="utf-8"))
    assert parsed.loads == []
    report = steps.explain(in_world.text, user, item)
    texts = "".join(parsed.texts)
    for one in report.explanation.reviews:
        assert one.worded.text in told  # whole, coloured or not
        assert one.worded.text in texts
    assert report.known is False
    assert json.loads(json.dumps(console.plain(report)))["words"][0]["weight"] > 0


def test_names_and_reviews_take_their_own_direction(in_world, pair):
    from symcere.explanation import report as module

    report = steps.explain(in_world.text, *pair, samples=20, reviews=1)
    object.__setattr__(report, "user", "משתמש <7>")
    object.__setattr__(report, "title", "גיטרה 5")
    report.writers[0] = "קונה 3"
    page = module.page(report)
    assert "<h1><bdi>משתמש &lt;7&gt;</bdi> and <bdi>גיטרה 5</bdi></h1>" in page
    assert "user <b><bdi>משתמש &lt;7&gt;</bdi></b> to item <b><bdi>גיטרה 5</bdi></b>" in page
    assert '<h3>by <bdi>קונה 3</bdi></h3><p dir="auto">' in page
    Page(page)


def test_reviews_cannot_inject_markup(in_world, pair, monkeypatch):
    from symcere.explanation import report as module

    report = steps.explain(in_world.text, *pair, samples=20, reviews=1)
    one = report.explanation.reviews[0]
    text = '<script>alert("x")</script> & <b>$title'
    evil = type(one)(one.row, type(one.worded).of(text), np.linspace(-1, 1, 5))
    object.__setattr__(report.explanation, "reviews", [evil])
    object.__setattr__(report, "user", "<i>me</i>")
    page = module.page(report)
    assert "<script" not in page
    assert "<i>me" not in page
    assert text in "".join(Page(page).texts)


def test_the_users_side(in_world, pair):
    report = steps.explain(in_world.text, *pair, side="user", samples=40)
    user = in_world.corpus.user_index(pair[0])
    own = range(*in_world.corpus.train.indptr[user : user + 2])
    assert {one.row for one in report.explanation.reviews} <= set(own)
    assert set(report.writers) <= set(in_world.corpus.item_ids.to_pylist())


def test_the_whole_is_written_and_logged(in_world, tmp_path, capsys):
    out = tmp_path / "found"
    out.mkdir()
    (out / "mine.txt").write_text("stays")
    line = ["explain", in_world.text, "--pairs", "9", "--samples", "30", "--reviews", "2", "--out", str(out)]
    assert main([*line, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["pairs"] == 9
    assert {c["class"] for c in told["classes"]} == {"objective", "sentiment", "function"}
    assert -1 <= told["objective_against_sentiment"]["within_pairs"]["delta"] <= 1
    assert json.loads((out / "explanation.json").read_text(encoding="utf-8")) == told
    assert {p.name for p in out.iterdir()} == {
        "mine.txt", "explanation.json", "explanation.html", "words.png", "classes.png",
    }  # fmt: skip
    assert Page((out / "explanation.html").read_text(encoding="utf-8")).loads == []
    logged = tracking.find_run(in_world.text).artifact("explanation")
    assert {p.name for p in logged.iterdir()} == {p.name for p in out.iterdir()} - {"mine.txt"}
    assert main(line) == 0
    assert told["verdict"] in capsys.readouterr().out


def test_whiskers_of_classes_end_where_their_intervals_do():
    """An interval of which the mean is not the middle, and one that does not hold it."""
    from types import SimpleNamespace

    from symcere.explanation.report import figures

    classes = [
        {"mean_abs_weight": mean, "low": low, "high": high}
        for mean, low, high in ((3, 2.5, 5), (2, 2.25, 4), (1, 0.5, 2))
    ]
    (axes,) = figures(SimpleNamespace(found=SimpleNamespace(words=[], classes=classes)))["classes"].axes
    ends = [line[:, 1].tolist() for line in axes.collections[0].get_segments()]
    assert ends == [[2.5, 5], [2, 4], [0.5, 2]]


def test_what_only_the_other_reading_takes_is_refused(in_world, pair, tmp_path, capsys):
    page = tmp_path / "x.html"
    with pytest.raises(UserError, match=r"--html writes the page of one pair.*--user and --item.*--out DIR"):
        steps.explain(in_world.text, html=page)
    whole = {"pairs": 7, "split": "test", "out": tmp_path / "dir"}
    for name, value in whole.items():
        with pytest.raises(UserError, match=f"^--{name} .* leave out --user and --item"):
            steps.explain(in_world.text, *pair, **{name: value})
    line = ["explain", in_world.text, "--user", pair[0], "--item", pair[1]]
    assert main([*line, "--out", str(tmp_path / "dir"), "--pairs", "7", "--split", "test"]) == 2
    assert "--pairs and --split and --out" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_bad_input_says_what_to_do(in_world, pair):
    user, item = pair
    for arguments, message in (
        ((in_world.text, user[:-1] + "x", item), "Did you mean"),
        ((in_world.text, user, item + "0"), "Did you mean"),
        ((in_world.text, user), "--user … --item"),
        ((in_world.ids, user, item), "reads no review text"),
        (("nobody", user, item), "no run 'nobody'"),
    ):
        with pytest.raises(UserError, match=message):
            steps.explain(*arguments)
    with pytest.raises(UserError, match="20 or more"):
        steps.explain(in_world.text, user, item, samples=5)

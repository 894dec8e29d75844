"""``symcere explore``: the numbers on the page against plain loops, and the page in a real browser."""

import atexit
import base64
import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from symcere import steps
from symcere.cli import main
from symcere.config import Model
from symcere.data.corpus import Corpus, Entries
from symcere.errors import UserError
from symcere.explanation import atlas as module
from symcere.explanation.atlas import NONE, _neighbours, atlas, page
from symcere.model.propagation import Graph
from symcere.model.recommender import Recommender


def unpacked(text, kind, width=0):
    values = np.frombuffer(base64.b64decode(text), kind)
    return values.reshape(-1, width) if width else values


def data_of(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S).group(1))


@pytest.fixture(scope="session")
def restored(world):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYMCERE_HOME", str(world.home))
        return steps.restore(world.text)


@pytest.fixture(scope="session")
def found(restored):
    fitted = restored.fitted
    return atlas("a run", fitted.model, fitted.scorer, restored.corpus, restored.embeddings, users=60)


def test_neighbours_are_the_nearest_by_cosine(found, restored):
    corpus = restored.corpus
    with torch.no_grad():
        items = F.normalize(restored.fitted.model.text_view(), dim=1)[corpus.num_users :].numpy()
    cosines = items @ items.T
    np.fill_diagonal(cosines, -np.inf)
    near = unpacked(found["views"]["text"]["near"], "<u4", 10)
    similar = unpacked(found["views"]["text"]["similar"], "<u1", 10) / 127.5 - 1
    for item in range(corpus.num_items):
        np.testing.assert_allclose(cosines[item][near[item]], np.sort(cosines[item])[::-1][:10], atol=1e-5)
        np.testing.assert_allclose(similar[item], cosines[item][near[item]], atol=0.005)
    lengths = unpacked(found["views"]["text"]["norms"], "<f4")
    with torch.no_grad():
        expected = restored.fitted.model.text_view()[corpus.num_users :].norm(dim=1).numpy()
    np.testing.assert_allclose(lengths, expected, rtol=1e-5)
    assert list(found["views"]) == ["text", "reviews"]


def test_neighbours_in_blocks_and_of_few_items(monkeypatch):
    rows = F.normalize(torch.randn(50, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    whole = _neighbours(rows)
    monkeypatch.setattr(module, "BLOCK", 50 * 7)
    np.testing.assert_array_equal(_neighbours(rows)[0], whole[0])
    near, _ = _neighbours(rows[:3])
    assert (near[:, 2:] == NONE).all()
    assert sorted(near[0, :2]) == [1, 2]
    assert (_neighbours(rows[:1])[0] == NONE).all()


def test_recommendations_are_the_best_unseen_items_with_their_parts(found, restored):
    corpus, scorer = restored.corpus, restored.fitted.scorer
    width = found["widths"]["recommended"]
    fields = {k: unpacked(found["users"][k], "<f4", width) for k in ("match", "popular", "close")}
    ranked, because = (unpacked(found["users"][k], "<u4", width) for k in ("recommended", "because"))
    z = F.normalize(scorer.items, dim=1).numpy()
    for at, name in enumerate(found["users"]["ids"]):
        user = corpus.user_index(name)
        scores = scorer.scores(torch.tensor([user]))[0].numpy().copy()
        own = corpus.train[[user]].indices
        scores[own] = scores[corpus.val[[user]].indices] = -np.inf
        best = np.sort(scores)[::-1][:width]
        np.testing.assert_allclose(scores[ranked[at]], best, atol=1e-5)
        np.testing.assert_allclose(fields["match"][at] + fields["popular"][at], best, atol=1e-5)
        for k in range(width):
            cosines = z[ranked[at, k]] @ z[own].T
            assert fields["close"][at, k] == pytest.approx(cosines.max(), abs=1e-5)
            assert because[at, k] in own


def test_words_of_an_item_are_those_planted_for_it(found, restored, world):
    """The page's words of an item name its attributes far more often than those of a random other item."""
    words = unpacked(found["items"]["words"], "<u4", found["widths"]["words"])
    attributes = world.truth.item_attributes
    of_attribute = list(world.truth.words.values())

    def share(item, owner):
        own = {w for a in np.flatnonzero(attributes[owner]) for w in of_attribute[a]}
        shown = [found["words"][w] for w in words[item] if w != NONE]
        return sum(w in own for w in shown) / len(shown)

    n = len(words)
    assert np.mean([share(i, i) for i in range(n)]) > 2.5 * np.mean([share(i, (i + 7) % n) for i in range(n)])
    assert len(found["themes"]) == unpacked(found["items"]["theme"], "<u1").max() + 1


def test_only_the_most_popular_items_of_a_large_catalogue(restored, monkeypatch):
    monkeypatch.setattr(module, "MOST_ITEMS", 25)
    fitted = restored.fitted
    data = atlas("a run", fitted.model, fitted.scorer, restored.corpus, restored.embeddings, users=20)
    popularity = unpacked(data["items"]["popularity"], "<u4")
    assert sorted(popularity) == sorted(np.sort(restored.corpus.item_popularity)[-25:])
    ranked = unpacked(data["users"]["recommended"], "<u4", 10)
    assert ((ranked < 25) | (ranked == NONE)).all()
    assert "25 most popular of" in data["notes"][0]


def test_a_tiny_corpus_without_any_word(tmp_path):
    """Six interactions, all without text, and ids alone: a page with one view and no words."""
    train = Entries(np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 1, 2, 0, 2]), [""] * 6)
    none = Entries(np.array([], int), np.array([], int), [])
    corpus = Corpus.write(
        tmp_path / "c", name="c", user_ids=list("abc"), item_ids=list("xyz"), train=train, val=none, test=none
    )
    model = Recommender(Model(features="id", dim=3), Graph(corpus.train), corpus.item_popularity)
    data = atlas("a run", model, model.scorer(), corpus, None)
    assert list(data["views"]) == ["graph"]
    assert data["words"] == []
    assert unpacked(data["users"]["recommended"], "<u4", 10)[:, 0].tolist() == [2, 0, 1]
    assert data_of(page(data)) == data


def test_the_page_is_one_file_and_names_cannot_break_out_of_it(found):
    evil = {**found, "run": "</script><script>alert(1)</script><!-- ", "items": {**found["items"]}}
    text = page(evil)
    assert text.count("<script") == 2
    assert data_of(text) == evil
    assert not re.search(r"(src|href)\s*=|@import|url\(|fetch\(|https?://", text.replace(json.dumps(evil), ""))
    assert "default-src 'none'" in text


def test_the_command(in_world, tmp_path, capsys):
    out = tmp_path / "deep" / "page.html"
    assert main(["explore", in_world.text, "--out", str(out), "--users", "30", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["users"] == 30
    assert told["views"] == ["Text view", "Reviews alone"]
    assert data_of(out.read_text(encoding="utf-8"))["run"] == in_world.text
    assert main(["explore", in_world.ids, "--out", str(out)]) == 0
    assert list(data_of(out.read_text(encoding="utf-8"))["views"]) == ["graph"]
    closed = steps.train("synthetic", method="popularity", test=False)
    with pytest.raises(UserError, match="no vectors"):
        steps.explore(closed.name, out)


# ---------------------------------------------------------------- in a browser


class Browser:
    """A headless Chromium, driven by the few WebDriver commands that are needed."""

    def __init__(self, driver, size=(1400, 900)):
        self.process = subprocess.Popen(
            [driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        atexit.register(self.process.kill)
        for line in self.process.stdout:
            if port := re.search(r"successfully on port (\d+)", line):
                break
        self.root = f"http://127.0.0.1:{port.group(1)}"
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--window-size={size[0]},{size[1]}"]
        wanted = {
            "goog:chromeOptions": {"args": arguments, "binary": shutil.which("chromium") or shutil.which("chrome")},
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        session = self.call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        self.root += f"/session/{session}"

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.root + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read())["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()[:500]) from None

    def open(self, url):
        self.call("POST", "/url", {"url": url})

    def run(self, script, *arguments):
        return self.call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def click(self, x, y):
        moves = [
            {"type": "pointerMove", "duration": 0, "x": round(x), "y": round(y)},
            {"type": "pointerDown", "button": 0},
            {"type": "pointerUp", "button": 0},
        ]
        self.call("POST", "/actions", {"actions": [{"type": "pointer", "id": "mouse", "actions": moves}]})

    def element(self, selector):
        return self.run(
            "const e = document.querySelector(arguments[0]); e.scrollIntoView({block: 'nearest'}); "
            "const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]", selector
        )  # fmt: skip

    def press(self, selector):
        self.click(*self.element(selector))

    def keys(self, text):
        actions = [{"type": kind, "value": letter} for letter in text for kind in ("keyDown", "keyUp")]
        self.call("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def errors(self):
        log = self.call("POST", "/se/log", {"type": "browser"})
        return [entry["message"] for entry in log if entry["level"] in ("SEVERE", "ERROR")]

    def screenshot(self, path):
        path.write_bytes(base64.b64decode(self.call("GET", "/screenshot")))

    def close(self):
        try:
            self.call("DELETE", "")
        finally:
            self.process.terminate()
            self.process.wait(10)


@pytest.fixture
def browser():
    driver = shutil.which("chromedriver")
    if driver is None or not (shutil.which("chromium") or shutil.which("chrome")):
        pytest.skip("no chromium with chromedriver on this machine")
    browser = Browser(driver)
    yield browser
    browser.close()


def test_names_take_their_own_direction(found):
    """What stands beside other text goes through ``make``, which lets it."""
    text = page(found)
    assert re.search(r'const make = .* e\.textContent = text; e\.dir = "auto"; }', text)
    assert not re.search(r"(append|replaceChildren)\((item \? )?(name\(|users\.ids)", text)


HEADING = "return document.querySelector('#detail h2').textContent"


@pytest.mark.slow
def test_a_person_clicks_through_the_page(browser, found, tmp_path):
    (tmp_path / "page.html").write_text(page(found), encoding="utf-8")
    browser.open((tmp_path / "page.html").as_uri())
    popularity = unpacked(found["items"]["popularity"], "<u4")
    titles, ids = found["items"]["titles"], found["items"]["ids"]
    names = [t or i for t, i in zip(titles or ids, ids, strict=True)]
    assert browser.run(HEADING) == names[int(popularity.argmax())]
    assert browser.run("return document.querySelector('#detail h2').dir") == "auto"

    # A point of the map: where the page draws item 5, unless a nearer one lies over it.
    place = browser.run(
        "const b = stage.getBoundingClientRect(), x = toX(plot.x[5]), y = toY(plot.y[5]);"
        "return [b.x + x, b.y + y, nearest(x, y)]"
    )
    browser.click(*place[:2])
    assert browser.run(HEADING) == names[place[2]]

    # A neighbour in the list of either view.
    for view in ("text", "reviews"):
        item = browser.run("return chosen.i")
        browser.press(f"[data-view={view}] .row")
        near = unpacked(found["views"][view]["near"], "<u4", 10)
        assert browser.run(HEADING) == names[near[item, 0]]

    # Search for a user by keyboard, then a recommendation.
    browser.press("#find")
    browser.keys(found["users"]["ids"][3] + "\ue007")
    assert browser.run(HEADING) == found["users"]["ids"][3]
    ranked = unpacked(found["users"]["recommended"], "<u4", 10)
    shown = browser.run("return [...document.querySelectorAll('.rec .row')].map(r => +r.dataset.item)")
    assert shown == ranked[3].tolist()
    browser.press(".rec .row")
    assert browser.run(HEADING) == names[ranked[3, 0]]

    # Every tab draws, popularity colours, users appear, a theme is picked out, dark and light.
    ink = "const p = base.getImageData(0, 0, base.canvas.width, base.canvas.height).data; let n = 0;" \
        " for (let k = 3; k < p.length; k += 4) n += p[k] > 0; return n"  # fmt: skip
    settle = "return new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    for tab in ("reviews", "length-text", "text"):
        browser.press(f"#tabs [data-key={tab}]")
        browser.run(settle)
        assert browser.run(ink) > 500
        assert browser.run("return plot.key") == tab
    before = browser.run(ink)
    browser.press("#users")
    browser.run(settle)
    assert browser.run(ink) > before
    browser.press("#colours [data-key=popularity]")
    browser.press("#colours [data-key=theme]")
    browser.press("#legend .theme")
    assert browser.run("return highlight") == 0
    assert browser.run("return document.querySelectorAll('#legend .off').length") == len(found["themes"]) - 1
    paper = "return getComputedStyle(document.body).backgroundColor"
    first = browser.run(paper)
    browser.press("#dark")
    assert browser.run(paper) != first
    assert browser.errors() == []
    assert browser.run("return performance.getEntriesByType('resource').length") == 0


@pytest.mark.slow
def test_fifty_thousand_items_do_not_freeze_it(browser, tmp_path):
    data = large(50_000)
    (tmp_path / "page.html").write_text(page(data), encoding="utf-8")
    start = time.perf_counter()
    browser.open((tmp_path / "page.html").as_uri())
    assert browser.run(HEADING)
    opened = time.perf_counter() - start
    drawn = browser.run(
        "const t = []; for (let k = 0; k < 7; k++) { const a = performance.now(); drawBase(); "
        "base.getImageData(0, 0, 1, 1); t.push(performance.now() - a); } return t.sort((a, b) => a - b)[3]"
    )
    hover = browser.run(
        "nearest(300, 300); const a = performance.now(); for (let k = 0; k < 1000; k++) nearest(k % 700, k % 500);"
        "return (performance.now() - a) / 1000"
    )
    print(f"opened in {opened:.1f} s, a frame {drawn:.0f} ms, a hover {hover:.3f} ms")
    assert opened < 30
    assert drawn < 1000
    assert hover < 20
    assert browser.errors() == []


def large(n, users=2000):
    """A page's data of n random items."""
    rng = np.random.default_rng(0)
    pack = module._packed
    none = np.full((n, 10), NONE)
    view = SimpleNamespace(places=rng.beta(2, 2, (n + users, 2)) * 65535, near=rng.integers(0, n, (n, 10)))
    parts = {k: pack(rng.random((users, 10)), "<f4") for k in ("match", "popular", "close")}
    return {
        "run": "large", "notes": [], "themes": [f"theme {k}" for k in range(8)],
        "words": [f"w{k}" for k in range(9999)],
        "corpus": {"name": "large", "users": users, "items": n, "interactions": 10 * n},
        "items": {
            "ids": [f"B{k:09}" for k in range(n)],
            "titles": [f"A product of number {k}, with a title" for k in range(n)],
            "popularity": pack(rng.zipf(1.7, n).clip(1, 5000), "<u4"),
            "words": pack(rng.integers(0, 9999, (n, 8)), "<u4"), "theme": pack(rng.integers(0, 8, n), "<u1"),
        },
        "users": {
            "ids": [f"user-{k}" for k in range(users)], "activity": pack(rng.integers(1, 50, users), "<u4"),
            "words": pack(rng.integers(0, 9999, (users, 24)), "<u4"), **parts,
            "recommended": pack(rng.integers(0, n, (users, 10)), "<u4"), "because": pack(none[:users], "<u4"),
            "liked": pack(rng.integers(0, n, (users, 12)), "<u4"),
        },
        "views": {
            key: {
                "label": key, "width": 64, "explained": 0.2, "correlation": 0.5, "places": pack(view.places, "<u2"),
                "near": pack(view.near, "<u4"), "similar": pack(rng.integers(0, 255, (n, 10)), "<u1"),
                "norms": pack(rng.random(n), "<f4"),
            }
            for key in ("text", "graph")
        },
        "widths": {"neighbours": 10, "words": 8, "userWords": 24, "recommended": 10},
    }  # fmt: skip

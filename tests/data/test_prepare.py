"""Preparing against a slow reference that holds everything in dictionaries, and on real reviews."""

import csv
import dataclasses
import errno
import html
import json
import random
import re
import threading
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symcere.config import Data, Split
from symcere.config.fields import build, to_dict
from symcere.data import prepare
from symcere.data.ahead import ahead
from symcere.data.cards import find, own
from symcere.data.cleaning import clean, clean_text, count_words
from symcere.data.corpus import NO_TIME, SPLITS, Corpus
from symcere.data.prepare import assemble
from symcere.data.reviews import read
from symcere.data.schema import SCHEMA
from symcere.errors import UserError

# ---------------------------------------------------------------- texts


def test_cleaning_takes_time_in_proportion():
    """Space that two parts of a pattern both match would be tried in every division."""
    assert clean_text("<a x=" + " " * 10**6 + "<") == "<a x= <"  # hours, if in proportion to the square


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("Nice  sound.\r\nReally!\t ", "Nice sound. Really!"),
        ("a 6&#34; cable &amp; a plug", 'a 6" cable & a plug'),
        ("&amp;quot;loud&amp;quot;", '"loud"'),
        ("one<br />two<BR>three<p>four</p>", "one two three four"),
        ("<b>bold</b>ly <i class='x'>so</i>", "boldly so"),
        ('<a data-hook="product-link-linked" href="/dp/B0?x=1&amp;y=2">The Band</a>&nbsp;plays', "The Band plays"),
        (
            '<div id="video-block-R1" class="a-section"></div><input type="hidden" value="https://v.mp4">&nbsp;See',
            "See",
        ),
        ("seen <!-- a > b --> here<script>if (a < b) {go()}</script>.", "seen here ."),
        ("I <3 it, a < b and c > d <grin>", "I <3 it, a < b and c > d <grin>"),
        ("mail <joe@shop.com>", "mail <joe@shop.com>"),
        ("<i think it is great>, <s size fits>", "<i think it is great>, <s size fits>"),
        ("<p >one<hr noshade/><font color = 'red' bold>two</font ><br / ><input disabled>three", "one two three"),
        ("Perfect Location   showReview(1400769, 'full');   ", "Perfect Location"),
        ("a show(Light In The Piazza) there", "a show(Light In The Piazza) there"),
        ("zero\u200bwidth\ufeff and\u00a0hard\u3000spaces\x07", "zero width and hard spaces"),
        ("👩‍🚀 flies", "👩‍🚀 flies"),
        ("AT&T; R&D", "AT&T; R&D"),
        (" \n ", ""),
        ("", ""),
    ],
)
def test_what_cleaning_does(raw, cleaned):
    assert clean_text(raw) == cleaned
    assert clean(pa.array([raw])).to_pylist() == [cleaned]


words = ["good", " ", "  ", "\n", "\u00a0", "\u2003", "\u200b", "\x00", "é", "&", "&amp;", "&lt;br&gt;", "&#8217;"]
words += ["&#xD800;", "<", "<br/>", "</a>", "<a href=x>", "<3", "showReview(12, 'full');", "showReview("]
pieces = st.lists(st.sampled_from(words) | st.text(max_size=5), max_size=12).map("".join)


@settings(max_examples=150)
@given(st.lists(pieces, max_size=8))
def test_fast_cleaning_is_cleaning(texts):
    cleaned = clean(pa.array(texts, pa.string()))
    assert cleaned.to_pylist() == [clean_text(text) for text in texts]
    assert count_words(cleaned).to_pylist() == [len(text.split()) for text in cleaned.to_pylist()]
    # A slice of a larger array, as batches are.
    assert clean(pa.array(["<b>x", *texts], pa.string())[1:]).equals(cleaned)


def test_ahead_keeps_order_raises_here_and_stops():
    assert list(ahead(range(100))) == list(range(100))
    made = []

    def source():
        for n in range(1000):
            made.append(n)
            yield n
            if n == 30:
                raise KeyError("thirty")

    with pytest.raises(KeyError, match="thirty"):
        list(ahead(source()))
    made.clear()
    items = ahead(source())
    assert next(items) == 0
    items.close()
    assert len(made) <= 5


# ---------------------------------------------------------------- the whole, against a reference


def batches(rows, size=37):
    """Record batches of (user, item, rating, time, text)."""
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        columns = [*map(list, zip(*part, strict=True)), list(range(start, start + len(part)))]
        columns[2] = [float("nan") if rating is None else rating for rating in columns[2]]
        yield pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], SCHEMA)


def dirty(n=1500, users=60, items=30, seed=0):
    """Reviews with every kind of dirt: repeats, updates, missing values, placeholders, markup."""
    rng = random.Random(seed)
    texts = ["", "Great", "Great  sound &amp; looks<br/>", *(f"text {k} " * rng.randrange(1, 6) for k in range(400))]
    rows = []
    for _ in range(n):
        user = rng.choice(["A TripAdvisor Member", "lass=", "TripAdvisor1"]) if rng.random() < 0.03 else None
        row = (
            user or f"user {int(users * rng.random() ** 1.5)}",
            f"itém {int(items * rng.random() ** 1.5)}",
            rng.choice([None, 1.0, 2.0, 3.5, 4.0, 5.0]),
            rng.choice([None, *range(1_000_000, 1_000_040)]),
            rng.choice(texts[:3]) if rng.random() < 0.1 else rng.choice(texts),
        )
        rows += [row] * (1 + (rng.random() < 0.05))
        if rng.random() < 0.03:
            rows.append(rng.choice(rows))
    return rows


def reference(rows, data):
    """The same steps in the same order with nothing but dictionaries. Returns counts and {(user, item): row}."""
    counts = [len(rows), len(rows)]
    distinct = list(dict.fromkeys(rows))
    order = {row: k for k, row in reversed(list(enumerate(rows)))}  # first place of each
    counts.append(len(distinct))
    real = [row for row in distinct if row[0] not in ("A TripAdvisor Member", "lass=", "TripAdvisor1")]
    counts.append(len(real))
    if data.min_words:
        real = [row for row in real if len(clean_text(row[4]).split()) >= data.min_words]
        counts.append(len(real))
    latest = {}
    for row in sorted(real, key=lambda row: (-1 if row[3] is None else row[3], order[row])):
        latest[row[:2]] = row
    counts.append(len(latest))
    if data.rating_threshold:
        latest = {pair: row for pair, row in latest.items() if (row[2] or 0) >= data.rating_threshold}
        counts.append(len(latest))
    while True:
        users, items = Counter(u for u, _ in latest), Counter(i for _, i in latest)
        inside = {(u, i): r for (u, i), r in latest.items() if min(users[u], items[i]) >= data.core}
        if len(inside) == len(latest):
            break
        latest = inside
    counts.append(len(latest))
    return counts, latest


def contents(corpus):
    """{(user, item): (rating, time, text, split)} as stored."""
    found = {}
    for name in SPLITS:
        rows, columns = getattr(corpus, name).tocoo().coords
        values = zip(
            corpus.user_ids.take(pa.array(rows)).to_pylist(),
            corpus.item_ids.take(pa.array(columns)).to_pylist(),
            corpus.ratings(name).tolist(),
            corpus.times(name).tolist(),
            corpus.texts(name).to_pylist(),
            strict=True,
        )
        for user, item, rating, time, text in values:
            assert (user, item) not in found
            found[user, item] = (
                None if np.isnan(rating) else rating,
                None if time == NO_TIME else time,
                text,
                name,
            )
    return found


@pytest.mark.parametrize(
    "data",
    [
        Data(core=3),
        Data(core=5, min_words=4),
        Data(core=2, rating_threshold=3.5, split=Split("last")),
        Data(core=1, min_words=2, rating_threshold=2, split=Split("time")),
    ],
    ids=["random", "words", "rating-last", "both-time"],
)
def test_preparing_agrees_with_the_reference(tmp_path, monkeypatch, data):
    monkeypatch.setattr(prepare, "BUCKET_BYTES", 2000)  # many buckets, many chunks
    monkeypatch.setattr(prepare, "ROWS_OF_A_CHUNK", 7)
    rows = dirty()
    counts, expected = reference(rows, data)
    corpus = assemble(batches(rows), data, tmp_path / "c", name="dirty")
    assert [left for _, left in corpus.counts][: len(counts)] == counts
    assert counts[-1] > 200
    assert corpus.user_ids.to_pylist() == sorted({user for user, _ in expected})
    assert corpus.item_ids.to_pylist() == sorted({item for _, item in expected})
    found = contents(corpus)
    assert len(found) == corpus.counts[-1][1]
    if data.split.kind != "time":
        assert found.keys() == expected.keys()
    for pair, (rating, time, text, _) in found.items():
        _, _, raw_rating, raw_time, raw_text = expected[pair]
        assert (rating, time, text) == (raw_rating, raw_time, clean_text(raw_text))
    trained = {user for (user, _), (*_, name) in found.items() if name == "train"}
    assert {user for user, _ in found} == trained
    assert corpus.settings == to_dict(data)
    corpus.verify()
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_the_result_does_not_depend_on_how_the_stream_is_cut(tmp_path, monkeypatch):
    rows = dirty(600)
    whole = assemble(batches(rows, 10_000), Data(core=2), tmp_path / "a", name="a")
    monkeypatch.setattr(prepare, "BUCKET_BYTES", 500)
    sliced = (batch.slice(k, 1) for batch in batches(rows, 500) for k in range(len(batch)))
    assert assemble(sliced, Data(core=2), tmp_path / "b", name="b").fingerprint == whole.fingerprint


def block(users=3, items=4):
    return [(f"u{u}", f"i{i}", 4.0, 10 * i, f"u{u} on i{i}") for u in range(users) for i in range(items)]


def test_the_latest_review_of_a_pair_stays_ties_by_row_and_its_rating_counts(tmp_path):
    rows = [
        *block(),
        ("u0", "i0", 5.0, 7, "first in time"),  # after row 0 (time 0)
        ("u0", "i0", 3.0, 7, "same time, later row"),
        ("u1", "i1", 5.0, None, "no time: before all"),
        ("u2", "i0", 1.0, 900, "has changed its mind"),
    ]
    found = contents(assemble(batches(rows), Data(core=1, rating_threshold=2), tmp_path / "c", name="c"))
    assert found["u0", "i0"][2] == "same time, later row"
    assert found["u1", "i1"][2] == "u1 on i1"
    assert ("u2", "i0") not in found


def test_repeated_and_empty_texts_are_kept_and_said(tmp_path):
    rows = [
        (u, i, r, t, "bot" if u == "u1" and i != "i0" else " <br/> " if u == "u2" else text)
        for u, i, r, t, text in block()
    ]
    corpus = assemble(batches(rows), Data(core=1), tmp_path / "c", name="c")
    assert len(contents(corpus)) == 12
    repeated, empty = corpus.notes
    leaked = sum(text == "bot" and name != "train" for _, _, text, name in contents(corpus).values())
    assert repeated.startswith("3 interactions share their text with another item of the same user")
    assert f"{leaked} of them are in validation or test" in repeated
    assert empty.startswith("4 interactions have no text")


def test_reviews_without_any_text_make_a_corpus(tmp_path):
    corpus = assemble(batches([(*row[:4], "") for row in block()]), Data(core=3), tmp_path / "c", name="c")
    assert corpus.notes == ["12 interactions have no text; they are kept as interactions."]
    assert set(corpus.texts().to_pylist()) == {""}


def test_a_home_that_cannot_be_made_is_said(tmp_path, monkeypatch):
    """The system names the folder above that it could not make, not the one that was asked for."""

    def refused(self, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "home"))

    monkeypatch.setattr(prepare.Path, "mkdir", refused)
    with pytest.raises(UserError, match=r"Cannot write to .*corpora: Permission denied"):
        assemble(batches(block()), Data(core=3), tmp_path / "home" / "corpora" / "c", name="c")


def test_given_files_number_the_corpus_and_drop_what_they_do_not_name(tmp_path):
    rows = [*block(), ("u0", "i9", 4.0, 0, "not named")]
    folder = tmp_path / "split"
    folder.mkdir()
    (folder / "users.json").write_text(json.dumps(["u2", "u0", "u1", "u9"]))
    (folder / "items.json").write_text(json.dumps(["i3", "i1", "i0", "i7"]))
    (folder / "train.csv").write_text("user,item\n0,0\n1,1\n")
    (folder / "val.csv").write_text("user,item\n0,1\n2,0\n")
    (folder / "test.csv").write_text("user,item\n1,2\n")
    data = Data(core=1, split=Split("files", files=str(folder)))
    corpus = assemble(batches(rows), data, tmp_path / "c", name="c", titles=lambda ids: {i: i.upper() for i in ids})
    assert corpus.user_ids.to_pylist() == ["u2", "u0", "u1", "u9"]
    assert corpus.item_titles.to_pylist() == ["I3", "I1", "I0", "I7"]
    assert {pair: row[2:] for pair, row in contents(corpus).items()} == {
        ("u2", "i3"): ("u2 on i3", "train"),
        ("u0", "i1"): ("u0 on i1", "train"),
        ("u2", "i1"): ("u2 on i1", "val"),
        ("u0", "i0"): ("u0 on i0", "test"),
    }
    # u1 has a named pair, but none of it in training.
    assert corpus.counts[-2:] == [("named by the split's files", 5), ("of users with a training interaction", 4)]


def test_progress_is_told_to_the_end(tmp_path):
    told = []
    assemble(batches(block()), Data(core=1), tmp_path / "c", name="c", progress=lambda *step: told.append(step))
    last = {step: (done, total) for step, done, total in told}
    assert last == {"reading": (12, 0), "sorting": (12, 12), "writing": (12, 12)}
    assert list(last) == ["reading", "sorting", "writing"]


def test_memory_does_not_grow_with_the_texts(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "BUCKET_BYTES", 4 << 20)
    text = pa.array(["long  text " * 180] * 1000)  # 2 MB
    held = []

    def stream():
        for n in range(40):
            users = pa.array([f"u{(n * 1000 + k) // 50}" for k in range(1000)])
            items = pa.array([f"i{k % 50}" for k in range(1000)])
            row = pa.array(range(n * 1000, n * 1000 + 1000))
            yield pa.record_batch([users, items, pa.array([1.0] * 1000, pa.float32()), row, text, row], SCHEMA)

    assemble(
        stream(), Data(core=5), tmp_path / "c", name="c", progress=lambda *_: held.append(pa.total_allocated_bytes())
    )
    assert Corpus.open(tmp_path / "c").texts().nbytes > 50e6
    assert max(held) < 40e6


# ---------------------------------------------------------------- what cannot be prepared


@pytest.mark.parametrize(
    ("rows", "data", "message"),
    [
        ([], Data(), "c: the source holds no usable review"),
        ([("lass=", "i", 1.0, 1, "")], Data(), "nothing is left.*'without placeholder users'.*usable reviews 1"),
        (block(), Data(core=1, min_words=9), "nothing is left.*'at least 9 words'"),
        (block(), Data(core=1, rating_threshold=4.5), "nothing is left.*'rating at least 4.5'"),
        (block(), Data(core=4), "the 4-core is empty: of 12 distinct.*the 3-core: --data.core 3 or less"),
        (block(5, 1), Data(core=1), "leaves no validation interaction.*split.kind"),
        ([(u, i, r, None, x) for u, i, r, t, x in block()], Data(core=1, split=Split("time")), "carry no dates"),
        (
            [(u, i, r, None, x) for u, i, r, t, x in block()],
            Data(core=1, split=Split("last")),
            r"carry no dates.*data\.split\.kind",
        ),
        ([(u, i, r, 5, x) for u, i, r, t, x in block()], Data(core=1, split=Split("time")), "leaves no training"),
        (block(), Data(core=1, split=Split("files", files="nowhere")), "nowhere/users.json"),
    ],
)
def test_the_error_says_what_left_nothing(tmp_path, rows, data, message):
    with pytest.raises(UserError, match=message):
        assemble(batches(rows), data, tmp_path / "c", name="c")
    assert not list(tmp_path.iterdir())


def test_a_failure_at_any_point_leaves_the_older_corpus(tmp_path, monkeypatch):
    older = assemble(batches(block()), Data(core=1), tmp_path / "c", name="c")

    def stream():
        yield from batches(block(), 5)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        assemble(stream(), Data(core=1), tmp_path / "c", name="c")
    for step in ("reading", "sorting", "writing"):

        def stop(told, *_, step=step):
            if told == step:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            assemble(batches(block(4)), Data(core=1), tmp_path / "c", name="c", progress=stop)
    assert [p.name for p in tmp_path.iterdir()] == ["c"]
    assert Corpus.open(tmp_path / "c").fingerprint == older.fingerprint
    assert not [thread for thread in threading.enumerate() if thread.name == "ahead"]


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_full_disk_is_said(tmp_path, monkeypatch, after):
    real, opened = pa.OSFile, []

    def full(path, mode):
        opened.append(path)
        if len(opened) > after:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, mode)

    monkeypatch.setattr(pa, "OSFile", full)
    with pytest.raises(UserError, match=r"Cannot write.*No space left on device.*nothing half-|Nothing half-"):
        assemble(batches(block()), Data(core=1), tmp_path / "c", name="c")
    assert not list(tmp_path.iterdir())


def test_an_error_of_the_source_is_not_blamed_on_the_place(tmp_path):
    def stream():
        raise PermissionError(errno.EACCES, "Permission denied", "/elsewhere/reviews.json")
        yield

    with pytest.raises(PermissionError):
        assemble(stream(), Data(core=1), tmp_path / "c", name="c")


# ---------------------------------------------------------------- real reviews

REAL = {
    "reviews_Musical_Instruments_5.json.gz": (5, 10_261, 10_261, 10_261, (1_429, 900, 10_261)),
    "Magazine_Subscriptions_5.json.gz": (5, 2_375, 2_331, 2_302, (294, 132, 2_027)),
    "All_Beauty_5.json.gz": (5, 5_269, 4_216, 4_092, (137, 24, 686)),
    "AMAZON_FASHION_5.json.gz": (5, 3_176, 3_087, 3_042, (374, 8, 2_962)),
    "tripadvisor_lara_3core.jsonl.gz": (3, 22_123, 22_123, 22_102, (5_882, 1_493, 22_102)),
    "tripadvisor_lara_150hotels.tar.gz": (3, None, None, None, (723, 149, 2_495)),
}


@pytest.mark.parametrize("file", REAL)
def test_counts_of_real_reviews(shared_data, tmp_path, file):
    core, rows, distinct, pairs, sizes = REAL[file]
    corpus = assemble(read([shared_data / file]), Data(core=core), tmp_path / "c", name=file)
    counts = dict(corpus.counts)
    if rows:
        assert counts["rows in the source"] == rows
        assert counts["without exact duplicates"] == distinct
        assert counts["latest review of each user and item"] == pairs
    assert (corpus.num_users, corpus.num_items, counts[f"{core}-core"]) == sizes
    assert sum(getattr(corpus, split).nnz for split in SPLITS) == sizes[2]
    dirt = re.compile(r"showReview\(\d|<br|</a|&nbsp;|&#\d+;|\s\s|^\s|\s$")
    for split in SPLITS:
        assert not [text for text in corpus.texts(split).to_pylist() if dirt.search(text)]


def test_appliances_has_no_5_core_and_says_so(shared_data, tmp_path):
    with pytest.raises(UserError, match=r"5-core is empty: of 183 distinct \(user, item\) pairs.*4-core"):
        assemble(read([shared_data / "Appliances_5.json.gz"]), Data(core=5), tmp_path / "c", name="appliances")
    assert not list(tmp_path.iterdir())


def test_musical_instruments_keeps_its_empty_texts(shared_data, tmp_path):
    source = shared_data / "reviews_Musical_Instruments_5.json.gz"
    corpus = assemble(read([source]), Data(core=5), tmp_path / "c", name="c")
    texts = [text for split in SPLITS for text in corpus.texts(split).to_pylist()]
    assert texts.count("") == 7
    raw = [text for batch in read([source]) for text in batch["text"].to_pylist()]
    assert sorted(texts) == sorted(" ".join(html.unescape(text).replace("\u200b", " ").split()) for text in raw)


ANCHORS = {
    "musical-instruments": ("reviews_Musical_Instruments_5.json.gz", 5),
    "tripadvisor-lara-3core": ("tripadvisor_lara_3core.jsonl.gz", 3),
}


@pytest.mark.parametrize("anchor", ANCHORS)
def test_the_random_split_and_the_given_files_are_the_peers(shared_data, anchors, tmp_path, anchor):
    file, core = ANCHORS[anchor]
    drawn = assemble(read([shared_data / file]), Data(core=core), tmp_path / "drawn", name="c")
    for ids, name in ((drawn.user_ids, "users"), (drawn.item_ids, "items")):
        assert ids.to_pylist() == json.loads((anchors / anchor / f"{name}.json").read_text())
    for split in SPLITS:
        with open(anchors / anchor / f"{split}.csv", newline="") as lines:
            pairs = sorted((int(row["user"]), int(row["item"])) for row in csv.DictReader(lines))
        assert np.stack(getattr(drawn, split).tocoo().coords, 1).tolist() == [list(pair) for pair in pairs]
    data = Data(core=core, split=Split("files", files=str(anchors / anchor)))
    named = assemble(read([shared_data / file]), data, tmp_path / "named", name="c")
    assert named.fingerprint == drawn.fingerprint


# ---------------------------------------------------------------- from cards


def test_a_table_of_ones_own_with_titles(tmp_path):
    table = tmp_path / "orders.csv"
    rows = [f"{u},{i},{i.upper()} deluxe,{r},{text}" for u, i, r, _, text in block()]
    table.write_text("\n".join(["user,item,item_title,rating,text", *rows]))
    corpus = prepare.prepare(own("shop", [table]), Data("shop", core=2), [table], tmp_path / "c")
    assert corpus.name == "shop"
    assert corpus.item_titles.to_pylist() == ["I0 deluxe", "I1 deluxe", "I2 deluxe", "I3 deluxe"]
    assert contents(corpus).keys() == {row[:2] for row in block()}


def test_titles_go_by_the_column_that_was_named(tmp_path):
    """Of two columns that could be the item's id, and with ids that need a trim, or are floats in one of the files."""
    lines = [f"{u},other-{i}, {i[1]}.0 ,{i.upper()},{r},{text}" for u, i, r, _, text in block()]
    reviews, catalogue = tmp_path / "orders.csv", tmp_path / "catalogue.parquet"
    reviews.write_text("\n".join(["user,item,sku,item_title,rating,text", *lines]))
    card = dataclasses.replace(own("shop", [reviews]), columns={"item": "sku"})
    corpus = prepare.prepare(card, Data("shop", core=2), [reviews], tmp_path / "c")
    assert dict(zip(corpus.item_ids.to_pylist(), corpus.item_titles.to_pylist(), strict=True)) == {
        f"{n}.0": f"I{n}" for n in range(4)
    }
    reviews.write_text("\n".join(["user,sku,rating,text", *(f"{u},{i[1]},{r},{t}" for u, i, r, _, t in block())]))
    pq.write_table(pa.table({"sku": [0.0, 1.0, None, 3.0], "name": ["zero", "one", "?", "three"]}), catalogue)
    card = dataclasses.replace(card, items=str(catalogue))
    corpus = prepare.prepare(card, Data("shop", core=2), [reviews], tmp_path / "c")
    assert corpus.item_titles.to_pylist() == ["zero", "one", None, "three"]
    for items in ("nowhere.csv", str(reviews)):
        card = dataclasses.replace(card, items=items)
        corpus = prepare.prepare(card, Data("shop", core=2), [reviews], tmp_path / "c")
        assert corpus.item_titles is None
        assert any(f"{items} tells no title" in note for note in corpus.notes)


def test_an_error_tells_what_the_reader_noticed(tmp_path):
    table = tmp_path / "orders.csv"
    lines = [f"{u},{i},{r},{text},yesterday" for u, i, r, _, text in block()]
    table.write_text("\n".join(["user,item,rating,text,date", *lines]))
    with pytest.raises(UserError, match=r"carry no dates.*12 dates could not be read"):
        prepare.prepare(
            own("shop", [table]), build(Data, {"core": 1, "split": {"kind": "last"}}), [table], tmp_path / "c"
        )


@pytest.mark.parametrize("name", ["nan", "None", "<NA>", "undefined"])
def test_an_id_that_stands_for_none_is_told_of(tmp_path, name):
    """As pandas writes it for an empty field: strangers are one user, whom nobody notices."""
    rows = block(50, 4)
    nobody = [(name, *row[1:]) for row in rows[:8:2]]
    corpus = assemble(batches(rows + nobody), Data(core=2), tmp_path / "c", name="x")
    (note,) = [note for note in corpus.notes if "missing id" in note]
    assert note.startswith(f"4 reviews are of one user called '{name}'")
    assert name in corpus.user_ids.to_pylist(), "told of, not dropped"
    items = [(row[0], name if row[1] == rows[0][1] else row[1], *row[2:]) for row in rows]
    (note,) = assemble(batches(items), Data(core=2), tmp_path / "c", name="x").notes
    assert note.startswith(f"50 reviews are of one item called '{name}'")


def test_one_of_many_may_be_called_so(tmp_path):
    rows = [("Null" if row[0] == "u1" else row[0], *row[1:]) for row in block(200, 4)]
    assert assemble(batches(rows), Data(core=2), tmp_path / "c", name="x").notes == []
    rows = [("null" if row[0] == "Null" else row[0], *row[1:]) for row in rows] + [("u2", "i9", 4, 1, "more")]
    assert assemble(batches(rows), Data(core=2), tmp_path / "c", name="x").notes == []


def test_the_embedded_default(tmp_path):
    card = find("synthetic")
    corpus = prepare.prepare(card, card.data, [], tmp_path / "c")
    assert corpus.name == "synthetic"
    assert corpus.item_titles.null_count == 0
    again = prepare.prepare(card, card.data, [], tmp_path / "d")
    assert again.fingerprint == corpus.fingerprint

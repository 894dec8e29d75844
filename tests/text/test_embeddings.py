import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from symcere.config import Encoder, Text
from symcere.data.corpus import Entries
from symcere.errors import UserError
from symcere.text import Embeddings, embed, profiles
from symcere.text import cache as caching
from symcere.text.cache import Cache, Distinct
from symcere.text.embeddings import begin
from symcere.text.encoder import make_encoder

ONE = Text((Encoder("one"),))
TWO = Text((Encoder("one"), Encoder("two")))


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(caching, "SHARD", 16)


@pytest.fixture
def corpus(tmp_path, make_reviews, write_corpus):
    train = make_reviews(np.random.default_rng(0))
    texts = list(train.texts)
    texts[3], texts[50] = "", " \n\t "
    texts[7] = texts[40] = texts[90] = "The very same text, 同じ"
    return write_corpus(tmp_path / "corpus", Entries(train.users, train.items, texts))


def rows_by_hand(corpus, hashing, names):
    """Each training text encoded alone, in order."""
    return np.array(
        [
            np.concatenate(
                [hashing(Encoder(n)).encode([t])[0] if t.strip() else np.zeros(8, np.float32) for n in names]
            )
            for t in corpus.texts("train").to_pylist()
        ]
    )


@pytest.mark.parametrize("text", [ONE, TWO])
def test_rows_are_in_the_order_of_training(corpus, hashing, tmp_path, text):
    made = embed(corpus, text, tmp_path, encoder_factory=hashing)
    expected = rows_by_hand(corpus, hashing, ["x"] * len(text.encoders))
    assert made.reviews.dtype == np.float16
    assert isinstance(made.reviews, np.memmap)
    np.testing.assert_array_equal(made.reviews, expected.astype(np.float16))
    assert made.blocks == [(e.name, 8) for e in text.encoders]
    assert made.corpus_fingerprint == corpus.fingerprint


def test_each_distinct_text_is_encoded_once(corpus, hashing, tmp_path):
    calls = []
    embed(corpus, ONE, tmp_path, encoder_factory=lambda s: hashing(s, calls))
    asked = [t for call in calls for t in call]
    assert sorted(asked) == sorted({t for t in corpus.texts("train").to_pylist() if t.strip()})


def test_progress_ends_at_the_total(corpus, hashing, tmp_path):
    seen = []
    embed(corpus, TWO, tmp_path, progress=lambda *p: seen.append(p), encoder_factory=hashing)
    distinct = len({t for t in corpus.texts("train").to_pylist() if t.strip()})
    assert seen[0] == ("embed reviews", 0, 2 * distinct)
    assert seen[-1] == ("embed reviews", 2 * distinct, 2 * distinct)


def test_what_is_there_is_used(corpus, hashing, tmp_path):
    calls = []
    embed(corpus, ONE, tmp_path, encoder_factory=lambda s: hashing(s, calls))
    first = len(calls)
    embed(corpus, ONE, tmp_path, encoder_factory=lambda s: hashing(s, calls))
    assert len(calls) == first
    embed(corpus, TWO, tmp_path, encoder_factory=lambda s: hashing(s, calls))  # "one" again, "two" for the first time
    assert len(calls) == 2 * first


def test_changes_are_noticed(corpus, hashing, tmp_path, write_corpus):
    before = embed(corpus, ONE, tmp_path, encoder_factory=hashing)
    other_model = embed(corpus, ONE, tmp_path, encoder_factory=lambda s: hashing(s, version="2"))
    assert other_model.path != before.path

    texts = corpus.texts("train").to_pylist()
    texts[5] += " changed"
    coo = corpus.train.tocoo()
    changed = write_corpus(tmp_path / "changed", Entries(*coo.coords, texts))
    with pytest.raises(UserError, match="has changed"):
        Embeddings.open(before.path, changed)
    calls = []
    after = embed(changed, ONE, tmp_path, encoder_factory=lambda s: hashing(s, calls))
    assert calls
    differing = np.flatnonzero((np.array(after.reviews) != before.reviews).any(axis=1))
    assert differing.tolist() == [5]


def test_a_corpus_that_is_prepared_anew_meanwhile(corpus, hashing, tmp_path, write_corpus):
    """Its new texts are never stored as vectors of the older ones."""
    texts = corpus.texts("train").to_pylist()
    coo = corpus.train.tocoo()
    other = [text + " changed" for text in texts]
    first = write_corpus(tmp_path / "shop", Entries(*coo.coords, texts))
    write_corpus(tmp_path / "shop", Entries(*coo.coords, other))
    with pytest.raises(UserError, match="prepared anew since"):
        embed(first, ONE, tmp_path / "made", encoder_factory=hashing)
    again = write_corpus(tmp_path / "shop", Entries(*coo.coords, texts))
    made = embed(again, ONE, tmp_path / "made", encoder_factory=hashing)
    np.testing.assert_array_equal(made.reviews, rows_by_hand(again, hashing, ["one"]).astype(np.float16))


def test_processes_that_begin_at_once_share_one_cache(corpus, hashing, tmp_path):
    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(lambda _: embed(corpus, ONE, tmp_path, encoder_factory=hashing), range(12)))
    assert {one.path for one in made} == {made[0].path}
    assert [path.name for path in tmp_path.rglob(".*")] == []


def test_settings_that_decide_vectors_decide_the_cache(minilm):
    from symcere.text.transformer import Transformer

    base = Encoder(max_tokens=64)
    assert Transformer(base).identity == minilm.identity
    for other in (Encoder(), Encoder(max_tokens=64, pooling="last"), Encoder(max_tokens=64, instruction="query: ")):
        assert Transformer(other).identity != minilm.identity


def test_validation_and_test_texts_change_nothing(tmp_path, make_reviews, write_corpus):
    rng = np.random.default_rng(1)
    everything = make_reviews(rng, n=200)
    split = rng.choice(3, len(everything.users), p=[0.6, 0.2, 0.2])
    text = Text((Encoder("lsa", dim=8),))

    def made(name, mutate):
        parts = [
            Entries(everything.users[split == s], everything.items[split == s], np.array(everything.texts)[split == s])
            for s in range(3)
        ]
        if mutate:
            parts[1:] = [Entries(p.users, p.items, ["zebra quagga okapi"] * len(p.users)) for p in parts[1:]]
        corpus = write_corpus(tmp_path / name, *(Entries(p.users, p.items, list(p.texts)) for p in parts))
        return corpus, embed(corpus, text, tmp_path / f"{name}-embeddings")

    (corpus, before), (mutated, after) = made("a", False), made("b", True)
    assert corpus.fingerprint != mutated.fingerprint
    assert np.array(before.reviews).tobytes() == np.array(after.reviews).tobytes()
    for kind in ("reviews", "items"):
        for x, y in zip(profiles(corpus, before, kind), profiles(mutated, after, kind), strict=True):
            assert x.tobytes() == y.tobytes()
    assert not after.encode(["zebra quagga okapi"]).any()
    # The same training texts are the same cache, whatever the other splits hold.
    embed(mutated, text, tmp_path / "a-embeddings")
    assert len(list((tmp_path / "a-embeddings" / "shards").iterdir())) == 1


def test_new_texts_in_the_same_space(corpus, tmp_path, hashing):
    made = embed(corpus, Text((Encoder("lsa", dim=8), Encoder("one"))), tmp_path, encoder_factory=_mixed(hashing))
    texts = corpus.texts("train").to_pylist()
    again = Embeddings.open(made.path, corpus, _mixed(hashing)).encode(texts)
    assert again.dtype == np.float32
    np.testing.assert_allclose(again, made.reviews, atol=1e-3)
    assert not again[3].any()


def _mixed(hashing):
    return lambda s: make_encoder(s) if s.name == "lsa" else hashing(s)


def test_new_texts_by_another_model_are_refused(corpus, hashing, tmp_path):
    made = embed(corpus, ONE, tmp_path, encoder_factory=hashing)
    other = Embeddings.open(made.path, corpus, lambda s: hashing(s, version="2"))
    with pytest.raises(UserError, match=r"'one' is not the one.* version differs"):
        other.encode(["text"])


def test_a_carried_encoder_stands_alone(corpus, hashing, tmp_path):
    from symcere.text import Joined

    made = embed(corpus, Text((Encoder("lsa", dim=8),)), tmp_path)
    made.encoder.save(tmp_path / "model")
    texts = corpus.texts("train").to_pylist()
    np.testing.assert_array_equal(Joined.load(tmp_path / "model").encode(texts), made.encode(texts))
    assert {f.suffix for f in (tmp_path / "model").rglob("*") if f.is_file()} == {".json", ".npz"}


def test_other_processes_map_the_same_file(corpus, hashing, tmp_path):
    made = embed(corpus, ONE, tmp_path, encoder_factory=hashing)
    stored = pickle.dumps(made)
    assert len(stored) < 1000
    np.testing.assert_array_equal(pickle.loads(stored).reviews, made.reviews)


def test_workers_may_write_the_shards(corpus, hashing, tmp_path):
    """What a cluster does: each worker opens the cache by its path and writes its share."""
    [begun] = begin(corpus, ONE, tmp_path, hashing)
    for worker in range(2):
        cache = Cache.open(begun.path, corpus)
        for shard in cache.missing()[:: 2 - worker]:
            cache.put(shard, cache.load_encoder(hashing).encode(cache.texts(shard)))
        cache.put(0, cache.load_encoder(hashing).encode(cache.texts(0)))  # twice is no harm
    assert begun.missing() == []
    calls = []
    made = embed(corpus, ONE, tmp_path, encoder_factory=lambda s: hashing(s, calls))
    assert not calls
    np.testing.assert_array_equal(made.reviews, rows_by_hand(corpus, hashing, ["one"]).astype(np.float16))


def test_distinct_texts_do_not_depend_on_chunks():
    import pyarrow as pa

    texts = ["a", "b", "", "a", "c", " ", "b", "a\n", "ü", "c", "d"]
    whole = Distinct.of(pa.chunked_array([texts]))
    parts = Distinct.of(pa.chunked_array([texts[:1], texts[1:1], texts[1:6], texts[6:]], pa.string()))
    for distinct in (whole, parts):
        assert distinct.index.tolist() == [0, 1, -1, 0, 2, -1, 1, 3, 4, 2, 5]
        assert distinct.first.tolist() == [0, 1, 4, 7, 8, 10]
        assert distinct.take(slice(0, 6)) == ["a", "b", "c", "a\n", "ü", "d"]
        assert distinct.take(slice(1, 3)) == ["b", "c"]
        assert distinct.take(np.array([0, 3, 5])) == ["a", "a\n", "d"]
    assert whole.digest == parts.digest
    swapped = Distinct.of(pa.chunked_array([[*texts[1::-1], *texts[2:]]]))
    assert swapped.digest != whole.digest


def test_a_vector_that_is_not_finite_is_an_error(corpus, hashing, tmp_path):
    class Broken(hashing):
        def encode(self, texts, advance=None):
            vectors = super().encode(texts)
            vectors[1, 2] = np.nan
            return vectors

    with pytest.raises(UserError, match="not finite"):
        embed(corpus, ONE, tmp_path, encoder_factory=Broken)


def test_a_corpus_without_texts(tmp_path, make_reviews, write_corpus, hashing):
    train = make_reviews(np.random.default_rng(0))
    corpus = write_corpus(tmp_path / "c", Entries(train.users, train.items, [""] * len(train.users)))
    with pytest.raises(UserError, match="has any text"):
        embed(corpus, ONE, tmp_path, encoder_factory=hashing)


def test_an_unknown_format_is_refused_by_name(corpus, hashing, tmp_path):
    made = embed(corpus, ONE, tmp_path, encoder_factory=hashing)
    path = made.path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(UserError, match="format version 99"):
        Embeddings.open(made.path, corpus)
    path.write_text("{")
    with pytest.raises(UserError, match="damaged"):
        Embeddings.open(made.path, corpus)
    with pytest.raises(UserError, match=r"no embeddings"):
        Embeddings.open(tmp_path / "nowhere", corpus)


RUN = """
    import sys, time
    sys.path.insert(0, {tests!r})
    from pathlib import Path
    from conftest import Hashing
    from symcere.config import Encoder, Text
    from symcere.data.corpus import Corpus
    from symcere.text import cache, embed
    cache.SHARD = 16

    class Slow(Hashing):
        def encode(self, texts, advance=None):
            time.sleep(0.05)
            with open({log!r}, "a") as log:
                log.write(f"{{len(texts)}}\\n")
            return super().encode(texts, advance)

    made = embed(Corpus.open({corpus!r}), Text((Encoder("one"),)), Path({out!r}), encoder_factory=Slow)
"""


def test_a_killed_run_goes_on_where_it_stopped(corpus, hashing, tmp_path):
    log, out = tmp_path / "log", tmp_path / "out"
    script = textwrap.dedent(
        RUN.format(tests=str(Path(__file__).parent), log=str(log), corpus=str(corpus.path), out=str(out))
    )
    run = [sys.executable, "-c", script]
    process = subprocess.Popen(run, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])})
    deadline = time.monotonic() + 60
    while (not log.exists() or len(log.read_text().splitlines()) < 4) and time.monotonic() < deadline:
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(out.glob("tiny/*")), "nothing unfinished may look finished"
    distinct = len({t for t in corpus.texts("train").to_pylist() if t.strip()})
    [folder] = (out / "shards").iterdir()
    kept = len(list(folder.glob("0*.npy")))
    assert 3 <= kept < -(-distinct // 16)

    calls = []
    made = embed(corpus, ONE, out, encoder_factory=lambda s: hashing(s, calls))
    assert sum(map(len, calls)) == distinct - 16 * kept
    np.testing.assert_array_equal(made.reviews, rows_by_hand(corpus, hashing, ["one"]).astype(np.float16))

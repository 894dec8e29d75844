"""The stored corpus: what is written comes back, in one order; what was changed is refused."""

import dataclasses
import json
import pickle
import shutil
import threading

import numpy as np
import pyarrow as pa
import pytest

from symcere.data.corpus import NO_TIME, Corpus, Entries
from symcere.errors import UserError

PAIRS = {"train": [(0, 1), (0, 3), (2, 0), (2, 1)], "val": [(0, 0), (2, 3)], "test": [(2, 2)]}


def split(name, texts=None):
    users, items = np.array(PAIRS[name]).T
    texts = [f"user {u} on item {i}" for u, i in PAIRS[name]] if texts is None else texts
    n = len(users)
    return Entries(users, items, texts, np.arange(n, dtype=np.float32), 100 + np.arange(n))


def write(path, **changes):
    content = {
        "name": "tiny",
        "user_ids": ["ann", "bob", "cid"],
        "item_ids": ["b-cup", "b-lid", "b-pan", "b-pot"],
        **{name: split(name) for name in PAIRS},
        "settings": {"core": 1},
        "counts": [("rows", 9), ("kept", 7)],
        "notes": ["Two were lost."],
    }
    return Corpus.write(path, **(content | changes))


@pytest.fixture
def corpus(tmp_path):
    return write(tmp_path / "tiny")


def test_what_is_written_comes_back(corpus):
    assert (corpus.num_users, corpus.num_items) == (3, 4)
    assert corpus.user_ids.to_pylist() == ["ann", "bob", "cid"]
    assert corpus.item_titles is None
    assert corpus.settings == {"core": 1}
    assert corpus.counts == [("rows", 9), ("kept", 7)]
    assert corpus.notes == ["Two were lost."]
    for name, pairs in PAIRS.items():
        dense = np.zeros((3, 4), np.float32)
        dense[tuple(np.array(pairs).T)] = 1
        matrix = getattr(corpus, name)
        np.testing.assert_array_equal(matrix.toarray(), dense)
        assert (matrix.dtype, matrix.indices.dtype) == (np.float32, np.int32)
    assert corpus.item_popularity.tolist() == [1, 2, 0, 1]
    assert corpus.user_activity.tolist() == [2, 0, 2]
    assert corpus.item_popularity.dtype == corpus.user_activity.dtype == np.int64


def test_the_kth_text_rating_and_time_belong_to_the_kth_entry(corpus):
    for name, pairs in PAIRS.items():
        rows, columns = getattr(corpus, name).tocoo().coords
        assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == pairs
        assert corpus.texts(name).to_pylist() == [f"user {u} on item {i}" for u, i in pairs]
        assert corpus.ratings(name).tolist() == list(range(len(pairs)))
        assert corpus.times(name).tolist() == [100 + k for k in range(len(pairs))]


def test_ratings_times_and_texts_may_be_absent(tmp_path):
    users, items = np.array(PAIRS["test"]).T
    corpus = write(tmp_path / "c", test=Entries(users, items, [""]))
    assert np.isnan(corpus.ratings("test")).all()
    assert corpus.times("test").tolist() == [NO_TIME]
    assert corpus.texts("test").to_pylist() == [""]


def test_titles_may_be_known_in_part(tmp_path):
    corpus = write(tmp_path / "c", item_titles=["Cup", None, "Pan", None])
    assert corpus.item_titles.to_pylist() == ["Cup", None, "Pan", None]


def test_arrays_are_mapped_and_other_processes_map_them_too(corpus):
    before = pa.total_allocated_bytes()
    texts = corpus.texts()
    assert pa.total_allocated_bytes() == before
    assert len(texts) == 4
    with pytest.raises(ValueError, match="read-only"):
        corpus.train.indices[0] = 3
    packed = pickle.dumps(corpus)
    assert len(packed) < 1000
    again = pickle.loads(packed)
    assert (again.path, again.fingerprint) == (corpus.path, corpus.fingerprint)


def test_fingerprint_is_of_the_content_alone(corpus, tmp_path):
    same = write(
        tmp_path / "other",
        name="another",
        settings={},
        notes=[],
        train=split("train", [pa.array([t]) for t in corpus.texts().to_pylist()]),
    )
    assert same.texts().num_chunks == 4
    assert same.fingerprint == corpus.fingerprint
    corpus.verify()
    same.verify()


@pytest.mark.parametrize(
    "changes",
    [
        {"user_ids": ["ann", "bob", "cie"]},
        {"item_ids": ["b-cup", "b-lid", "b-pan", "b-po\u0301"]},
        {"train": split("train", ["user 0 on item 1", "user 0 on item 3user", " 2 on item 0", "user 2 on item 1"])},
        {"test": split("test", ["other"])},
        {"test": Entries(np.array([2]), np.array([2]), ["user 2 on item 2"], np.zeros(1, np.float32))},
        {"val": dataclasses.replace(split("val"), items=np.array([0, 1]))},
    ],
    ids=["user", "item", "moved-letters", "text", "time", "pair"],
)
def test_fingerprint_sees_every_part(corpus, tmp_path, changes):
    assert write(tmp_path / "other", **changes).fingerprint != corpus.fingerprint


def test_unsorted_or_unequal_entries_are_refused_and_nothing_is_left(corpus, tmp_path):
    wrong = {
        "sorted": Entries(np.array([1, 0]), np.array([0, 0]), ["", ""]),
        "repeated": Entries(np.array([1, 1]), np.array([0, 0]), ["", ""]),
        "1 texts for 2": Entries(np.array([0, 1]), np.array([0, 0]), [""]),
        "below 4": Entries(np.array([0, 1]), np.array([0, 4]), ["", ""]),
        "1 times for 2": Entries(np.array([0, 1]), np.array([0, 0]), ["", ""], times=np.zeros(1, np.int64)),
    }
    for message, entries in wrong.items():
        with pytest.raises(ValueError, match=message):
            write(corpus.path, val=entries)
    assert [p.name for p in tmp_path.iterdir()] == ["tiny"]
    Corpus.open(corpus.path).verify()


def test_unknown_format_is_refused_by_name(corpus):
    file = corpus.path / "manifest.json"
    manifest = json.loads(file.read_text())
    file.write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(UserError, match=r"format 99.*reads 'corpus' of format 1"):
        Corpus.open(corpus.path)
    file.write_text(json.dumps(manifest | {"kind": "embeddings"}))
    with pytest.raises(UserError, match="'embeddings'"):
        Corpus.open(corpus.path)
    file.write_text("{")
    with pytest.raises(UserError, match="not a prepared corpus"):
        Corpus.open(corpus.path)


def test_no_corpus_says_how_to_make_one(tmp_path):
    with pytest.raises(UserError, match="symcere prepare"):
        Corpus.open(tmp_path / "nothing")


def test_a_cut_or_missing_file_is_noticed_on_opening(corpus, tmp_path):
    for name in ("train/texts.arrow", "val/indices.npy", "users.arrow"):
        copy = tmp_path / "copy"
        shutil.copytree(corpus.path, copy)
        file = copy / name
        file.write_bytes(file.read_bytes()[:-1])
        with pytest.raises(UserError, match=f"damaged: {name}"):
            Corpus.open(copy)
        file.unlink()
        with pytest.raises(UserError, match=f"damaged: {name}"):
            Corpus.open(copy)
        shutil.rmtree(copy)


def test_verify_notices_a_changed_letter(corpus):
    file = corpus.path / "train" / "texts.arrow"
    file.write_bytes(file.read_bytes().replace(b"user 0 on item 1", b"user 0 on item 7"))
    with pytest.raises(UserError, match="was changed"):
        Corpus.open(corpus.path).verify()


def test_index_of_an_id_and_help_for_an_unknown_one(corpus):
    assert [corpus.user_index(user) for user in ("ann", "bob", "cid")] == [0, 1, 2]
    assert corpus.item_index("b-pan") == 2
    with pytest.raises(UserError, match=r"no item of tiny.*'b-pna'.*Did you mean b-pan"):
        corpus.item_index("b-pna")
    with pytest.raises(UserError, match="Ids look like ann, bob, cid"):
        corpus.user_index("12345678")


def test_to_pyg_holds_training_edges_and_labels_to_predict(corpus):
    data = corpus.to_pyg()
    assert data.validate()
    assert (data["user"].num_nodes, data["item"].num_nodes) == (3, 4)
    edges = data["user", "reviews", "item"]
    assert edges.edge_index.T.tolist() == [list(pair) for pair in PAIRS["train"]]
    assert edges.rating.tolist() == [0, 1, 2, 3]
    assert data["item", "rev_reviews", "user"].edge_index.tolist() == edges.edge_index.flip(0).tolist()
    for name in ("val", "test"):
        assert edges[f"{name}_edge_label_index"].T.tolist() == [list(pair) for pair in PAIRS[name]]
        assert edges[f"{name}_edge_label"].tolist() == [1.0] * len(PAIRS[name])


def test_what_another_preparation_replaced_is_not_read_as_the_same(corpus):
    """Texts and numbers of an open corpus are read late: never those of a later one at its place."""
    carried = pickle.dumps(corpus)
    assert pickle.loads(carried).fingerprint == corpus.fingerprint
    other = write(corpus.path, train=split("train", ["another text"] * 4))
    assert other.fingerprint != corpus.fingerprint
    for read in (corpus.texts, corpus.ratings, corpus.times, lambda: pickle.loads(carried)):
        with pytest.raises(UserError, match="'tiny' was prepared anew"):
            read()
    assert other.texts().to_pylist() == ["another text"] * 4


def test_a_corpus_is_opened_whole_while_others_take_its_place(tmp_path):
    """Each corpus has the texts, the ids and the interactions of its own fingerprint."""
    kinds = {}
    for number in range(2):
        made = write(tmp_path / f"{number}", item_ids=[f"{number}-{n}" for n in range(4)], notes=[f"{number}"])
        kinds[made.fingerprint] = (f"{number}-0", [f"{number}"])
    write(tmp_path / "tiny")
    over = threading.Event()

    def replace():
        number = 0
        while not over.is_set():
            number = 1 - number
            write(tmp_path / "tiny", item_ids=[f"{number}-{n}" for n in range(4)], notes=[f"{number}"])

    write(tmp_path / "tiny", item_ids=[f"0-{n}" for n in range(4)], notes=["0"])
    thread = threading.Thread(target=replace)
    thread.start()
    try:
        seen = {
            (c.fingerprint, c.item_ids[0].as_py(), *c.notes)
            for c in (Corpus.open(tmp_path / "tiny") for _ in range(300))
        }
    finally:
        over.set()
        thread.join()
    assert {(fingerprint, item, [note]) == (fingerprint, *kinds[fingerprint]) for fingerprint, item, note in seen} == {
        True
    }


def test_a_number_is_the_id_it_is_read_as(tmp_path):
    numbered = write(tmp_path / "n", item_ids=["10", "11", "12", "13"])
    assert numbered.item_index(12) == numbered.item_index(12.0) == numbered.item_index(np.int64(12)) == 2

"""What is held out is really out, and in a world of three tastes words alone find their items."""

import numpy as np
import pytest

from symcere.config import Experiment
from symcere.data.corpus import Corpus, Entries
from symcere.errors import UserError
from symcere.serving.cold import _groups, _profile, cold_start, hold_out
from symcere.text import embed

QUICK = {"text.encoders": "lsa", "model.dim": 16, "train.epochs": 30, "train.lr": 0.03, "data.core": 1}
WORDS = (("neck", "fretboard", "maple"), ("pool", "breakfast", "beach"), ("gasket", "pump", "thread"))


@pytest.fixture(scope="module")
def three_tastes(tmp_path_factory):
    """90 users, 60 items; a user reviews items of one taste, in its words."""
    rng = np.random.default_rng(3)
    folder = tmp_path_factory.mktemp("cold")
    found = {"train": [], "val": [], "test": []}
    for user in range(90):
        items = rng.permutation(np.arange(user % 3, 60, 3))[:8]
        for n, item in enumerate(items):
            words = rng.choice(WORDS[user % 3], 2)
            found["test" if n == 0 else "val" if n == 1 else "train"].append(
                (user, item, f"about the {words[0]} and the {words[1]} number{user}")
            )
    entries = {}
    for split, rows in found.items():
        users, items, texts = zip(*sorted(rows), strict=True)
        entries[split] = Entries(np.array(users), np.array(items), list(texts))
    ids = {"user_ids": [f"u{n:02}" for n in range(90)], "item_ids": [f"i{n:02}" for n in range(60)]}
    corpus = Corpus.write(folder / "tastes", name="tastes", **ids, **entries)
    return corpus, embed(corpus, Experiment().replace(QUICK).text, folder)


def test_held_out_users_and_items_are_nowhere_in_what_is_trained_on(three_tastes):
    corpus, embeddings = three_tastes
    warm = hold_out(corpus, embeddings, 0.2, seed=4)
    assert (len(warm.cold_users), len(warm.cold_items)) == (18, 12)
    whole = corpus.train.toarray()
    np.testing.assert_array_equal(warm.corpus.train.toarray(), whole[np.ix_(warm.users, warm.items)])
    for split in ("val", "test"):
        part = getattr(warm.corpus, split).toarray()
        assert part.sum() > 0
        assert (part <= getattr(corpus, split).toarray()[np.ix_(warm.users, warm.items)]).all()
    # Each kept review stands at the place of its interaction.
    row = np.repeat(np.arange(corpus.num_users), np.diff(corpus.train.indptr))
    kept = [
        k
        for k, (u, i) in enumerate(zip(row, corpus.train.indices, strict=True))
        if u not in warm.cold_users and i not in warm.cold_items
    ]
    assert len(warm.embeddings.reviews) == warm.corpus.train.nnz == len(kept)
    np.testing.assert_allclose(warm.embeddings.reviews, warm.reviews[kept], atol=1e-3)
    # The words that only cold users write are unknown to the encoder that was fitted anew.
    texts = corpus.texts("train").to_pylist()
    left = [texts[k] for k in kept]
    assert not any(f"number{user}" in text.split() for user in warm.cold_users for text in left)


def test_a_change_of_what_is_held_out_changes_nothing_that_is_trained(three_tastes, tmp_path):
    """A cold user's review is rewritten: the warm part, encoder included, is the same to the bit."""
    corpus, embeddings = three_tastes
    warm = hold_out(corpus, embeddings, 0.2, seed=4)
    texts = {split: corpus.texts(split).to_pylist() for split in ("train", "val", "test")}
    row = np.repeat(np.arange(corpus.num_users), np.diff(corpus.train.indptr))
    for k in np.flatnonzero(np.isin(row, warm.cold_users) | np.isin(corpus.train.indices, warm.cold_items)):
        texts["train"][k] = "something else entirely about the gasket"
    entries = {}
    for split in texts:
        users, items = getattr(corpus, split).tocoo().coords
        entries[split] = Entries(users, items, texts[split])
    other = Corpus.write(
        tmp_path / "other", name="other", user_ids=corpus.user_ids, item_ids=corpus.item_ids, **entries
    )
    again = hold_out(other, embed(other, Experiment().replace(QUICK).text, tmp_path), 0.2, seed=4)
    np.testing.assert_array_equal(again.embeddings.reviews, warm.embeddings.reviews)


def test_profiles_are_means_of_reviews_with_text():
    reviews = np.array([[1, 0], [0, 0], [0, 2], [4, 4]], dtype=np.float32)
    profile, has_text = _profile(reviews, _groups(np.array([2, 5, 7]), np.array([2, 2, 2, 7])))
    np.testing.assert_allclose(profile, [[0.5, 1], [0, 0], [4, 4]])
    assert has_text.tolist() == [True, False, True]


def test_words_alone_beat_popularity_where_they_decide(three_tastes):
    corpus, embeddings = three_tastes
    told = cold_start(corpus, embeddings, Experiment().replace(QUICK), share=0.2, seed=1)
    for table in ("cold_users", "cold_items"):
        rows = {row["ranked by"]: row for row in told[table]}
        base = next(iter(rows.values()))
        metric = next(key for key in base if key.startswith("ndcg"))
        assert base["p"] is None
        assert rows["text"][metric] > base[metric] + 0.1
        assert rows["text"]["p"] < 0.05
        assert rows["text"]["low"] < rows["text"][metric] < rows["text"]["high"]
    assert "18 users, 12 items" in told["notes"][0]


def test_models_without_text_are_refused(three_tastes):
    corpus, embeddings = three_tastes
    for settings in ({"model.features": "id"}, {"closed_form.kind": "ease"}):
        with pytest.raises(UserError, match="models that read text"):
            cold_start(corpus, embeddings, Experiment().replace({**QUICK, **settings}))
    with pytest.raises(UserError, match="between 0 and 1"):
        hold_out(corpus, embeddings, 1.0, 0)

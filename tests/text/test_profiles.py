import sys
from types import SimpleNamespace

import numpy as np
import pytest

from symcere.text import profiles


@pytest.fixture
def case(tmp_path, make_reviews, write_corpus):
    rng = np.random.default_rng(3)
    corpus = write_corpus(tmp_path / "c", make_reviews(rng, n=150))
    X = rng.normal(size=(corpus.train.nnz, 6)).astype(np.float16)
    coo = corpus.train.tocoo()
    X[rng.random(len(X)) < 0.3] = 0
    X[coo.row == 4] = 0  # a user and an item with interactions but without text
    X[coo.col == 2] = 0
    return corpus, SimpleNamespace(reviews=X), list(zip(coo.row, coo.col, strict=True))


def slow(corpus, X, pairs):
    """Means by a loop over reviews, in float64."""
    own = [[] for _ in range(corpus.num_users + corpus.num_items)]
    for k, (u, i) in enumerate(pairs):
        if X[k].any():
            own[u].append(X[k].astype(np.float64))
            own[corpus.num_users + i].append(X[k].astype(np.float64))
    return np.array([np.mean(o, axis=0) if o else np.zeros(X.shape[1]) for o in own]), np.array([bool(o) for o in own])


@pytest.mark.parametrize("block", [1, 7, 10**6])
def test_means_of_own_reviews(case, monkeypatch, block):
    monkeypatch.setattr(sys.modules["symcere.text.profiles"], "BLOCK", block)
    corpus, embeddings, pairs = case
    mean, has_text = profiles(corpus, embeddings)
    expected, known = slow(corpus, embeddings.reviews, pairs)
    assert mean.dtype == np.float32
    np.testing.assert_allclose(mean, expected, atol=1e-6)
    np.testing.assert_array_equal(has_text, known)
    assert not has_text[4]
    assert not has_text[corpus.num_users + 2]
    assert not mean[~has_text].any()


def test_user_as_mean_of_items(case):
    corpus, embeddings, pairs = case
    own, known = slow(corpus, embeddings.reviews, pairs)
    mean, has_text = profiles(corpus, embeddings, "items")
    U = corpus.num_users
    for user in range(U):
        mine = [U + i for u, i in pairs if u == user and known[U + i]]
        assert has_text[user] == bool(mine)
        np.testing.assert_allclose(mean[user], np.mean(own[mine], axis=0) if mine else 0, atol=1e-6)
    np.testing.assert_allclose(mean[U:], own[U:], atol=1e-6)
    np.testing.assert_array_equal(has_text[U:], known[U:])

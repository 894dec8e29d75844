"""Profiles without the pair's own review and edge, against dense recomputation for every pair."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from symcere.model import own
from symcere.model.own import OwnFree, walks
from symcere.model.propagation import Graph


def random_case(seed: int, users: int = 7, items: int = 5, t: int = 3):
    """Interactions with isolated nodes, and embeddings of their reviews, some without text."""
    rng = np.random.default_rng(seed)
    dense = rng.random((users, items)) < rng.choice([0.15, 0.4, 0.9])
    dense[0, 0] = True
    train = sp.csr_array(dense.astype(np.float32))
    reviews = rng.normal(size=(train.nnz, t)) * (rng.random((train.nnz, 1)) < 0.8)
    return train, reviews


def dense_adjacency(train):
    R = train.toarray().astype(float)
    A = np.block([[np.zeros((len(R), len(R))), R], [R.T, np.zeros((R.shape[1], R.shape[1]))]])
    degree = A.sum(1)
    scale = np.divide(1, np.sqrt(degree), out=np.zeros_like(degree), where=degree > 0)
    return scale[:, None] * A * scale


def mean_profiles(train, reviews, left_out=None):
    """Profiles with the two columns of marks, and who has text, by a loop over reviews."""
    U = train.shape[0]
    own_reviews = [[] for _ in range(sum(train.shape))]
    for k, (u, i) in enumerate(zip(*pairs(train), strict=True)):
        if reviews[k].any() and k != left_out:
            own_reviews[u].append(reviews[k])
            own_reviews[U + i].append(reviews[k])
    X = np.zeros((len(own_reviews), reviews.shape[1] + 2))
    for node, texts in enumerate(own_reviews):
        if texts:
            X[node, :-2] = np.mean(texts, axis=0)
        else:
            X[node, -2 if node < U else -1] = 1
    return X, np.array([len(texts) > 0 for texts in own_reviews])


def pairs(train):
    return np.repeat(np.arange(train.shape[0]), np.diff(train.indptr)), train.indices


def mean_over_layers(A, X, layers):
    hops = [X]
    for _ in range(layers):
        hops.append(A @ hops[-1])
    return np.mean(hops, axis=0)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    layers=st.integers(0, 6),
    mode=st.sampled_from(["none", "text", "edge", "both"]),
    marks=st.booleans(),
)
def test_equals_recomputation_for_every_pair(seed, layers, mode, marks):
    train, reviews = random_case(seed)
    U = train.shape[0]
    A, (X, _) = dense_adjacency(train), mean_profiles(train, reviews)
    width = None if marks else -2
    module = OwnFree(Graph(train), train, X[:, :width], reviews, layers, mode)
    order = np.random.default_rng(seed).permutation(train.nnz)
    users_rows, items_rows, has_u, has_i = module(torch.from_numpy(order))
    users, items = pairs(train)
    for b, k in enumerate(order):
        u, i = users[k], U + items[k]
        cut = A.copy()
        if mode in ("edge", "both"):
            cut[u, i] = cut[i, u] = 0
        X_left, has_text = mean_profiles(train, reviews, left_out=k if mode in ("text", "both") else None)
        expected = mean_over_layers(cut, X_left[:, :width], layers)
        np.testing.assert_allclose(users_rows[b], expected[u], atol=1e-12)
        np.testing.assert_allclose(items_rows[b], expected[i], atol=1e-12)
        assert (bool(has_u[b]), bool(has_i[b])) == (has_text[u], has_text[i])


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), layers=st.integers(0, 7), cells=st.sampled_from([1, 12, 1 << 20]))
def test_walks_are_entries_of_powers(seed, layers, cells):
    train, _ = random_case(seed)
    A = dense_adjacency(train)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(own, "CELLS", cells)  # how much is computed at once does not show
        at_node, at_edge = walks(train, layers)
    users, items = pairs(train)
    for m in range(layers + 1):
        power = np.linalg.matrix_power(A, m)
        np.testing.assert_allclose(at_node[:, m], np.diag(power), atol=1e-12)
        np.testing.assert_allclose(at_edge[:, m], power[users, train.shape[0] + items], atol=1e-12)


def test_half_precision_reviews_and_float32_profiles():
    """As they come from the cache of embeddings; repeated pairs in one batch."""
    train, reviews = random_case(3)
    reviews = reviews.astype(np.float16)
    X = mean_profiles(train, reviews.astype(np.float64))[0]
    edges = torch.tensor([1, 0, 1, 2])
    exact = OwnFree(Graph(train), train, X, reviews, 3, "both")(edges)
    single = OwnFree(Graph(train), train, X.astype(np.float32), reviews, 3, "both")(edges)
    assert single[0].dtype == torch.float32
    for wide, narrow in zip(exact[:2], single[:2], strict=True):
        torch.testing.assert_close(narrow.double(), wide, rtol=0, atol=1e-6)


def test_nothing_of_it_is_saved():
    train, reviews = random_case(1)
    assert not OwnFree(Graph(train), train, mean_profiles(train, reviews)[0], reviews, 2, "both").state_dict()


def test_mismatched_reviews_are_refused():
    train, reviews = random_case(1)
    with pytest.raises(ValueError, match="do not match"):
        OwnFree(Graph(train), train, mean_profiles(train, reviews)[0], reviews[1:], 2, "both")

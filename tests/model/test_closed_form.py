"""Closed-form baselines against slow forms and against figures of other implementations."""

import json

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from symcere.config import ClosedForm
from symcere.errors import UserError
from symcere.model import closed_form as module
from symcere.model.closed_form import closed_form, from_state

KINDS = ("popularity", "itemknn", "rp3beta", "ease")


def random_interactions(seed: int, users: int = 17, items: int = 11, density: float = 0.3) -> sp.csr_array:
    dense = np.random.default_rng(seed).random((users, items)) < density
    return sp.csr_array(dense.astype(np.float32))


def all_scores(scorer) -> np.ndarray:
    return scorer.scores(torch.arange(scorer.num_users)).double().numpy()


# ---------------------------------------------------------------- against the definitions, by loops


def test_popularity_counts():
    R = sp.csr_array(np.array([[1, 1, 0], [0, 1, 0]], dtype=np.float32))
    assert all_scores(closed_form(ClosedForm(kind="popularity"), R)).tolist() == [[1, 2, 0], [1, 2, 0]]


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), k=st.sampled_from([1, 3, 400]), shrink=st.sampled_from([0.0, 2.5]))
def test_itemknn_is_the_shrunk_cosine_of_the_nearest(seed, k, shrink):
    R = random_interactions(seed)
    dense, items = R.toarray().astype(float), R.shape[1]
    W = np.zeros((items, items))
    for i in range(items):
        similarity = np.zeros(items)
        for j in range(items):
            common = (dense[:, i] * dense[:, j]).sum()
            if i != j and common:
                similarity[j] = common / (np.sqrt(dense[:, i].sum() * dense[:, j].sum()) + shrink)
        nearest = np.argsort(-similarity.astype(np.float32), kind="stable")[:k]
        W[i, nearest] = similarity[nearest]
    scorer = closed_form(ClosedForm(kind="itemknn", shrink=shrink, neighbours=k), R)
    np.testing.assert_allclose(all_scores(scorer), dense @ W, atol=1e-5)


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), alpha=st.sampled_from([0.4, 1.0]), beta=st.sampled_from([-0.5, 0.0, 0.6]))
def test_rp3beta_is_three_steps_of_a_walk(seed, alpha, beta):
    R = random_interactions(seed, density=0.15)
    dense = R.toarray().astype(float)
    users, items = dense.shape
    expected = np.zeros((users, items))
    for u in range(users):
        for i in np.flatnonzero(dense[u]):
            for v in np.flatnonzero(dense[:, i]):
                for j in np.flatnonzero(dense[v]):
                    if j != i:
                        walk = (1 / dense[:, i].sum()) ** alpha * (1 / dense[v].sum()) ** alpha
                        expected[u, j] += walk / dense[:, j].sum() ** beta
    scores = all_scores(closed_form(ClosedForm(kind="rp3beta", alpha=alpha, beta=beta, neighbours=0), R))
    reached = expected > 0
    np.testing.assert_allclose(scores[reached], expected[reached], rtol=1e-5)
    counts = dense.sum(0)
    for u in range(users):  # what no walk reaches comes last, the most popular first
        unreached = np.flatnonzero(~reached[u])
        assert (scores[u, unreached] < 0).all()
        order = np.argsort(counts[unreached], kind="stable")
        assert (np.diff(scores[u, unreached][order]) >= 0).all()
        assert ((np.diff(scores[u, unreached][order]) > 0) == (np.diff(counts[unreached][order]) > 0)).all()


@pytest.mark.parametrize("chunk", [1, 4, 2048])
def test_ease_solves_its_constrained_least_squares(monkeypatch, chunk):
    monkeypatch.setattr(module, "CHUNK", chunk)
    R, reg = random_interactions(3), 2.5
    W = closed_form(ClosedForm(kind="ease", reg=reg), R).weights
    dense = R.toarray().astype(float)
    for j in range(R.shape[1]):  # each column: ridge regression of an item on all the others
        others = np.arange(R.shape[1]) != j
        X = dense[:, others]
        expected = np.linalg.solve(X.T @ X + reg * np.eye(X.shape[1]), X.T @ dense[:, j])
        np.testing.assert_allclose(W[others, j], expected, atol=1e-6)
        assert W[j, j] == 0


@pytest.mark.parametrize("kind", ["itemknn", "rp3beta"])
def test_chunks_do_not_show(monkeypatch, kind):
    R = random_interactions(5)
    whole = all_scores(closed_form(ClosedForm(kind=kind, neighbours=3), R))
    monkeypatch.setattr(module, "CHUNK", 4)
    np.testing.assert_array_equal(all_scores(closed_form(ClosedForm(kind=kind, neighbours=3), R)), whole)


# ---------------------------------------------------------------- as a scorer


@pytest.mark.parametrize("kind", KINDS)
def test_state_round_trip(kind, tmp_path):
    scorer = closed_form(ClosedForm(kind=kind), random_interactions(1))
    torch.save(scorer.state(), tmp_path / "state.pt")
    again = from_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert (again.num_users, again.num_items) == (17, 11)
    users = torch.tensor([3, 3, 0])
    torch.testing.assert_close(again.scores(users), scorer.scores(users), rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_belong_to_the_caller(kind):
    scorer = closed_form(ClosedForm(kind=kind), random_interactions(1))
    users = torch.tensor([2, 5])
    first = scorer.scores(users)
    assert first.dtype == torch.float32
    assert first.shape == (2, 11)
    kept = first.clone()
    first.fill_(-torch.inf)
    assert torch.equal(scorer.scores(users), kept)


@pytest.mark.parametrize("kind", ["itemknn", "rp3beta"])
def test_two_communities_are_kept_apart(kind):
    """Of two disjoint groups, every unseen item of one's own scores above all of the other."""
    rng = np.random.default_rng(0)
    dense = np.zeros((40, 20), dtype=np.float32)
    dense[:20, :10] = rng.random((20, 10)) < 0.6
    dense[20:, 10:] = rng.random((20, 10)) < 0.6
    scores = all_scores(
        closed_form(
            ClosedForm(kind=kind, shrink=0, reg=1, neighbours=0 if kind != "itemknn" else 20), sp.csr_array(dense)
        )
    )
    scores[dense > 0] = np.nan
    assert np.nanmin(scores[:20, :10]) > np.nanmax(scores[:20, 10:])
    assert np.nanmin(scores[20:, 10:]) > np.nanmax(scores[20:, :10])


def test_memory_is_refused_before_it_is_taken(monkeypatch):
    monkeypatch.setattr(module, "_free_memory", lambda: 1000)
    with pytest.raises(UserError, match=r"EASE.* 11 items .*itemknn"):
        closed_form(ClosedForm(kind="ease"), random_interactions(1))
    monkeypatch.setattr(module, "_free_memory", lambda: 100)
    with pytest.raises(UserError, match="neighbours"):
        closed_form(ClosedForm(kind="rp3beta", neighbours=0), random_interactions(1))


def test_none_is_no_closed_form():
    with pytest.raises(UserError, match="popularity"):
        closed_form(ClosedForm(), random_interactions(1))


# ---------------------------------------------------------------- figures of other implementations


def read_split(folder):
    shape = tuple(len(json.loads((folder / name).read_text())) for name in ("users.json", "items.json"))

    def read(name):
        pairs = np.loadtxt(folder / name, delimiter=",", skiprows=1, dtype=int)
        return sp.csr_array((np.ones(len(pairs), dtype=np.float32), (pairs[:, 0], pairs[:, 1])), shape=shape)

    return read("train.csv"), read("val.csv"), read("test.csv")


def slow_ndcg(scores, seen, test, seed, k=10):
    """Mean over users with a test item; ties in a random order."""
    order = np.random.default_rng(seed).permutation(scores.shape[1])
    values = []
    for u in range(len(scores)):
        relevant = test.indices[test.indptr[u] : test.indptr[u + 1]]
        row = scores[u].copy()
        row[seen.indices[seen.indptr[u] : seen.indptr[u + 1]]] = -np.inf
        top = np.lexsort((order, -row))[:k]
        gains = [1 / np.log2(r + 2) for r, item in enumerate(top) if item in relevant]
        if len(relevant):
            values.append(sum(gains) / sum(1 / np.log2(r + 2) for r in range(min(k, len(relevant)))))
    return float(np.mean(values))


# Figures of one tie-breaking each; the tolerance is what other orders of equal scores do to them (none where 0).
FIGURES = [
    ("musical-instruments", {"kind": "popularity"}, 0.0562, 0.0003),
    ("musical-instruments", {"kind": "itemknn"}, 0.0767, 0.0005),
    ("musical-instruments", {"kind": "ease", "reg": 500}, 0.0766, 0),
    ("musical-instruments", {"kind": "rp3beta", "alpha": 0.4, "beta": -0.2, "neighbours": 0}, 0.0809, 0),
    ("tripadvisor-lara-3core", {"kind": "popularity"}, 0.0185, 0.0004),
    ("tripadvisor-lara-3core", {"kind": "itemknn"}, 0.0158, 0.0004),
    ("tripadvisor-lara-3core", {"kind": "ease", "reg": 100}, 0.0180, 0.0003),
    ("tripadvisor-lara-3core", {"kind": "rp3beta", "alpha": 0.4, "beta": -0.5, "neighbours": 0}, 0.0235, 0.0002),
]


@pytest.mark.parametrize(("folder", "closed", "figure", "tie_spread"), FIGURES)
def test_known_figures(anchors, folder, closed, figure, tie_spread):
    train, val, test = read_split(anchors / folder)
    scores = closed_form(ClosedForm(**closed), train).scores(torch.arange(train.shape[0])).numpy()
    assert slow_ndcg(scores, (train + val).tocsr(), test, seed=0) == pytest.approx(figure, abs=tie_spread + 5e-5)

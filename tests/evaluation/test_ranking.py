"""Top k against a full sort in plain Python, ties, masks and bad scores."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from symcere.errors import UserError
from symcere.evaluation.ranking import entries, top_k
from symcere.model.scorer import FactorScorer


class Table:
    """A scorer that holds its scores; hands out its own memory, as a careless one may."""

    def __init__(self, scores):
        self.table = torch.as_tensor(scores)
        self.num_users, self.num_items = self.table.shape

    def scores(self, users):
        return self.table[users] if len(users) != self.num_users else self.table


def slow_top_k(table, users, k, exclude, rank):
    """Every candidate sorted by (score, rank), one user at a time."""
    lists = []
    for user in users:
        barred = set(exclude.indices[exclude.indptr[user] : exclude.indptr[user + 1]]) if exclude is not None else set()
        candidates = [i for i in range(table.shape[1]) if i not in barred and table[user, i] > -np.inf]
        candidates.sort(key=lambda i: (-table[user, i], rank[i]))
        lists.append((candidates + [-1] * k)[:k])
    return np.array(lists)


def matrix(dense):
    return csr_array(np.asarray(dense, dtype=np.float32))


@pytest.mark.parametrize(("items", "k"), [(7, 3), (7, 7), (64, 1), (331, 5), (1000, 20), (1003, 20), (513, 63)])
@pytest.mark.parametrize("levels", [0, 3, 40])
def test_equals_a_full_sort(items, k, levels):
    rng = np.random.default_rng(items + k + levels)
    users = 40
    table = rng.standard_normal((users, items)).astype(np.float32)
    if levels:  # many exact ties, at the k-th place too
        table = np.round(rng.random((users, items)) * levels).astype(np.float32)
    exclude = matrix(rng.random((users, items)) < 0.2)
    asked = rng.integers(users, size=25)
    got, values = top_k(Table(table), asked, k, exclude, seed=5, chunk_bytes=4 * items * 7)  # uneven last chunk
    rank = np.random.default_rng(5).permutation(items)
    assert got.tolist() == slow_top_k(table, asked, k, exclude, rank).tolist()
    at = got.numpy()
    expected = np.where(at >= 0, np.take_along_axis(table[asked], np.maximum(at, 0), 1), -np.inf)
    assert np.array_equal(values.numpy(), expected)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_factors_give_the_ranking_of_their_scores(bias, dtype):
    torch.manual_seed(0)
    noise = torch.randn(700, dtype=dtype)
    scorer = FactorScorer(torch.randn(30, 8, dtype=dtype), torch.randn(700, 8, dtype=dtype), noise if bias else None)
    users = torch.arange(30)
    table = scorer.scores(users).double().numpy()
    got, values = top_k(scorer, users, 10, chunk_bytes=1 << 30)
    assert got.tolist() == slow_top_k(table, range(30), 10, None, np.random.default_rng(0).permutation(700)).tolist()
    assert np.allclose(values.double().numpy(), -np.sort(-table, axis=1)[:, :10], rtol=1e-5)
    assert values.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_ties_follow_the_seed_and_not_the_index():
    scorer = Table(torch.zeros(1, 5000))
    first = top_k(scorer, [0], 50, seed=1)[0]
    assert torch.equal(first, top_k(scorer, [0], 50, seed=1)[0])
    second = top_k(scorer, [0], 50, seed=2)[0]
    assert len(set(first[0].tolist()) & set(second[0].tolist())) < 10
    assert 1500 < first.double().mean() < 3500  # index order would give 24.5


def test_every_tied_item_is_as_likely_to_be_taken():
    scorer = Table(torch.tensor([[1.0] + [0.0] * 9]))
    taken = np.bincount(np.concatenate([top_k(scorer, [0], 4, seed=s)[0][0].numpy() for s in range(900)]), minlength=10)
    assert taken[0] == 900
    assert taken[1:].min() > 240  # 300 expected, standard deviation 14
    assert taken[1:].max() < 360


def test_excluded_and_barred_items_never_come_and_short_lists_are_filled():
    table = torch.tensor([[5.0, 4, 3, 2, 1], [1, 2, 3, 4, 5]])
    exclude = matrix([[1, 0, 0, 1, 0], [0, 0, 0, 0, 0]])
    allowed = np.array([True, True, True, True, False])
    items, values = top_k(Table(table), [0, 1], 4, exclude, allowed=allowed)
    assert items.tolist() == [[1, 2, -1, -1], [3, 2, 1, 0]]
    assert values.tolist() == [[4, 3, -torch.inf, -torch.inf], [4, 3, 2, 1]]


def test_the_scorers_own_memory_is_left_alone():
    table = torch.arange(12.0).reshape(2, 6)
    scorer = Table(table.clone())
    top_k(scorer, [0, 1], 2, matrix(np.ones((2, 6))))
    assert torch.equal(scorer.table, table)


@pytest.mark.parametrize("where", [0, 100, 1023])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_is_a_clear_error_wherever_it_hides(where, value):
    table = torch.randn(6, 1024)
    table[4, where] = value
    with pytest.raises(UserError, match=rf"user 4 and item {where} .*not a finite number"):
        top_k(Table(table), torch.arange(6), 5)


@pytest.mark.parametrize("k", [0, 6])
def test_an_impossible_k_names_the_range(k):
    with pytest.raises(UserError, match=f"k is {k}, but there are 5 items"):
        top_k(Table(torch.zeros(2, 5)), [0], k)


def test_nobody_asked_for_nothing_given():
    items, values = top_k(Table(torch.zeros(2, 5)), np.empty(0, dtype=np.int64), 3)
    assert items.shape == values.shape == (0, 3)


def test_entries_of_rows_in_any_order():
    dense = np.random.default_rng(0).random((9, 13)) < 0.3
    asked = np.array([4, 4, 0, 8])
    rows, columns = entries(matrix(dense), asked)
    assert np.array_equal(np.stack([rows, columns]), np.stack(np.nonzero(dense[asked])))

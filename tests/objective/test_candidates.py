"""Histories, candidates and negatives: who is compared with whom, and how often."""

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from symcere.objective import AndBatch, History, InBatch, Negatives, Uniform, Weighted, contrastive, locate


def random_history(seed, U, N, share):
    dense = np.random.default_rng(seed).random((U, N)) < share
    return History.of(scipy.sparse.csr_array(dense.astype(np.float32))), torch.from_numpy(dense)


@settings(max_examples=60)
@given(st.integers(0, 999), st.integers(1, 8), st.integers(1, 9), st.sampled_from([0.0, 0.3, 1.0]), st.integers(0, 9))
def test_among_is_the_block_of_the_matrix(seed, U, N, share, C):
    history, dense = random_history(seed, U, N, share)
    g = torch.Generator().manual_seed(seed)
    anchors = torch.randint(U, (5,), generator=g)  # may repeat
    for candidates in (torch.randperm(N, generator=g)[:C], None):
        row, col = history.among(anchors, candidates)
        block = dense[anchors] if candidates is None else dense[anchors][:, candidates]
        assert (row.diff() >= 0).all()
        got = torch.zeros(block.shape, dtype=torch.int64)
        got.index_put_((row, col), torch.ones_like(row), accumulate=True)
        assert torch.equal(got, block.long())


def test_history_of_either_side():
    train = scipy.sparse.csr_array(np.array([[0, 1, 1], [1, 0, 0]], np.float32))
    users, items = History.of(train), History.of(train.T)
    assert users.degree.tolist() == [2, 1]
    assert items.degree.tolist() == [1, 1, 1]
    assert (users.num_nodes, users.num_others, items.num_nodes, items.num_others) == (2, 3, 3, 2)
    assert items.col.tolist() == [1, 0, 0]


def test_history_counts_a_repeated_interaction_once():
    twice = scipy.sparse.csr_array(scipy.sparse.coo_array((np.ones(3), ([0, 0, 0], [2, 0, 2])), shape=(1, 3)))
    assert History.of(twice).col.tolist() == [0, 2]
    unsorted = scipy.sparse.csr_array((np.ones(3), np.array([2, 0, 2]), np.array([0, 3])), shape=(1, 3))
    assert History.of(unsorted).col.tolist() == [0, 2]
    assert unsorted.nnz == 3  # the caller's matrix is left alone


def test_locate():
    assert locate(torch.tensor([4, 0, 2]), torch.tensor([2, 4]), 5).tolist() == [1, -1, 0]
    assert locate(torch.tensor([4, 0]), None, 5).tolist() == [4, 0]


# ---------------------------------------------------------------- sampled candidates


def frequencies(sampled, rounds=2000):
    g = torch.Generator().manual_seed(0)
    seen = torch.zeros(sampled.num_nodes)
    for _ in range(rounds):
        ids = sampled.draw(generator=g).ids
        assert len(ids.unique()) == sampled.n  # none twice
        seen[ids] += 1
    return seen / rounds


@pytest.mark.parametrize("n", [1, 2, 3, 28])
def test_uniform_sampling_includes_each_node_with_probability_n_over_all(n):
    """From all nodes in another order, or, of 1 and 2, from what is distinct among twice as many draws."""
    sampled = Uniform(n, 40)
    torch.testing.assert_close(sampled.log_inclusion, torch.full((40,), n / 40).log())
    assert (frequencies(sampled) - n / 40).abs().max() < 4 * 0.5 / 2000**0.5


def test_uniform_sampling_draws_every_set_alike():
    """Each of the 496 pairs of 32 nodes, by chi-squared; four draws may hold fewer than two distinct nodes."""
    from scipy.stats import chisquare

    g = torch.Generator().manual_seed(3)
    sampled, seen = Uniform(2, 32), torch.zeros(32, 32)
    for _ in range(20 * 496):
        one, other = sampled.draw(generator=g).ids.sort().values
        seen[one, other] += 1
    pairs = seen[tuple(torch.triu_indices(32, 32, offset=1))]
    assert pairs.sum() == seen.sum()
    assert chisquare(pairs.numpy()).pvalue > 1e-3


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_popularity_sampling_has_the_inclusion_probabilities_it_states(n):
    weights = torch.tensor([50, 20, 5, 5, 5, 4, 3, 3, 2, 1])
    sampled = Weighted(n, weights)
    inclusion = sampled.log_inclusion.exp()
    assert inclusion.sum().item() == pytest.approx(n)
    assert inclusion.max() <= 1
    assert (inclusion.diff() <= 1e-6).all()  # heavier nodes are likelier
    below = inclusion < 1 - 1e-6  # in proportion to weight where not certain
    ratio = inclusion[below] / weights[below]
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))
    assert (frequencies(sampled) - inclusion).abs().max() < 4 * 0.5 / 2000**0.5


@settings(max_examples=60)
@given(st.integers(0, 999), st.integers(1, 30), st.integers(1, 35))
def test_any_weights_give_exactly_n_distinct_nodes(seed, N, n):
    g = torch.Generator().manual_seed(seed)
    weights = torch.rand(N, generator=g).pow(-2).ceil()  # heavy tail
    sampled = Weighted(n, weights)
    assert sampled.log_inclusion.exp().sum().item() == pytest.approx(min(n, N))
    for _ in range(5):
        ids = sampled.draw(generator=g).ids
        assert len(ids) == len(ids.unique()) == min(n, N)


@pytest.mark.parametrize("n", [8, 100])
def test_sampling_everything_is_everything(n):
    for sampled in (Uniform(n, 8), Weighted(n, torch.tensor([9, 1, 1, 5, 2, 2, 1, 3]))):
        ids, log_inclusion = sampled.draw()
        assert sorted(ids.tolist()) == list(range(8))
        assert not log_inclusion.any()


def test_sampled_denominator_estimates_the_full_one():
    """With log π the mean over draws of the negatives' sum is the sum over all, within 3 standard errors."""
    g = torch.Generator().manual_seed(1)
    logits = torch.randn(12, generator=g, dtype=torch.float64)
    sampled = Weighted(4, torch.tensor([30, 9, 8, 7, 6, 5, 4, 3, 2, 2, 1, 1]))
    draws = []
    for _ in range(3000):
        ids, log_inclusion = sampled.draw(generator=g)
        at = locate(torch.tensor([0]), ids, 12)
        term = contrastive(
            torch.ones(1, 1, dtype=torch.float64),
            logits[:1, None],
            logits[ids, None],
            kind="infonce",
            positive_at=at,
            log_inclusion=log_inclusion,
            positive_inclusion=log_inclusion[at.clamp_min(0)],
        )
        draws.append(((term.sum + logits[0]).exp() - logits[0].exp()).item())
    want = logits[1:].exp().sum().item()
    assert abs(np.mean(draws) - want) < 3 * np.std(draws) / len(draws) ** 0.5


@pytest.mark.parametrize("drawn", [Uniform(3, 6), Weighted(3, torch.tensor([1, 1, 2, 3, 5, 9]))])
def test_what_is_drawn_and_of_the_batch_is_included_as_often_as_it_states(drawn):
    counts = torch.tensor([0, 1, 1, 2, 4, 8])
    interactions = torch.arange(6).repeat_interleave(counts)
    both, g, seen, rounds = AndBatch(drawn, InBatch(counts)), torch.Generator().manual_seed(2), torch.zeros(6), 3000
    for _ in range(rounds):
        of_batch = interactions[torch.randperm(16, generator=g)[:4]]
        ids, log_inclusion = both.draw(of_batch, g)
        assert set(of_batch.tolist()) <= set(ids.tolist())
        seen[ids] += 1
        stated = torch.full((6,), torch.nan).scatter(0, ids, log_inclusion.exp())
        assert torch.equal(stated.isnan(), torch.ones(6).scatter(0, ids, 0.0).bool())
    batch = InBatch(counts).log_inclusion(4).exp()
    want = 1 - (1 - drawn.log_inclusion.exp()) * (1 - batch)
    torch.testing.assert_close(stated[ids], want[ids])
    assert (seen / rounds - want).abs().max() < 4 * 0.5 / rounds**0.5


def test_draws_repeat_with_their_seed():
    for sampled in (Weighted(5, torch.arange(1, 21)), Uniform(5, 99), Uniform(5, 9)):
        first, again = (sampled.draw(generator=torch.Generator().manual_seed(7)).ids for _ in range(2))
        assert torch.equal(first, again)


def test_a_weight_of_zero_is_refused():
    with pytest.raises(ValueError, match="positive"):
        Weighted(1, torch.tensor([1, 0]))


# ---------------------------------------------------------------- in-batch candidates


def test_in_batch_inclusion_is_exact():
    """Against the hypergeometric distribution: P(a node of m interactions among B of E) = 1 − C(E−m, B) / C(E, B)."""
    from scipy.stats import hypergeom

    counts = torch.tensor([0, 1, 2, 5, 12])
    got = InBatch(counts).log_inclusion(6).exp().double()
    want = torch.tensor([1 - hypergeom.pmf(0, 20, int(m), 6) for m in counts])
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-7)
    last = InBatch(counts).draw(torch.tensor([1, 4])).log_inclusion  # 20 = 3 · 6 + 2
    want = torch.tensor([1 - hypergeom.pmf(0, 20, m, 2) for m in (1, 12)])
    torch.testing.assert_close(last.exp().double(), want, rtol=1e-6, atol=1e-7)
    for size in (20, 1000):  # a batch that is the epoch holds every node with an interaction
        assert not InBatch(counts).log_inclusion(size)[1:].any()


def test_in_batch_candidates_are_distinct():
    ids, log_inclusion = InBatch(torch.tensor([1, 2, 3])).draw(torch.tensor([2, 1, 2, 2]))
    assert ids.tolist() == [1, 2]
    assert log_inclusion[0] < log_inclusion[1] <= 0


# ---------------------------------------------------------------- negatives of BPR


@settings(max_examples=60)
@given(st.integers(0, 999), st.integers(1, 6), st.integers(1, 9), st.sampled_from([0.0, 0.4, 0.9]), st.booleans())
def test_negatives_are_never_known(seed, U, N, share, weighted):
    history, dense = random_history(seed, U, N, share)
    g = torch.Generator().manual_seed(seed)
    weights = torch.randint(1, 9, (N,), generator=g) if weighted else None
    users = torch.arange(U)
    items = Negatives(history, weights).draw(users, 20, g)
    assert items.shape == (U, 20)
    full = dense.all(1)
    assert (items[full] == -1).all()
    rest = ~full
    assert ((items[rest] >= 0) & (items[rest] < N)).all()
    assert not dense[rest].gather(1, items[rest]).any()


@pytest.mark.parametrize("weights", [None, torch.tensor([1, 7, 2, 5, 1, 1, 3, 10])])
def test_negatives_have_the_stated_distribution(weights):
    history, dense = random_history(5, 4, 8, 0.4)
    n = 20000
    items = Negatives(history, weights).draw(torch.arange(4), n, torch.Generator().manual_seed(0))
    share = (torch.ones(8) if weights is None else weights) * ~dense
    share = share / share.sum(1, keepdim=True)
    got = torch.stack([row.bincount(minlength=8) / n for row in items])
    assert (got - share).abs().max() < 4 * 0.5 / n**0.5

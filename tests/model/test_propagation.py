"""Propagation against a dense float64 loop and against PyG, value and gradient."""

import copy

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from symcere.model import propagation
from symcere.model.propagation import Graph

USERS, ITEMS = 7, 5
NODES = USERS + ITEMS


@pytest.fixture(scope="module", autouse=True)
def _rows_alone():
    """Small graphs too take the way of large ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(propagation, "SMALL", 0)
        yield


@pytest.fixture(params=[0, 2], ids=["over all entries", "transposed"])
def _back(request, monkeypatch):
    """How a gradient takes the hop to some of the nodes back."""
    monkeypatch.setattr(propagation, "FEW", request.param)


def random_train(seed: int, users: int = USERS, items: int = ITEMS, density: float = 0.35) -> sp.csr_array:
    dense = np.random.default_rng(seed).random((users, items)) < density
    return sp.csr_array(dense.astype(np.float32))


def dense_adjacency(train) -> torch.Tensor:
    """Â entry by entry."""
    R = train.toarray().astype(float)
    users, items = R.shape
    A = torch.zeros(users + items, users + items, dtype=torch.float64)
    for u in range(users):
        for i in range(items):
            if R[u, i]:
                A[u, users + i] = A[users + i, u] = 1 / np.sqrt(R[u].sum() * R[:, i].sum())
    return A


def dense_mean(A, H, layers, skip_input=False):
    hops = [H]
    for _ in range(layers):
        hops.append(A @ hops[-1])
    return sum(hops[skip_input:]) / len(hops[skip_input:])


def features(seed: int, columns: int = 3, nodes: int = NODES, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(nodes, columns, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def gradient(value, H, weight):
    return torch.autograd.grad((value * weight).sum(), H)[0]


# ---------------------------------------------------------------- the dense loop


@settings(max_examples=30)
@given(
    seed=st.integers(0, 10**6),
    density=st.sampled_from([0.0, 0.1, 0.4, 1.0]),
    layers=st.integers(0, 4),
    skip=st.booleans(),
    columns=st.sampled_from([1, 3, 64, 65, 130]),
    rows=st.lists(st.integers(0, NODES - 1), min_size=1, max_size=9),
)
def test_equals_the_dense_loop(seed, density, layers, skip, columns, rows):
    """All nodes and some of them, repeated ones too; isolated nodes occur at low density."""
    train = random_train(seed, density=density)
    graph, A = Graph(train), dense_adjacency(train)
    skip = skip and layers > 0
    rows = torch.tensor(rows)
    H = features(seed, columns).requires_grad_()
    weight = features(seed + 1, columns)
    expected = dense_mean(A, H, layers, skip)
    whole = graph.propagate(H, layers, skip)
    torch.testing.assert_close(whole, expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(gradient(whole, H, weight), gradient(expected, H, weight), rtol=0, atol=1e-13)
    some = graph.propagate(H, layers, skip, rows=rows)
    weight = weight[: len(rows)]
    torch.testing.assert_close(some, expected[rows], rtol=0, atol=1e-13)
    torch.testing.assert_close(
        gradient(some, H, weight), gradient(dense_mean(A, H, layers, skip)[rows], H, weight), rtol=0, atol=1e-13
    )


@settings(max_examples=30)
@given(
    seed=st.integers(0, 10**6),
    layers=st.integers(0, 4),
    keep=st.integers(0, 4),
    skip=st.booleans(),
    rows=st.none() | st.lists(st.integers(0, NODES - 1), min_size=1, max_size=9),
)
def test_the_two_sides_add_up(seed, layers, keep, skip, rows):
    """Features of users alone, and of items alone: together the dense loop's value, and each the dense gradient."""
    train = random_train(seed)
    graph, A, keep = Graph(train), dense_adjacency(train), min(keep, layers)
    skip = skip and layers > 0
    index = torch.arange(NODES) if rows is None else torch.tensor(rows)
    H = features(seed).requires_grad_()
    mean = dense_mean(A, H, layers, skip)[index]
    kept = (torch.linalg.matrix_power(A, keep) @ H)[index]
    parts = [
        graph.propagate_keep(H[graph.span(part)], layers, keep, skip, rows=None if rows is None else index, part=part)
        for part in ("users", "items")
    ]
    weight = features(seed + 1)[: len(index)]
    torch.testing.assert_close(parts[0][0] + parts[1][0], mean, rtol=0, atol=1e-13)
    ours, theirs = (parts[0][0] + parts[1][0]) * weight, mean * weight
    if keep:
        torch.testing.assert_close(parts[0][1] + parts[1][1], kept, rtol=0, atol=1e-13)
        ours, theirs = ours + (parts[0][1] + parts[1][1]) * weight, theirs + kept * weight
    found, expected = (torch.autograd.grad(value.sum(), H)[0] for value in (ours, theirs))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


@pytest.mark.usefixtures("_back")
@pytest.mark.parametrize("part", ["users", "items"])
@pytest.mark.parametrize("rows", [None, [3, 8, 3, 0, 11]])
def test_gradients_of_one_side(part, rows):
    graph = Graph(random_train(2))
    rows = None if rows is None else torch.tensor(rows)
    H = features(0, 2)[graph.span(part)].clone().requires_grad_()
    for layers, keep in ((1, 1), (3, 1), (2, 2)):

        def both(H, layers=layers, keep=keep):
            return graph.propagate_keep(H, layers, keep, rows=rows, part=part)

        assert gradcheck(both, H)
        assert gradgradcheck(both, H)


@pytest.mark.usefixtures("_back")
@pytest.mark.parametrize("rows", [None, [3, 8, 3, 0, 11], [0, 3, 8], list(range(NODES))])
@pytest.mark.parametrize("skip", [False, True])
def test_gradients_of_both_results(rows, skip):
    """The mean, the kept layer and both, by finite differences, once and twice."""
    graph = Graph(random_train(2))
    rows = None if rows is None else torch.tensor(rows)
    H = features(0, 2).requires_grad_()
    for layers, keep in ((1, 1), (3, 1), (3, 3)):

        def both(H, layers=layers, keep=keep):
            return graph.propagate_keep(H, layers, keep, skip, rows=rows)

        assert gradcheck(both, H)
        assert gradgradcheck(both, H)
        assert gradcheck(lambda H, both=both: both(H)[0], H)
        assert gradcheck(lambda H, both=both: both(H)[1], H)
    assert gradgradcheck(graph.hop, H)


def test_kept_layer():
    train = random_train(4)
    graph, A, H = Graph(train), dense_adjacency(train), features(1)
    for keep in (1, 2, 3):
        mean, kept = graph.propagate_keep(H, 3, keep, skip_input=True)
        torch.testing.assert_close(mean, dense_mean(A, H, 3, skip_input=True))
        torch.testing.assert_close(kept, torch.linalg.matrix_power(A, keep) @ H)
    assert graph.propagate_keep(H, 2, 0)[1] is None
    with pytest.raises(ValueError, match="layer 4"):
        graph.propagate_keep(H, 3, 4)


def test_isolated_nodes_are_zero_after_a_hop():
    dense = np.zeros((3, 2), dtype=np.float32)
    dense[0, 1] = 1
    graph, H = Graph(sp.csr_array(dense)), features(0, 2, nodes=5)
    expected = torch.zeros_like(H)
    expected[0], expected[4] = H[4], H[0]
    assert torch.equal(graph.hop(H), expected)


def test_nothing_is_written_into_what_was_given():
    graph, H = Graph(random_train(0)), features(0)
    before = H.clone()
    for rows in (None, torch.arange(NODES), torch.tensor([1, 5])):
        for layers, keep in ((0, 0), (1, 1), (3, 2)):
            leaf = H.clone().requires_grad_()
            results = [r for r in graph.propagate_keep(leaf, layers, keep, rows=rows) if r is not None]
            seed_gradients = [torch.ones_like(r) for r in results]
            torch.autograd.backward(results, seed_gradients)
            assert torch.equal(leaf.detach(), before)
            assert all((g == 1).all() for g in seed_gradients)
            assert len({r.data_ptr() for r in (leaf, *results)}) == 1 + len(results)


def test_skipping_the_only_layer_is_refused():
    with pytest.raises(ValueError, match="nothing is left"):
        Graph(random_train(0)).propagate(features(0), 0, skip_input=True)


def test_a_gradient_takes_the_last_hop_back_over_few_entries_or_over_all(monkeypatch):
    """To the bit the same: what is added for other nodes is zero."""
    graph, H, rows = Graph(random_train(1)), features(0).requires_grad_(), torch.tensor([3, 8, 11])
    products = []
    original = propagation._scipy_product
    monkeypatch.setattr(propagation, "_scipy_product", lambda m, H: products.append(m.nnz) or original(m, H))
    slopes = []
    for few, expected in ((2, 2), (0, 1)):
        monkeypatch.setattr(propagation, "FEW", few)
        products.clear()
        slopes.append(gradient(graph.propagate(H, 3, rows=rows), H, features(1)[:3]))
        assert len(products) == expected
    assert torch.equal(*slopes)


def test_small_graphs_take_a_shorter_way_to_the_same(monkeypatch):
    graph, H, rows = Graph(random_train(1)), features(0).requires_grad_(), torch.tensor([3, 8, 3])
    weight = features(1)[:3]
    long = graph.propagate_keep(H, 3, 2, rows=rows)
    monkeypatch.setattr(propagation, "SMALL", NODES + 1)
    short = graph.propagate_keep(H, 3, 2, rows=rows)
    for one, other in zip(long, short, strict=True):
        torch.testing.assert_close(one, other)
        torch.testing.assert_close(gradient(one, H, weight), gradient(other, H, weight))


# ---------------------------------------------------------------- noise


@pytest.mark.parametrize("rows", [None, [3, 8, 3, 0]])
def test_noise_enters_every_layer_and_no_gradient(rows):
    train = random_train(5)
    graph, A, H = Graph(train), dense_adjacency(train), features(3).requires_grad_()
    index = torch.arange(NODES) if rows is None else torch.tensor(rows)

    def noise(layer, n, start):
        assert (n, start) == (len(layer), 0)
        return 0.1 * torch.sign(layer)

    first = A @ H + 0.1 * torch.sign(A @ H)
    second = A @ first + 0.1 * torch.sign(A @ first)
    expected = ((H + first + second) / 3)[index]
    value = graph.propagate_keep(H, 2, 2, noise=noise, rows=None if rows is None else index)
    torch.testing.assert_close(value[0], expected)
    torch.testing.assert_close(value[1], second[index])
    weight = features(9)[: len(index)]
    torch.testing.assert_close(gradient(value[0], H, weight), gradient(expected, H, weight))


@pytest.mark.parametrize("rows", [None, [3, 8, 0]])
def test_noise_of_one_side_is_that_of_all(rows):
    """A side asks for its rows of the noise of all: what is drawn in one order for everybody is used once."""
    graph, H = Graph(random_train(5)), features(3)
    rows = None if rows is None else torch.tensor(rows)

    def noise(layer, n, start):
        every = torch.rand(n, layer.shape[1], generator=torch.Generator().manual_seed(n), dtype=layer.dtype)
        return layer.sign() * every[start : start + len(layer)]

    both = graph.propagate_keep(H, 3, 2, noise=noise, rows=rows)
    sides = [
        graph.propagate_keep(H[graph.span(part)], 3, 2, noise=noise, rows=rows, part=part)
        for part in ("users", "items")
    ]
    for whole, users, items in zip(both, *sides, strict=True):
        torch.testing.assert_close(users + items, whole)


# ---------------------------------------------------------------- PyG


def joint_edges(train) -> torch.Tensor:
    users, items = train.tocoo().coords
    users, items = torch.from_numpy(users).long(), torch.from_numpy(items).long() + train.shape[0]
    return torch.stack([torch.cat([users, items]), torch.cat([items, users])])


def test_a_hop_is_pyg_lgconv():
    from torch_geometric.nn import LGConv

    train = random_train(6, 30, 20, 0.1)
    graph, edges = Graph(train), joint_edges(train)
    H = features(0, 16, 50).requires_grad_()
    weight = features(1, 16, 50)
    ours, theirs = graph.hop(H), LGConv(normalize=True)(H, edges)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradient(ours, H, weight), gradient(theirs, H, weight))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_same_embeddings_and_gradient_as_pyg_lightgcn(dtype):
    from torch_geometric.nn.models import LightGCN

    train = random_train(7, 30, 20, 0.15)
    torch.manual_seed(0)
    model = LightGCN(num_nodes=50, embedding_dim=8, num_layers=3).to(dtype)
    edges = joint_edges(train)
    H = model.embedding.weight.detach().clone().requires_grad_()
    rows = torch.tensor([4, 44, 31, 4])
    theirs = model.get_embedding(edges)
    torch.testing.assert_close(Graph(train).propagate(H, 3), theirs)
    weight = features(1, 8, 4, dtype)
    theirs[rows].mul(weight).sum().backward()
    ours = gradient(Graph(train).propagate(H, 3, rows=rows), H, weight)
    torch.testing.assert_close(ours, model.embedding.weight.grad)


# ---------------------------------------------------------------- frozen features, dropped edges


@pytest.mark.parametrize("columns", [1, 64, 200])
def test_hops_of_frozen_features(columns):
    train = random_train(8)
    graph, A = Graph(train), dense_adjacency(train)
    X = features(0, columns).numpy()
    hops = graph.hops(X.astype(np.float32), 3)
    assert [h.dtype for h in hops] == [torch.float32] * 4
    for power, hop in enumerate(hops):
        expected = torch.linalg.matrix_power(A, power) @ torch.from_numpy(X)
        torch.testing.assert_close(hop.double(), expected, rtol=0, atol=1e-6)


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.0, 0.3, 0.7, 1.0]))
def test_dropped_edges_leave_the_graph_of_the_rest(seed, share):
    train = random_train(seed)
    keep = torch.rand(train.nnz, generator=torch.Generator().manual_seed(seed)) < share
    rest = train.copy()
    rest.data = keep.numpy().astype(np.float32)
    rest.eliminate_zeros()
    graph = Graph(train).dropped(keep)
    H = features(seed)
    assert graph.num_edges == keep.sum()
    torch.testing.assert_close(graph.propagate(H, 3), dense_mean(dense_adjacency(rest), H, 3))
    twice = graph.dropped(torch.ones(graph.num_edges, dtype=torch.bool))
    torch.testing.assert_close(twice.hop(H), graph.hop(H), rtol=0, atol=0)


# ---------------------------------------------------------------- as a module


def test_it_moves_and_copies_but_is_not_saved():
    graph, H = Graph(random_train(0)), features(0, dtype=torch.float32)
    assert not graph.state_dict()
    assert not list(graph.parameters())
    expected = graph.hop(H)
    twin = copy.deepcopy(graph).double()  # the precision of a product is that of its input
    assert torch.equal(twin.hop(H), expected)
    assert twin.hop(H.double()).dtype == torch.float64


def test_the_form_of_other_devices():
    """Elsewhere than on a CPU the product is a sparse matrix's: the same numbers."""
    graph, H = Graph(random_train(0)), features(0, 70)
    expected = graph.hop(H)
    torch.testing.assert_close(
        propagation._sparse_product(graph.offsets, graph.columns, graph.weights(H.dtype), H), expected
    )

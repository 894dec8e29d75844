"""The recommender against the method's formulas in dense float64 matrices, node by node."""

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from symcere.config import Model
from symcere.config.fields import build
from symcere.model.own import OwnFree
from symcere.model.propagation import Graph
from symcere.model.recommender import Recommender, marked, normalise, text_input

USERS, ITEMS, WIDTH = 9, 7, 5
NODES = USERS + ITEMS


def settings(**changes) -> Model:
    return build(Model, {"dim": 4, "layers": 2, "text_layers": 2, "hidden": 6, "popularity": "none", **changes})


class Case:
    """A small corpus in plain arrays: interactions with an isolated user and item, reviews of which some are empty."""

    def __init__(self, seed: int = 0):
        rng = np.random.default_rng(seed)
        dense = rng.random((USERS, ITEMS)) < 0.4
        dense[0], dense[:, 0], dense[1, 1] = False, False, True
        self.train = sp.csr_array(dense.astype(np.float32))
        self.reviews = rng.normal(size=(self.train.nnz, WIDTH))
        self.reviews[rng.random(self.train.nnz) < 0.25] = 0
        self.reviews[self.train.indptr[2] : self.train.indptr[3]] = 0  # user 2 wrote nothing, but is no isolated node
        self.counts = np.bincount(self.train.indices, minlength=ITEMS)
        R = dense.astype(float)
        A = np.block([[np.zeros((USERS, USERS)), R], [R.T, np.zeros((ITEMS, ITEMS))]])
        degree = A.sum(1)
        scale = np.divide(1, np.sqrt(degree), out=np.zeros(NODES), where=degree > 0)
        self.A = scale[:, None] * A * scale  # Â
        self.X, self.has_text = self.profiles()

    def pairs(self):
        return np.repeat(np.arange(USERS), np.diff(self.train.indptr)), self.train.indices.astype(int)

    def profiles(self, without: int | None = None):
        """Mean of each node's own reviews with text, by a loop; float64 [N, t], bool [N]."""
        own = [[] for _ in range(NODES)]
        for k, (u, i) in enumerate(zip(*self.pairs(), strict=True)):
            if self.reviews[k].any() and k != without:
                own[u].append(self.reviews[k])
                own[USERS + i].append(self.reviews[k])
        return (
            np.array([np.mean(r, axis=0) if r else np.zeros(WIDTH) for r in own]),
            np.array([bool(r) for r in own]),
        )

    def hops(self, H, layers, A=None):
        found = [H]
        for _ in range(layers):
            found.append((self.A if A is None else A) @ found[-1])
        return found

    def model(self, s: Model, seed: int = 1) -> Recommender:
        """A float64 model with random weights everywhere."""
        graph = Graph(self.train)
        x = marked(self.X, self.has_text, USERS).double()
        own = None
        if s.drop_own != "none":
            own = OwnFree(graph, self.train, x, self.reviews, s.text_layers, s.drop_own)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = Recommender(s, graph, self.counts, text_input(s, graph, x), self.has_text, own).double()
            for parameter in model.parameters():
                torch.nn.init.normal_(parameter)
            model.temperature.fill_(0.3)
        return model


def reference_text(case: Case, model: Recommender, X=None, has_text=None, A=None) -> np.ndarray:
    """T [N, d], written out for each tower."""
    s = model.settings
    X = case.X if X is None else X
    has_text = case.has_text if has_text is None else has_text
    user, item = np.arange(NODES) < USERS, np.arange(NODES) >= USERS
    X = np.column_stack([X, ~has_text & user, ~has_text & item]).astype(float)
    weights = {k: v.detach().numpy() for k, v in model.tower.state_dict().items()}

    def mlp(inputs):
        hidden = inputs @ weights["0.weight"].T + weights["0.bias"]
        hidden = np.where(hidden > 0, hidden, 0.01 * hidden)
        return hidden @ weights["2.weight"].T + weights["2.bias"]

    if s.text_tower == "linear":
        return np.mean(case.hops(X @ weights["weight"].T, s.text_layers, A), axis=0)  # after the tower: the long way
    if s.text_tower == "mlp":
        return np.mean(case.hops(mlp(X), s.text_layers, A), axis=0)
    hops = case.hops(X, s.text_layers, A)
    return mlp(np.mean(hops, axis=0) if s.text_tower == "post-mlp" else np.concatenate(hops, axis=1))


def reference_graph(case: Case, model: Recommender) -> np.ndarray:
    s = model.settings
    hops = case.hops(model.embedding.detach().numpy(), s.layers)
    return np.mean(hops[1:] if s.skip_input else hops, axis=0)


def reference_normal(z: np.ndarray, kind: str, side: str) -> np.ndarray:
    out = z.copy()
    for row in range(len(z)):
        if kind == "l2" or kind == "l2-" + side:
            out[row] = z[row] / max(np.sqrt((z[row] ** 2).sum()), 1e-12)
        elif kind == "layer":
            out[row] = (z[row] - z[row].mean()) / np.sqrt(z[row].var() + 1e-5)
    return out


def reference_scored(model: Recommender, G, T, side: str, kind: str) -> np.ndarray:
    s = model.settings
    if s.features == "id":
        return reference_normal(G, kind, side)
    if s.features == "text":
        return reference_normal(T, kind, side)
    if s.fusion == "concat":
        left, right = reference_normal(G, kind, side), reference_normal(T, kind, side)
        return np.concatenate([np.sqrt(s.fusion_weight) * left, right], axis=1)
    if s.fusion == "sum":
        return reference_normal(G + T, kind, side)
    W, b = model.gate.weight.detach().numpy(), model.gate.bias.detach().numpy()
    g = 1 / (1 + np.exp(-(np.concatenate([G, T], axis=1) @ W.T + b)))
    return reference_normal(g * G + (1 - g) * T, kind, side)


def check(case: Case, model: Recommender) -> None:
    """Views of some users and items, and the scores of all, against the formulas."""
    s = model.settings
    G = reference_graph(case, model) if s.features != "text" else None
    T = reference_text(case, model)
    users, items = torch.tensor([3, 0, 2, 8]), torch.tensor([6, 0, 1])
    views = model(users, items, need_text=True)
    at = {"users": users.numpy(), "items": items.numpy() + USERS}
    for side, rows in at.items():
        if G is None:
            assert views.graph is None
        else:
            np.testing.assert_allclose(getattr(views.graph, side).detach(), G[rows], atol=1e-12)
        np.testing.assert_allclose(getattr(views.text, side).detach(), T[rows], atol=1e-12)
        Z = reference_scored(model, None if G is None else G[rows], T[rows], side[:-1], s.normalise)
        np.testing.assert_allclose(getattr(views.scored, side).detach(), Z, atol=1e-12)

    kind = s.normalise if s.normalise_scores == "same" else s.normalise_scores
    both = [None if G is None else (G[:USERS], G[USERS:]), (T[:USERS], T[USERS:])]
    Zu = reference_scored(model, *(v and v[0] for v in both), "user", kind)
    Zi = reference_scored(model, *(v and v[1] for v in both), "item", kind)
    for w in (1.0, 0.0, 0.35):
        expected = Zu @ Zi.T
        if s.popularity != "none":
            bias = model.bias.detach().numpy() if s.popularity == "learned" else np.log1p(case.counts)
            expected = expected + w * 0.3 * bias
        scorer = model.scorer(w)
        assert (scorer.num_users, scorer.num_items) == (USERS, ITEMS)
        np.testing.assert_allclose(scorer.scores(torch.arange(USERS)), expected, atol=1e-7)
        np.testing.assert_allclose(scorer.scores(users), expected[users], atol=1e-7)


TOWERS = ("linear", "post-mlp", "sign", "mlp")


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("layers", [0, 1, 3])
def test_text_view_of_each_tower(tower, layers):
    case = Case()
    check(case, case.model(settings(features="text", text_tower=tower, text_layers=layers)))


@pytest.mark.parametrize(
    ("fusion", "kind"),
    itertools.product(("concat", "sum", "gate"), ("none", "l2", "l2-user", "l2-item", "layer")),
)
def test_fusion_and_normalisation(fusion, kind):
    case = Case(1)
    check(case, case.model(settings(features="both", fusion=fusion, fusion_weight=0.7, normalise=kind)))


@pytest.mark.parametrize("kind", ["none", "l2", "l2-user", "l2-item", "layer"])
def test_scoring_may_normalise_differently(kind):
    case = Case(2)
    check(case, case.model(settings(features="id", normalise="l2", normalise_scores=kind)))
    check(case, case.model(settings(features="both", fusion="sum", normalise="none", normalise_scores=kind)))


@pytest.mark.parametrize("popularity", ["none", "learned", "log-count"])
def test_popularity_term(popularity):
    case = Case(3)
    model = case.model(settings(features="text", popularity=popularity))
    check(case, model)
    assert ("bias" in dict(model.named_parameters())) == (popularity == "learned")
    fresh = Recommender(settings(features="id", popularity=popularity), Graph(case.train), case.counts)
    if popularity != "none":  # a learned bias starts as the log-count
        np.testing.assert_allclose(fresh.bias.detach(), np.log1p(case.counts), rtol=1e-6)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("layers", [1, 2, 4])
def test_graph_view(layers, skip):
    case = Case(4)
    check(case, case.model(settings(features="id", layers=layers, skip_input=skip)))


def test_without_layers_the_graph_view_is_the_embedding():
    case = Case(4)
    model = case.model(settings(features="id", layers=0))
    assert torch.equal(model.graph_view()[0], model.embedding)


def test_gradient_of_rows_is_the_gradient_of_all():
    """The rows of a step and the whole matrix are two ways through one function."""
    case = Case(5)
    for tower in TOWERS:
        model = case.model(settings(features="both", fusion="gate", text_tower=tower))
        users, items = torch.arange(USERS)[::2], torch.arange(ITEMS)
        weight = torch.randn(len(users), len(items), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        views = model(users, items)
        parameters = list(model.parameters())
        found = torch.autograd.grad((views.scored.users @ views.scored.items.T * weight).sum(), parameters)
        graph, text = model.graph_view()[0], model.text_view()
        z = model._scored_pair(graph, text, USERS)
        expected = torch.autograd.grad((z.users[users] @ z.items.T * weight).sum(), parameters)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


# ---------------------------------------------------------------- nodes without text


def test_a_node_without_text_has_the_one_learned_vector_of_its_side():
    case = Case()
    model = case.model(settings(features="text", text_layers=0))
    T = model.text_view().detach()
    silent_users = np.flatnonzero(~case.has_text[:USERS])
    silent_items = USERS + np.flatnonzero(~case.has_text[USERS:])
    assert {0, 2} <= set(silent_users)
    assert USERS in silent_items
    for nodes, column in ((silent_users, WIDTH), (silent_items, WIDTH + 1)):
        for node in nodes:
            torch.testing.assert_close(T[node], model.tower.weight.detach()[:, column])
    written = np.flatnonzero(case.has_text)
    np.testing.assert_allclose(T[written], case.X[written] @ model.tower.weight.detach().numpy()[:, :WIDTH].T)


def test_marks():
    has_text = np.array([True, False, True, False])
    x = marked(np.ones((4, 2), np.float32) * has_text[:, None], has_text, num_users=2)
    assert x.tolist() == [[1, 1, 0, 0], [0, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 1]]


def test_has_text_of_users_and_items():
    case = Case()
    model = case.model(settings(features="text"))
    assert model.has_text_of(torch.arange(USERS), items=False).tolist() == case.has_text[:USERS].tolist()
    assert model.has_text_of(torch.arange(ITEMS), items=True).tolist() == case.has_text[USERS:].tolist()


# ---------------------------------------------------------------- equal forms


def test_a_linear_tower_equals_propagation_after_it():
    """``(mean Â^l X) W = mean Â^l (X W)`` in float32 too, so a training step needs no graph."""
    case = Case(6)
    s = settings(features="text", text_layers=3)
    graph, x = Graph(case.train), marked(case.X.astype(np.float32), case.has_text, USERS)
    model = Recommender(s, graph, case.counts, text_input(s, graph, x), case.has_text)
    with torch.no_grad():
        after = graph.propagate(model.tower(x), 3)
    torch.testing.assert_close(model.text_view().detach(), after, rtol=0, atol=1e-6)


def test_a_linear_tower_trains_without_the_graph(monkeypatch):
    case = Case(6)
    model = case.model(settings(features="text"))

    def refuse(*_, **__):
        raise AssertionError("the graph was touched")

    for name in ("hop", "propagate", "propagate_keep", "_product"):
        monkeypatch.setattr(Graph, name, refuse)
    views = model(torch.arange(USERS), torch.arange(ITEMS))
    views.scored.users.sum().backward()
    assert model.tower.weight.grad is not None


@pytest.mark.parametrize("mode", ["text", "edge", "both"])
@pytest.mark.parametrize("features", ["text", "both"])
def test_own_review_and_edge_left_out(mode, features):
    """Z of each training pair from profiles and a graph in which the pair itself never was, recomputed pair by pair."""
    case = Case(7)
    model = case.model(settings(features=features, drop_own=mode, text_layers=3, fusion="gate"))
    users, items = case.pairs()
    edges = np.random.default_rng(0).permutation(case.train.nnz)
    of_u, at_u = np.unique(users[edges], return_inverse=True)
    of_i, at_i = np.unique(items[edges], return_inverse=True)
    views = model(torch.from_numpy(of_u), torch.from_numpy(of_i))
    found = model.own_free(torch.from_numpy(edges), views.graph, torch.from_numpy(at_u), torch.from_numpy(at_i))
    G = reference_graph(case, model) if features == "both" else None
    for b, k in enumerate(edges):
        u, i = users[k], USERS + items[k]
        X, has_text = case.profiles(without=k) if mode in ("text", "both") else (case.X, case.has_text)
        A = case.A.copy()
        if mode in ("edge", "both"):
            A[u, i] = A[i, u] = 0
        T = reference_text(case, model, X, has_text, A)
        for side, row, node in (("user", found.users[b], u), ("item", found.items[b], i)):
            g = None if G is None else G[[node]]
            np.testing.assert_allclose(row.detach(), reference_scored(model, g, T[[node]], side, "l2")[0], atol=1e-10)


def test_nothing_is_left_out_unless_asked():
    case = Case(7)
    model = case.model(settings(features="text"))
    none = torch.zeros(1, dtype=torch.long)
    assert model.own_free(none, None, none, none) is None


# ---------------------------------------------------------------- what is stored


def test_state_holds_what_is_learned_and_not_what_can_be_computed():
    case = Case()
    model = case.model(settings(features="both", fusion="gate", popularity="log-count"))
    assert set(model.state_dict()) == {"embedding", "tower.weight", "gate.weight", "gate.bias", "bias", "temperature"}
    again = case.model(settings(features="both", fusion="gate", popularity="log-count"), seed=2)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.scorer().scores(torch.arange(USERS)), model.scorer().scores(torch.arange(USERS)))


def test_normalise_leaves_the_other_side_as_it_is():
    z = torch.tensor([[3.0, 4.0]])
    torch.testing.assert_close(normalise(z, "l2-user", "user"), torch.tensor([[0.6, 0.8]]))
    assert normalise(z, "l2-user", "item").tolist() == [[3.0, 4.0]]
    assert normalise(torch.zeros(1, 2), "l2", "item").tolist() == [[0.0, 0.0]]


def test_equals_lightgcn_of_pyg():
    """The same weights give the same vectors, scores as PyTorch Geometric's LightGCN."""
    pyg = pytest.importorskip("torch_geometric.nn")
    case = Case(8)
    model = case.model(settings(features="id", layers=3, normalise="none"))
    users, items = (torch.from_numpy(n).long() for n in case.pairs())
    edges = torch.stack([users, items + USERS])
    edges = torch.cat([edges, edges.flip(0)], dim=1)
    peer = pyg.LightGCN(NODES, embedding_dim=4, num_layers=3).double()
    peer.embedding.weight.data.copy_(model.embedding.data)

    torch.testing.assert_close(model.graph_view()[0], peer.get_embedding(edges), rtol=1e-6, atol=1e-7)
    scores = model.scorer().scores(torch.arange(USERS))
    every = torch.cartesian_prod(torch.arange(USERS), torch.arange(ITEMS)).T
    theirs = peer(edges, every + torch.tensor([[0], [USERS]])).view(USERS, ITEMS)
    torch.testing.assert_close(scores, theirs.detach(), rtol=1e-6, atol=1e-7)

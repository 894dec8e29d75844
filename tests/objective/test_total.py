"""The total loss against its formulas written out in loops, value and gradient, in float64."""

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from symcere.config import Experiment
from symcere.config.baselines import baseline, baselines
from symcere.model.own import OwnFree
from symcere.model.propagation import Graph
from symcere.model.recommender import Recommender, marked, text_input
from symcere.objective import total
from symcere.objective.total import Batch, TotalLoss

USERS, ITEMS, WIDTH, BATCH = 10, 8, 5, 14
SMALL = {"model": {"dim": 4, "hidden": 6, "layers": 2, "text_layers": 1}, "train": {"batch_size": BATCH}}
ID = {"model.features": "id"}
BOTH = {"model.features": "both", "model.fusion": "sum"}


def experiment(*layers) -> Experiment:
    return Experiment().replace(SMALL, {"objective.reg": 0}, *layers)


class Case:
    """A model of random weights on a small corpus, its loss, and one batch of it; what the loss draws is recorded."""

    def __init__(self, setup: Experiment, seed: int = 0):
        rng = np.random.default_rng(seed)
        dense = rng.random((USERS, ITEMS)) < 0.45
        dense[0], dense[:, 0] = True, False  # user 0 knows every item but one, which nobody knows
        dense[0, 2] = dense[3, 2] = True
        self.train = sp.csr_array(dense.astype(np.float32))
        reviews = rng.normal(size=(self.train.nnz, WIDTH))
        users = np.repeat(np.arange(USERS), np.diff(self.train.indptr))
        items = self.train.indices.astype(np.int64)
        reviews[(users == 3) | (items == 4) | (rng.random(len(users)) < 0.3)] = 0  # user 3 and item 4 have no text
        X, has_text = np.zeros((USERS + ITEMS, WIDTH)), np.zeros(USERS + ITEMS, bool)
        for node in range(USERS + ITEMS):
            own = reviews[((users == node) | (items + USERS == node)) & reviews.any(axis=1)]
            if len(own):
                X[node], has_text[node] = own.mean(axis=0), True
        self.has_text = has_text
        assert not has_text[3]
        assert not has_text[USERS + 4]

        s, graph = setup.model, Graph(self.train)
        x = marked(X, has_text, USERS).double()
        own_free = None
        if s.drop_own != "none":
            own_free = OwnFree(graph, self.train, x, reviews, s.text_layers, s.drop_own)
        self.setup = setup
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            counts = np.bincount(items, minlength=ITEMS)
            self.model = Recommender(s, graph, counts, text_input(s, graph, x), has_text, own_free).double()
            self.loss = TotalLoss(setup, self.model, self.train).double()
            for parameter in (*self.model.parameters(), *self.loss.parameters()):
                torch.nn.init.normal_(parameter, std=0.5)
        edges = torch.from_numpy(rng.permutation(self.train.nnz)[:BATCH])
        self.batch = Batch(torch.from_numpy(users)[edges], torch.from_numpy(items)[edges], edges)
        self.history = [set(np.flatnonzero(row)) for row in dense]
        self.users_of = [set(np.flatnonzero(column)) for column in dense.T]
        self.drawn: dict[str, torch.Tensor] = {}
        for name in ("draw_items", "draw_users", "negatives"):
            if getattr(self.loss, name, None) is not None:
                self._record(name, getattr(self.loss, name))

    def _record(self, name, drawer):
        draw = drawer.draw

        def recorded(*args, **kwargs):
            self.drawn[name] = draw(*args, **kwargs)
            return self.drawn[name]

        drawer.draw = recorded

    def terms(self, seed: int = 5) -> dict[str, torch.Tensor]:
        self.loss.begin_epoch(self.model, torch.Generator().manual_seed(seed))
        return self.loss(self.model, self.batch, torch.Generator().manual_seed(seed))

    def views(self):
        """Views of all users and all items: row = number."""
        return self.model(torch.arange(USERS), torch.arange(ITEMS), need_text=True)

    def parameters(self):
        return [*self.model.parameters(), *self.loss.parameters()]

    def gradient(self, value) -> torch.Tensor:
        """Of all parameters, flat."""
        found = torch.autograd.grad(value, self.parameters(), allow_unused=True, retain_graph=True)
        pairs = zip(found, self.parameters(), strict=True)
        dense = (torch.zeros_like(p) if g is None else g.to_dense() for g, p in pairs)
        return torch.cat([g.flatten() for g in dense])

    def check(self, reference, name="ranking", rtol=1e-9):
        """The term equals ``reference(self)``, and so do all its gradients."""
        found = self.terms()[name]
        expected = reference(self)
        assert expected != 0
        torch.testing.assert_close(found, expected, rtol=rtol, atol=1e-12)
        torch.testing.assert_close(self.gradient(found), self.gradient(expected), rtol=rtol, atol=rtol)


# ---------------------------------------------------------------- the formulas, by loops


def contrastive_by_loops(kind, reduction, pairs, candidates, known, positive, corrected):
    """The mean loss of pairs (a, p).

    Args:
        candidates: nodes of the other side.
        known: set of known positives of each anchor.
        positive: (a, p) -> logit of a positive.
        corrected: (a, c) -> logit of a candidate, minus log π where asked for.
    """

    def loss(a, p):
        if kind == "supcon":
            inside = torch.stack([corrected(a, c) for c in candidates])
            return torch.logsumexp(inside, 0) - positive(a, p)
        left = [c for c in candidates if (c not in known[a] if kind == "sincere" else c != p)]
        return torch.logsumexp(torch.stack([positive(a, p), *(corrected(a, c) for c in left)]), 0) - positive(a, p)

    by_anchor: dict[int, list] = {}
    for a, p in pairs:
        by_anchor.setdefault(a, []).append(p)
    means, weights = [], []
    for a, own in by_anchor.items():
        present = [c for c in candidates if c in known[a]]
        numerators = present if kind == "supcon" or reduction == "history" else own
        if numerators:
            means.append(torch.stack([loss(a, p) for p in numerators]).mean())
            weights.append(len(own) if reduction == "pair" else 1)
    return sum(w * m for w, m in zip(weights, means, strict=True)) / sum(weights)


KIND = {"softmax": "infonce", "infonce": "infonce", "supcon": "supcon", "sincere": "sincere", "symcere": "sincere"}


def ranking_by_loops(case: Case) -> torch.Tensor:
    s, z, tau = case.setup.objective.ranking, case.views().scored, case.setup.objective.ranking.temperature
    pairs = list(zip(case.batch.users.tolist(), case.batch.items.tolist(), strict=True))
    own = {}
    if case.model.own is not None:
        graph = case.views().graph
        rows = case.model.own_free(case.batch.edges, graph, case.batch.users, case.batch.items)
        own = {pair: (rows.users[k], rows.items[k]) for k, pair in enumerate(pairs)}

    def side(flip: bool):
        here, there = (z.items, z.users) if flip else (z.users, z.items)
        bias = (case.loss.user_bias if flip else case.model.bias) if case.model.bias is not None else None
        drawn = case.drawn.get("draw_users" if flip else "draw_items")
        candidates = range(len(there)) if drawn is None else drawn.ids.tolist()
        log_pi = dict(zip(drawn.ids.tolist(), drawn.log_inclusion, strict=True)) if drawn and s.logq else {}
        found = []
        # With pairs that have vectors of their own, every pair is an anchor; else pairs of one node share it.
        for k, group in enumerate([[p] for p in pairs] if own else [pairs]):

            def anchor(a, k=k):
                if not own:
                    return here[a]
                return own[pairs[k]][1 if flip else 0]

            def positive(a, p, k=k):
                there_p = own[pairs[k]][0 if flip else 1] if own and s.reduction == "pair" else there[p]
                return (anchor(a) * there_p).sum() / tau + (0 if bias is None else bias[p])

            def corrected(a, c):
                logit = (anchor(a) * there[c]).sum() / tau + (0 if bias is None else bias[c])
                return logit - log_pi.get(c, 0)

            turned = [(i, u) if flip else (u, i) for u, i in group]
            known = case.users_of if flip else case.history
            found.append(
                contrastive_by_loops(KIND[s.loss], s.reduction, turned, candidates, known, positive, corrected)
            )
        return sum(found) / len(found)

    return (side(False) + side(True)) / 2 if s.loss == "symcere" else side(False)


CONTRASTIVE = ("softmax", "supcon", "sincere", "symcere")


@pytest.mark.parametrize(
    ("loss", "candidates", "reduction"),
    itertools.product(CONTRASTIVE, ("batch", "sampled", "all"), ("pair", "anchor", "history")),
)
def test_contrastive_ranking(loss, candidates, reduction):
    ranking = {"loss": loss, "candidates": candidates, "reduction": reduction, "sample": 5, "temperature": 0.3}
    ranking["logq"] = False
    Case(experiment(ID, {"objective.ranking": ranking})).check(ranking_by_loops)


def test_symmetric_ranking_over_the_batch_has_one_matrix_of_logits(monkeypatch):
    """Without a bias; the value is that of two sides."""
    sums = []
    original = total.symmetric
    monkeypatch.setattr(total, "symmetric", lambda *args, **kwargs: sums.append(1) or original(*args, **kwargs))
    for popularity, expected in (("none", 1), ("learned", 0)):
        sums.clear()
        layer = {
            "objective.ranking": {"loss": "symcere", "candidates": "batch", "logq": False},
            "model.popularity": popularity,
        }
        case = Case(experiment(BOTH, layer), seed=21)
        case.terms()
        assert len(sums) == expected
        case.check(ranking_by_loops)


@pytest.mark.parametrize(("loss", "sampling"), itertools.product(CONTRASTIVE, ("uniform", "popularity")))
def test_contrastive_ranking_with_log_inclusion(loss, sampling):
    """Probabilities are kept in float32."""
    ranking = {"loss": loss, "candidates": "sampled", "sample": 5, "sampling": sampling, "logq": True}
    Case(experiment(BOTH, {"objective.ranking": ranking}), seed=1).check(ranking_by_loops, rtol=1e-6)
    ranking = {"loss": loss, "candidates": "batch", "logq": True}
    Case(experiment(BOTH, {"objective.ranking": ranking}), seed=2).check(ranking_by_loops, rtol=1e-6)


@pytest.mark.parametrize(("loss", "popularity"), itertools.product(("sincere", "symcere"), ("none", "log-count")))
def test_popularity_in_the_logits(loss, popularity):
    """From the items' side a user's activity takes the bias' place."""
    case = Case(experiment({"model.popularity": popularity, "objective.ranking.loss": loss}), seed=3)
    assert (case.loss.user_bias is None) == (popularity == "none" or loss == "sincere")
    case.check(ranking_by_loops)


@pytest.mark.parametrize(
    ("mode", "loss"), itertools.product(("text", "edge", "both"), ("softmax", "sincere", "symcere"))
)
def test_own_review_left_out_of_the_pair_alone(mode, loss):
    """The pair's two vectors are without its review; candidates keep theirs."""
    case = Case(experiment({"model.drop_own": mode, "objective.ranking.loss": loss}), seed=4)
    case.check(ranking_by_loops)


@pytest.mark.parametrize(
    ("normalise", "popularity", "negatives"), itertools.product(("none", "l2", "layer"), ("none", "learned"), (1, 3))
)
def test_bpr(normalise, popularity, negatives):
    """Each negative once; temperature only where vectors are normalised; a user who knows all items is left out."""
    ranking = {"loss": "bpr", "negatives": negatives, "temperature": 0.3}
    model = {"features": "id", "normalise": normalise, "popularity": popularity}
    case = Case(experiment({"model": model, "objective.ranking": ranking}), seed=5)

    def by_loops(case):
        z, tau = case.views().scored, 1.0 if normalise == "none" else 0.3
        found = []
        for u, i, others in zip(case.batch.users, case.batch.items, case.drawn["negatives"], strict=True):
            for j in others:
                assert j.item() not in case.history[u]
                difference = (z.users[u] * (z.items[i] - z.items[j])).sum() / tau
                if case.model.bias is not None:
                    difference = difference + case.model.bias[i] - case.model.bias[j]
                found.append(-torch.log(torch.sigmoid(difference)))
        return torch.stack(found).mean()

    case.check(by_loops)


def test_bpr_leaves_out_a_user_who_knows_every_item():
    """Without a negative there is no loss and no gradient, not even of the last item's bias."""
    case = Case(experiment(ID, {"objective.ranking.loss": "bpr", "model.layers": 0}))
    full = sp.csr_array(np.vstack([np.ones((1, ITEMS)), np.eye(ITEMS)[:1], np.zeros((USERS - 2, ITEMS))]), dtype="f4")
    loss = TotalLoss(case.setup, case.model, full).double()
    users = torch.zeros(ITEMS, dtype=torch.long)
    terms = loss(case.model, Batch(users, torch.arange(ITEMS), torch.arange(ITEMS)), torch.Generator())
    assert terms["ranking"] == 0
    assert not case.gradient(terms["ranking"]).any()
    mixed = Batch(torch.tensor([0, 1]), torch.tensor([1, 0]), torch.tensor([1, ITEMS]))
    terms = loss(case.model, mixed, torch.Generator())
    gradient = torch.autograd.grad(terms["ranking"], case.model.embedding)[0]
    assert terms["ranking"] > 0
    assert not gradient[0].any()
    assert gradient[1].any()


def test_directau():
    case = Case(experiment(ID, {"objective.ranking": {"loss": "directau", "uniformity": 0.7}}), seed=6)

    def by_loops(case):
        z = case.views().scored
        pairs = list(zip(case.batch.users.tolist(), case.batch.items.tolist(), strict=True))
        close = torch.stack([(z.users[u] - z.items[i]).square().sum() for u, i in pairs]).mean()
        spread = []
        for rows, nodes in ((z.users, {u for u, _ in pairs}), (z.items, {i for _, i in pairs})):
            apart = [torch.exp(-2 * (rows[v] - rows[w]).square().sum()) for v in nodes for w in nodes if v != w]
            spread.append(torch.stack(apart).mean().log())
        return close + 0.7 * (spread[0] + spread[1]) / 2

    case.check(by_loops)


# ---------------------------------------------------------------- alignment


def unit(rows):
    return rows / rows.norm(dim=-1, keepdim=True)


def aligned_by_loops(case, left, right, s, text: bool):
    """Users' vectors ``left`` against items' ``right``; with ``text`` only nodes with a training review take part."""
    pairs = list(zip(case.batch.users.tolist(), case.batch.items.tolist(), strict=True))
    users = [u for u in range(USERS) if u in {p[0] for p in pairs} and (case.has_text[u] or not text)]
    items = [i for i in range(ITEMS) if i in {p[1] for p in pairs} and (case.has_text[USERS + i] or not text)]
    pairs = [(u, i) for u, i in pairs if u in users and i in items]
    left, right = unit(left), unit(right)

    def logit(u, i):
        return (left[u] * right[i]).sum() / s.temperature

    def back(i, u):
        return logit(u, i)

    kind = KIND[s.loss]
    forward = contrastive_by_loops(kind, "pair", pairs, items, case.history, logit, logit)
    if s.loss != "symcere":
        return forward
    turned = [(i, u) for u, i in pairs]
    return (forward + contrastive_by_loops(kind, "pair", turned, users, case.users_of, back, back)) / 2


@pytest.mark.parametrize("loss", ["infonce", "supcon", "sincere", "symcere"])
def test_cross_modal(loss):
    """Both ways across the views; users and items without a review are neither anchors, positives nor candidates."""
    case = Case(experiment(BOTH, {"objective.cross": {"loss": loss, "weight": 0.3, "temperature": 0.5}}), seed=7)

    def by_loops(case):
        v, s = case.views(), case.setup.objective.cross
        both = ((v.graph.users, v.text.items), (v.text.users, v.graph.items))
        return 0.3 * sum(aligned_by_loops(case, *pair, s, text=True) for pair in both)

    case.check(by_loops, "cross")


@pytest.mark.parametrize("features", ["id", "text", "both"])
@pytest.mark.parametrize("loss", ["infonce", "supcon", "sincere", "symcere"])
def test_intra_modal(loss, features):
    """Within each view that the model has; only the text view asks for reviews."""
    terms = {"loss": loss, "weight": 0.3, "temperature": 0.5}
    case = Case(experiment({"model.features": features, "objective.intra": terms}), seed=8)

    def by_loops(case):
        v, s = case.views(), case.setup.objective.intra
        found = []
        if features != "text":
            found.append(aligned_by_loops(case, v.graph.users, v.graph.items, s, text=False))
        if features != "id":
            found.append(aligned_by_loops(case, v.text.users, v.text.items, s, text=True))
        return 0.3 * sum(found)

    case.check(by_loops, "intra")


def test_intra_modal_of_ids_is_the_same_beside_other_terms():
    """The text view that another term asks for is none of the model's own."""
    terms = {"model.features": "id", "objective.intra": {"loss": "symcere", "weight": 0.3}}
    alone = Case(experiment(terms), seed=8)
    beside = Case(experiment(terms, {"objective.same": {"loss": "infonce", "weight": 0.2}}), seed=8)
    beside.model.load_state_dict(alone.model.state_dict(), strict=False)
    assert torch.equal(alone.terms()["intra"], beside.terms()["intra"])


def test_vectors_longer_than_one_take_no_short_way():
    """Those of `concat` are: their logits may overflow where those of unit vectors cannot."""
    settings = {"model": {"features": "both", "fusion": "concat", "fusion_weight": 1.0, "popularity": "none"}}
    ranking = {"loss": "symcere", "candidates": "batch", "temperature": 0.02}
    case = Case(experiment(settings, {"objective.ranking": ranking}), seed=3)
    with torch.no_grad():  # all nodes at one place
        case.model.embedding.copy_(torch.ones_like(case.model.embedding))
        case.model.tower.weight.zero_()
        case.model.tower.weight[:, 0] = 1
    double = case.terms()["ranking"]
    case.model.float(), case.loss.float()
    torch.testing.assert_close(case.terms()["ranking"].double(), double, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("features", ["id", "both"])
@pytest.mark.parametrize("loss", ["infonce", "sincere", "symcere"])
def test_same_node(loss, features):
    """Each node against its own text, over distinct nodes with a review; a node has one positive, so all agree."""
    terms = {"loss": loss, "weight": 0.3, "temperature": 0.5}
    case = Case(experiment({"model.features": features, "objective.same": terms}), seed=9)
    case.check(lambda case: 0.3 * same_by_loops(case, loss, case.views()), "same")


def same_by_loops(case, loss, views, counts=None, left=None, right=None):
    counts = case.has_text if counts is None else counts
    total = 0
    for name, side, shift in (("users", case.batch.users, 0), ("items", case.batch.items, USERS)):
        nodes = [v for v in sorted(set(side.tolist())) if counts[v + shift]]
        a = unit(getattr(views.graph, name) if left is None else left(getattr(views.graph, name)))
        b = unit(getattr(views.text, name) if right is None else right[shift : shift + len(a)])
        forward = torch.stack([loss_by_rows(a, b, v, nodes) for v in nodes]).mean()
        back = torch.stack([loss_by_rows(b, a, v, nodes) for v in nodes]).mean()
        total = total + ((forward + back) / 2 if loss == "symcere" else forward)
    return total


def loss_by_rows(a, b, v, nodes):
    logits = torch.stack([(a[v] * b[w]).sum() / 0.5 for w in nodes])
    return torch.logsumexp(logits, 0) - logits[nodes.index(v)]


def test_reconstruction_from_a_masked_graph():
    """RLMRec-Gen: hidden nodes' features are one vector, and their profiles are told from what is left."""
    terms = {"loss": "reconstruct", "weight": 0.3, "temperature": 0.5, "mask": 0.6}
    case = Case(experiment(ID, {"objective.same": terms}), seed=10)
    case.check(lambda case: reconstructed(case), "same")


def reconstructed(case):
    # The mask is the first thing that is drawn where the ranking term draws nothing.
    hidden = torch.rand(USERS + ITEMS, generator=torch.Generator().manual_seed(5)) < 0.6
    features = torch.where(hidden[:, None], case.loss.mask, case.model.embedding)
    views = case.model(torch.arange(USERS), torch.arange(ITEMS), features=features)
    return 0.3 * same_by_loops(
        case, "infonce", views, case.has_text & hidden.numpy(), left=case.loss.decoder, right=case.model.text
    )


# ---------------------------------------------------------------- augmentation and penalty


def identity_by_loops(case, first, second):
    found = 0
    for rows, shift in ((case.batch.users, 0), (case.batch.items, USERS)):
        nodes = sorted({n + shift for n in rows.tolist()})
        a, b = unit(first), unit(second)
        found = found + torch.stack([loss_by_rows(a, b, v, nodes) for v in nodes]).mean()
    return found


def test_sgl():
    """Two graphs, each without about half of the edges, drawn once an epoch."""
    terms = {"kind": "sgl", "weight": 0.3, "temperature": 0.5, "drop": 0.5}
    case = Case(experiment(ID, {"objective.augment": terms}), seed=11)

    def by_loops(case):
        random = torch.Generator().manual_seed(5)
        views = []
        for _ in range(2):
            keep = torch.rand(case.train.nnz, generator=random).numpy() >= 0.5
            assert 0 < keep.sum() < case.train.nnz
            R = case.train.tocoo()
            left = np.zeros((USERS, ITEMS))
            left[R.row[keep], R.col[keep]] = 1
            views.append(propagated(left, case.model.embedding, 2))
        return 0.3 * identity_by_loops(case, *views)

    case.check(by_loops, "augment")


def propagated(R, H, layers):
    A = np.block([[np.zeros((USERS, USERS)), R], [R.T, np.zeros((ITEMS, ITEMS))]])
    degree = A.sum(1)
    scale = np.divide(1, np.sqrt(degree), out=np.zeros(len(A)), where=degree > 0)
    A = torch.from_numpy(scale[:, None] * A * scale)
    hops = [H]
    for _ in range(layers):
        hops.append(A @ hops[-1])
    return sum(hops) / len(hops)


@pytest.mark.parametrize("kind", ["simgcl", "xsimgcl"])
def test_noise_of_length_zero_leaves_the_graph_view(kind):
    terms = {"kind": kind, "weight": 0.3, "temperature": 0.5, "eps": 0.0, "layer": 1}
    case = Case(experiment(ID, {"objective.augment": terms}), seed=12)

    def by_loops(case):
        clean = case.model.graph_view()[0]
        other = clean
        if kind == "xsimgcl":
            other = case.model.graph.hop(case.model.embedding)  # layer 1
        return 0.3 * identity_by_loops(case, clean, other)

    case.check(by_loops, "augment")


@pytest.mark.parametrize("kind", ["simgcl", "xsimgcl"])
def test_noise_has_the_length_and_the_signs_of_simgcl(kind, monkeypatch):
    """Equation 8 of arXiv 2112.08679: each row moves by eps, every coordinate away from zero."""
    seen: list = []
    propagate = Graph.propagate_keep

    def recorded(*args):
        seen.extend(filter(callable, args[1:]))
        return propagate(*args)

    monkeypatch.setattr(Graph, "propagate_keep", recorded)
    case = Case(experiment(ID, {"objective.augment": {"kind": kind, "weight": 0.3, "eps": 0.2}}), seed=13)
    ranking = case.terms()["ranking"]
    assert len(seen) == {"simgcl": 2, "xsimgcl": 1}[kind]
    noise, x = seen[0], torch.randn(6, 4, dtype=torch.float64)
    added = noise(x, 6, 0)
    torch.testing.assert_close(added.norm(dim=1), torch.full((6,), 0.2, dtype=torch.float64))
    assert torch.equal(added.sign(), x.sign())
    assert not torch.equal(noise(x, 6, 0), added)
    # XSimGCL's one disturbed propagation is what is ranked, SimGCL ranks an undisturbed one.
    clean = Case(experiment(ID), seed=13).terms()["ranking"]
    assert torch.equal(ranking, clean) == (kind == "simgcl")


@pytest.mark.parametrize(
    ("loss", "candidates"), [("bpr", "all"), ("sincere", "sampled"), ("symcere", "sampled"), ("sincere", "all")]
)
def test_penalty_counts_each_row_once(loss, candidates):
    """Layer-0 rows of the batch and of bpr's negatives, over twice the number of interactions."""
    ranking = {"loss": loss, "candidates": candidates, "negatives" if loss == "bpr" else "sample": 3}
    case = Case(experiment(ID, {"objective.ranking": ranking, "objective.reg": 0.2}), seed=14)

    def by_loops(case):
        nodes = set(case.batch.users.tolist()) | {USERS + i for i in case.batch.items.tolist()}
        if loss == "bpr":
            nodes |= {USERS + i for i in case.drawn["negatives"].flatten().tolist() if i >= 0}
        assert len(nodes) < USERS + ITEMS
        return 0.2 * sum(case.model.embedding[n].square().sum() for n in nodes) / (2 * BATCH)

    case.check(by_loops, "reg")


@pytest.mark.parametrize("tower", ["linear", "mlp"])
def test_penalty_of_text_alone_is_on_the_tower(tower):
    case = Case(experiment({"model.text_tower": tower, "objective.reg": 0.2}), seed=15)
    case.check(lambda case: 0.1 * sum((p**2).sum() for p in case.model.tower.parameters()), "reg")


# ---------------------------------------------------------------- properties


def test_symcere_is_invariant_under_swapping_the_sides():
    """Users and items exchanged, with their vectors and biases: the same loss."""
    case = Case(experiment(ID, {"objective.ranking.loss": "symcere", "model.popularity": "learned"}), seed=16)
    turned = Recommender(case.setup.model, Graph(sp.csr_array(case.train.T)), np.diff(case.train.indptr)).double()
    other = TotalLoss(case.setup, turned, sp.csr_array(case.train.T)).double()
    with torch.no_grad():
        turned.embedding.copy_(torch.cat([case.model.embedding[USERS:], case.model.embedding[:USERS]]))
        turned.bias.copy_(case.loss.user_bias)
        other.user_bias.copy_(case.model.bias)
    batch = Batch(case.batch.items, case.batch.users, case.batch.edges)
    found = other(turned, batch, torch.Generator())["ranking"]
    torch.testing.assert_close(found, case.terms()["ranking"], rtol=1e-12, atol=0)
    one_sided = Case(experiment(ID, {"objective.ranking.loss": "sincere"}), seed=16).terms()["ranking"]
    assert abs(found - one_sided) > 1e-3


@pytest.mark.parametrize("method", ["symcere", "symcere-abstract", "directau", "lightgcn"])
def test_the_order_of_a_batch_does_not_matter(method):
    case = Case(baseline(method, SMALL), seed=17)
    before = case.terms()
    order = torch.randperm(BATCH, generator=torch.Generator().manual_seed(1))
    if method == "lightgcn":  # the same negatives for the same pairs
        drawn = case.drawn["negatives"]
        case.loss.negatives.draw = lambda *_: drawn[order]
    case.batch = Batch(*(column[order] for column in case.batch))
    for name, term in case.terms().items():
        torch.testing.assert_close(term, before[name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("loss", CONTRASTIVE)
def test_sampling_everything_is_all(loss):
    ranking = {"loss": loss, "temperature": 0.3}
    case = Case(experiment(ID, {"objective.ranking": {**ranking, "candidates": "all"}, "objective.reg": 0.2}))
    drawn = Case(experiment(ID, {"objective.ranking": ranking, "objective.reg": 0.2}))
    for name in ("ranking", "reg"):
        torch.testing.assert_close(drawn.terms()[name], case.terms()[name], rtol=1e-12, atol=0)


@pytest.mark.parametrize("ranking", [{"loss": "supcon"}, {"reduction": "history"}])
def test_every_anchor_has_its_positives_of_the_batch_among_what_is_drawn(ranking):
    case = Case(experiment(ID, {"objective.ranking": {**ranking, "sample": 1}}), seed=5)
    case.terms()
    assert set(case.batch.items.tolist()) <= set(case.drawn["draw_items"].ids.tolist())


def test_a_learned_temperature_has_the_gradient_of_the_loss():
    case = Case(experiment(ID, {"objective.ranking": {"loss": "symcere", "learn_temperature": True}}), seed=18)
    rho = case.loss.temperature.rho
    with torch.no_grad():
        rho.fill_(-1.0)
    value = case.terms()["ranking"]
    gradient = torch.autograd.grad(value, rho)[0]
    case.loss.tell_temperature(case.model)
    assert case.model.temperature.item() == pytest.approx(0.01 + np.exp(-1), rel=1e-6)
    ends = []
    for step in (1e-6, -1e-6):
        with torch.no_grad():
            rho.fill_(-1.0 + step)
        ends.append(case.terms()["ranking"].item())
    assert gradient.item() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5)


@pytest.mark.parametrize("normalise", ["none", "l2"])
def test_bpr_learns_a_temperature_only_on_normalised_vectors(normalise):
    ranking = {"loss": "bpr", "learn_temperature": True}
    case = Case(experiment({"model": {"features": "id", "normalise": normalise}, "objective.ranking": ranking}))
    assert (case.loss.temperature.rho is None) == (normalise == "none")


# ---------------------------------------------------------------- who takes part, and what it costs


@pytest.mark.parametrize("term", ["same", "cross"])
def test_a_batch_without_text_has_no_text_term(term):
    """Zero, with a zero gradient; not NaN."""
    case = Case(experiment(BOTH, {f"objective.{term}": {"loss": "symcere"}}))
    case.model.has_text[:] = False
    value = case.terms()[term]
    assert value == 0
    assert not case.gradient(value).any()


def test_a_batch_of_one():
    for method in baselines():
        setup = baseline(method, SMALL)
        if setup.closed_form.kind == "none":
            case = Case(setup, seed=19)
            case.batch = Batch(*(column[:1] for column in case.batch))
            for name, value in case.terms().items():
                assert torch.isfinite(value), (method, name)
                assert torch.isfinite(case.gradient(value)).all(), (method, name)


def test_terms_of_every_baseline():
    """What each named method is made of."""
    expected = {"lightgcn": "ranking reg", "sgl": "ranking augment reg", "rlmrec-con": "ranking same reg"}
    expected |= {"symcere": "ranking reg", "symcere-abstract": "ranking same cross intra reg", "alpharec": "ranking"}
    expected |= {"rlmrec-gen": "ranking same reg", "xsimgcl": "ranking augment reg", "directau": "ranking reg"}
    for method, names in expected.items():
        assert list(Case(baseline(method, SMALL)).terms()) == names.split(), method


def test_a_zero_weight_costs_nothing(monkeypatch):
    """Terms that are named but weigh nothing: no contrast, no view, no graph more than without them."""
    calls: list[str] = []

    def counted(owner, name):
        original = getattr(owner, name)

        def wrapped(*args, **kwargs):
            calls.append(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, wrapped)

    counted(total, "contrastive")
    counted(total, "symmetric")
    counted(Recommender, "text_view")
    counted(Recommender, "graph_view")
    counted(Graph, "dropped")
    counted(torch, "rand")

    def cost(*layers):
        case = Case(experiment(ID, *layers))
        calls.clear()
        terms = case.terms()
        return list(terms), sorted(calls)

    plain = cost()
    assert plain == (["ranking"], ["contrastive", "graph_view"])
    loud = {"same.loss": "symcere", "cross.loss": "symcere", "intra.loss": "symcere", "augment.kind": "sgl"}
    weighed = cost({f"objective.{k}": v for k, v in loud.items()})
    assert len(weighed[1]) > len(plain[1]) + 10
    for same in ("symcere", "reconstruct"):
        for kind in ("sgl", "simgcl", "xsimgcl"):
            silent = {**loud, "same.loss": same, "augment.kind": kind}
            silent |= {f"{term}.weight": 0 for term in ("same", "cross", "intra", "augment")}
            assert cost({f"objective.{k}": v for k, v in silent.items()}) == plain


def test_history_is_the_training_history_alone():
    """What the loss excludes, and what it may draw as a negative, comes from the matrix that it was given."""
    case = Case(experiment(ID, {"objective.ranking": {"loss": "bpr", "negatives": 200}}))
    case.terms()
    for user, drawn in zip(case.batch.users.tolist(), case.drawn["negatives"], strict=True):
        assert set(drawn.tolist()) == set(range(ITEMS)) - case.history[user]


def test_equals_the_bpr_loss_of_pyg():
    """LightGCN with the same weights has the same scores and the same loss in PyTorch Geometric."""
    pyg = pytest.importorskip("torch_geometric.nn")
    case = Case(baseline("lightgcn", SMALL, {"objective.reg": 0}), seed=20)
    users = torch.from_numpy(np.repeat(np.arange(USERS), np.diff(case.train.indptr)))
    edges = torch.stack([users, torch.from_numpy(case.train.indices.astype(np.int64)) + USERS])
    edges = torch.cat([edges, edges.flip(0)], dim=1)
    peer = pyg.LightGCN(USERS + ITEMS, embedding_dim=4, num_layers=2).double()
    peer.embedding.weight.data.copy_(case.model.embedding.data)
    ours = case.terms()["ranking"]
    ranks = [
        peer(edges, torch.stack([case.batch.users, j + USERS]))
        for j in (case.batch.items, case.drawn["negatives"][:, 0])
    ]
    theirs = peer.recommendation_loss(*ranks, node_id=torch.arange(1), lambda_reg=0)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)
    (gradient,) = torch.autograd.grad(theirs, peer.embedding.weight)
    torch.testing.assert_close(torch.autograd.grad(ours, case.model.embedding)[0], gradient, rtol=1e-5, atol=1e-7)


def test_logits_stay_in_float32_under_autocast():
    case = Case(experiment(ID, {"objective.ranking.temperature": 0.01}))
    case.model.float(), case.loss.float()
    with torch.autocast("cpu", torch.bfloat16):
        value = case.terms()["ranking"]
    assert value.dtype == torch.float32
    assert torch.isfinite(case.gradient(value)).all()

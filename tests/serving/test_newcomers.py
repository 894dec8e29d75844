"""A newcomer is a node of the graph: checked against the model's own users and against a graph with one node more."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
import torch.nn.functional as F

from symcere.config import Experiment
from symcere.model.propagation import Graph
from symcere.model.recommender import marked
from symcere.serving import Newcomers
from symcere.text import profiles
from symcere.training.fit import build

VARIANTS = {
    "linear": {},
    "linear without hops": {"model.text_layers": 0},
    "tower behind": {"model.text_tower": "post-mlp"},
    "hops side by side": {"model.text_tower": "sign", "model.text_layers": 2},
    "sign without hops": {"model.text_tower": "sign", "model.text_layers": 0},
    "tower before": {"model.text_tower": "mlp"},
    "profiles of items": {"model.user_profile": "items", "model.text_tower": "mlp"},
    "ids": {"model.features": "id"},
    "ids without layer 0": {"model.features": "id", "model.skip_input": True},
    "both": {"model.features": "both"},
    "gate": {"model.features": "both", "model.fusion": "gate"},
    "sum": {"model.features": "both", "model.fusion": "sum", "model.normalise": "layer"},
    "scored otherwise": {"model.normalise_scores": "l2-item"},
}


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def world(request, corpus, embeddings):
    """A model with random weights, in which users have no id embedding of their own, and its newcomers."""
    experiment = Experiment().replace({"text.encoders": "lsa", "model.dim": 8, **request.param})
    model = build(corpus, embeddings, experiment)
    if hasattr(model, "embedding"):
        with torch.no_grad():
            model.embedding[: corpus.num_users] = 0
    raw, has_text = profiles(corpus, embeddings, experiment.model.user_profile)
    x = None if experiment.model.features == "id" else marked(raw, has_text, corpus.num_users)
    return model, Newcomers.of(model, x), raw[: corpus.num_users], has_text[: corpus.num_users]


def test_who_has_a_known_users_text_and_items_gets_their_vector(world, corpus):
    model, newcomers, raw, has_text = world
    Z = newcomers.users(raw, has_text, corpus.train)
    torch.testing.assert_close(Z, model.vectors().users, atol=2e-5, rtol=1e-4)


def test_who_has_text_alone_is_an_isolated_node(world, corpus):
    model, newcomers, raw, has_text = world
    s = model.settings
    rows = np.flatnonzero(has_text)[:5]
    if s.features == "id":  # whose newcomers are known by their items alone
        assert not newcomers.reads_text
        return
    # The reference: the model's own code, on a graph without edges.
    empty = Graph(sp.csr_array((len(rows), corpus.num_items), dtype=np.float32))
    x = F.pad(marked(raw[rows], np.ones(len(rows), bool), len(rows)), (0, 0, 0, corpus.num_items))
    from symcere.model.recommender import text_input

    text = text_input(s, empty, x)
    views = empty.propagate(model.tower(text), s.text_layers) if s.text_tower == "mlp" else model.tower(text)
    expected = views[: len(rows)]
    torch.testing.assert_close(newcomers.text(raw[rows]), expected.detach(), atol=1e-6, rtol=1e-5)
    nothing = sp.csr_array((len(rows), corpus.num_items), dtype=np.float32)
    Z = newcomers.users(raw[rows], np.ones(len(rows), bool), nothing)
    graph = torch.zeros_like(expected) if s.features == "both" else None
    kind = "" if s.normalise_scores == "same" else s.normalise_scores
    torch.testing.assert_close(Z, model.scored(graph, expected, "user", kind).detach(), atol=1e-5, rtol=1e-4)


def test_the_rest_of_the_graph_stays_as_it_is(corpus, embeddings):
    """Against a graph with the newcomer in it: the difference is their own weight in their items' degrees."""
    experiment = Experiment().replace({"text.encoders": "lsa", "model.dim": 8})
    model = build(corpus, embeddings, experiment)
    raw, has_text = profiles(corpus, embeddings)
    x = marked(raw, has_text, corpus.num_users)
    newcomers = Newcomers.of(model, x)
    items = [1, 4, 7]  # of another taste than the text, so that it matters
    liked = sp.csr_array((np.ones(3, np.float32), ([0] * 3, items)), shape=(1, corpus.num_items))
    nothing = sp.csr_array(liked.shape, dtype=np.float32)
    grown = Graph(sp.csr_array(sp.vstack([liked, corpus.train])))
    with torch.no_grad():
        hops = grown.hops(torch.cat([marked(raw[:1], has_text[:1], 1), x]), experiment.model.text_layers)
        exact = F.normalize(model.tower(sum(hops) / len(hops))[0], dim=0)
    close = F.cosine_similarity(newcomers.users(raw[:1], has_text[:1], liked)[0], exact, dim=0)
    alone = F.cosine_similarity(newcomers.users(raw[:1], has_text[:1], nothing)[0], exact, dim=0)
    assert close > 0.99
    assert newcomers.users(None, np.zeros(1, bool), liked).isfinite().all()
    assert alone < close - 0.05

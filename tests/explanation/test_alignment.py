"""The response is what the model would compute, were the node's profile another: against a rebuilt model."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from symcere.config import Model
from symcere.errors import UserError
from symcere.explanation import Alignment
from symcere.explanation.alignment import diagonal
from symcere.model.propagation import Graph
from symcere.model.recommender import Recommender, marked, text_input
from symcere.text import profiles


def recommender(corpus, bag, settings, change=None, node=0):
    """An untrained model, its weights from one seed, on profiles of which ``node`` is changed."""
    graph = Graph(corpus.train)
    x, has_text = profiles(corpus, bag, settings.user_profile)
    if change is not None:
        x[node] += change
    torch.manual_seed(0)
    text = text_input(settings, graph, marked(x, has_text, corpus.num_users))
    return Recommender(settings, graph, corpus.item_popularity, text, has_text)


@pytest.mark.parametrize("tower", ["linear", "post-mlp", "sign", "mlp"])
@pytest.mark.parametrize("side", ["item", "user"])
@pytest.mark.parametrize("layers", [0, 3])
def test_the_response_is_that_of_a_model_rebuilt_on_the_changed_profile(tiny, bag, tower, side, layers):
    settings = Model(features="text", text_tower=tower, text_layers=layers, dim=6, hidden=7)
    alignment = Alignment(recommender(tiny, bag, settings), tiny, bag, side)
    user, item = 3, 4
    (response,) = alignment.of(np.array([[user, item]]))
    node = tiny.num_users + item if side == "item" else user
    changes = np.random.default_rng(0).normal(size=(4, bag.width)).astype(np.float32) * 0.5
    anchor = alignment.anchors[user if side == "item" else tiny.num_users + item]
    for change, found in zip(changes, response(changes), strict=True):
        rebuilt = recommender(tiny, bag, settings, change, node).text_view()[node].detach()
        assert found == pytest.approx(float(F.cosine_similarity(rebuilt, anchor, dim=0)), abs=1e-5)
    assert response(np.zeros((1, bag.width), np.float32))[0] == pytest.approx(
        float(F.cosine_similarity(alignment.text[node], anchor, dim=0)), abs=1e-6
    )


def test_the_profile_is_the_mean_of_the_reviews_that_are_perturbed(tiny, bag):
    """Taking a review's own embedding out of the mean is the change that the response expects."""
    alignment = Alignment(recommender(tiny, bag, Model(features="text")), tiny, bag)
    x, _ = profiles(tiny, bag)
    for item in range(5):
        rows = alignment.reviews(item)
        assert (tiny.train.indices[rows] == item).all()
        mean = np.asarray(bag.reviews[rows], np.float32).mean(0)
        np.testing.assert_allclose(mean, x[tiny.num_users + item], atol=1e-3)
    assert len(alignment.reviews(0)) == tiny.item_popularity[0] - 1  # one is empty


def test_diagonal_against_dense_powers(tiny):
    graph = Graph(tiny.train)
    N = graph.num_nodes
    dense = graph.hop(torch.eye(N)).double().numpy()
    powers = np.stack([np.diag(np.linalg.matrix_power(dense, m)) for m in range(4)], axis=1)
    nodes = np.array([5, 0, N - 1, 9])
    np.testing.assert_allclose(diagonal(graph, nodes, 3), powers[nodes], atol=1e-6)


@pytest.mark.parametrize(
    ("features", "fusion", "view"),
    [("text", "concat", "text"), ("both", "concat", "text"), ("both", "sum", "graph"), ("both", "gate", "graph"),
     ("id", "concat", "graph")],
)  # fmt: skip
def test_the_anchor_lies_in_the_space_that_text_is_compared_in(tiny, bag, features, fusion, view):
    model = recommender(tiny, bag, Model(features=features, fusion=fusion, dim=6))
    alignment = Alignment(model, tiny, bag)
    assert alignment.view == view
    expected = model.graph_view()[0] if view == "graph" else model.text_view()
    torch.testing.assert_close(alignment.anchors, F.normalize(expected.detach(), dim=1))


def test_what_cannot_be_explained_says_why(tiny, bag):
    text = Model(features="text")
    with pytest.raises(UserError, match=r"'i5' has no training review with text.*--side user"):
        Alignment(recommender(tiny, bag, text), tiny, bag).of(np.array([[0, 5]]))
    ids = Recommender(Model(features="id"), Graph(tiny.train), tiny.item_popularity)
    for model, embeddings in ((ids, None), (None, None)):
        with pytest.raises(UserError, match="reads no review text"):
            Alignment(model, tiny, embeddings)
    items = Model(features="text", user_profile="items")
    with pytest.raises(UserError, match="user_profile items"):
        Alignment(recommender(tiny, bag, items), tiny, bag, "user")
    assert Alignment(recommender(tiny, bag, items), tiny, bag, "item").view == "text"

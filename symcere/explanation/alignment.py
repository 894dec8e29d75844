"""Alignment of a pair as a function of the review texts of one of its two nodes.

    alignment(u, i) = cos(A_u, T_i)

``T_i`` is the text view of the node whose reviews are perturbed. ``A_u``, the *anchor*, is the other node's vector in
the space that text is compared in: the graph view G_u where graph and text views share a space (ids aligned with text;
``features: both`` with ``fusion: sum`` or ``gate``), and otherwise the text view T_u (``features: text``, where nothing
else is scored; ``concat``, where the score is a cosine of graph views plus a cosine of text views, never a mixture).

What is perturbed is the node's *own profile*, the mean x_v of its review embeddings; all other profiles and the anchor
are held fixed. With Δ the change of x_v the text view changes as the model would compute it, without approximation:

    linear, post-mlp    T_v' = tower(p_v + c Δ)                     p = mean_l Â^l x,  c = mean_l (Â^l)_vv
    sign                T_v' = tower(… ‖ h_l,v + (Â^l)_vv Δ ‖ …)    h_l = Â^l x
    mlp                 T_v' = T_v + c (tower(x_v + Δ) − tower(x_v))

So the weight of a word is its weight through the node's own profile (c is 1 without
propagation, between 1/4 and 1/2 for L' = 3); what the same
review says through its writer's profile is not counted, as it is another node's text.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from symcere.data.corpus import Corpus
from symcere.errors import UserError
from symcere.model.propagation import Graph
from symcere.model.recommender import Recommender, Side
from symcere.text import Embeddings

BLOCK = 2**22
"""Numbers of a dense block of unit vectors that is propagated."""


def diagonal(graph: Graph, nodes: np.ndarray, layers: int) -> np.ndarray:
    """``(Â^l)_vv`` for l = 0..L: float32 ``[n, L + 1]`` of node numbers ``nodes`` [n]."""
    found = np.zeros((len(nodes), layers + 1), np.float32)
    found[:, 0] = 1
    step = max(1, BLOCK // graph.num_nodes)
    for start in range(0, len(nodes), step) if layers else ():
        rows = torch.as_tensor(nodes[start : start + step], dtype=torch.long)
        columns = torch.arange(len(rows))
        units = torch.zeros(graph.num_nodes, len(rows))
        units[rows, columns] = 1
        for layer, hop in enumerate(graph.hops(units, layers)):
            found[start : start + len(rows), layer] = hop[rows, columns].numpy()
    return found


@dataclass(eq=False)
class Response:
    """Alignment of one pair as its node's profile changes. Made by :meth:`Alignment.of`."""

    alignment: "Alignment"
    node: int
    anchor: Tensor
    diagonal: np.ndarray
    reviews: np.ndarray
    """int64 [n], the node's training reviews that have text; their mean is the profile."""

    @torch.no_grad()
    def __call__(self, change: np.ndarray) -> np.ndarray:
        """Cosines [s] after the profile changed by each row of ``change``, float32 [s, t]."""
        model = self.alignment.model
        kind = model.settings.text_tower
        own = model.text[self.node]
        wide = torch.zeros(len(change), self.alignment.width + 2, dtype=own.dtype)
        wide[:, :-2] = torch.from_numpy(np.ascontiguousarray(change))
        mean = float(self.diagonal.mean())
        if kind == "mlp":
            T = self.alignment.text[self.node] + mean * (model.tower(own + wide) - model.tower(own))
        elif kind == "sign":
            T = model.tower(own + torch.cat([float(c) * wide for c in self.diagonal], dim=1))
        else:
            T = model.tower(own + mean * wide)
        return (F.normalize(T, dim=1) @ self.anchor).double().numpy()


class Alignment:
    """Alignments of a model's pairs.

    Args:
        model: a trained recommender with a text view.
        side: whose reviews are perturbed.

    Attributes:
        view: ``graph`` or ``text``, where the anchor comes from.

    Raises:
        UserError: the model reads no review text, or the users' profiles are not made of their own reviews.
    """

    def __init__(
        self, model: Recommender | None, corpus: Corpus, embeddings: Embeddings | None, side: Side = "item"
    ) -> None:
        if side not in ("user", "item"):
            raise UserError(f"side is 'user' or 'item', not {side!r}.")
        if model is None or embeddings is None or not hasattr(model, "tower"):
            raise UserError(
                "This run reads no review text, so no word explains it. Explain a run with a text view: "
                f"`symcere train {corpus.name}` (model.features text or both), or one that aligns text "
                "(`--baseline rlmrec-con`)."
            )
        settings = model.settings
        if side == "user" and settings.user_profile == "items":
            raise UserError(
                "The users of this run are described by their items' reviews (model.user_profile items), not by their "
                "own: explain the item's side."
            )
        self.model, self.corpus, self.embeddings, self.side = model, corpus, embeddings, side
        self.width = embeddings.width
        self.view = "graph" if settings.features == "id" or _one_space(model) else "text"
        with torch.no_grad():
            self.text = model.text_view()
            whole = model.graph_view()[0] if self.view == "graph" else self.text
            self.anchors = F.normalize(whole, dim=1)
        self._by_item = _entries_by_item(corpus) if side == "item" else None

    def reviews(self, node: int) -> np.ndarray:
        """Training reviews with text of a user, or an item, by its number on its side: int64 [n]."""
        if self._by_item is not None:
            offsets, entries = self._by_item
            found = entries[offsets[node] : offsets[node + 1]]
        else:
            found = np.arange(*self.corpus.train.indptr[node : node + 2])
        return found[np.asarray(self.embeddings.reviews[found]).any(axis=1)]

    def of(self, pairs: np.ndarray) -> list[Response]:
        """The responses of pairs (user, item), int64 [n, 2].

        Raises:
            UserError: a node without any training review that has text.
        """
        users, items = pairs[:, 0], pairs[:, 1] + self.corpus.num_users
        nodes, others = (items, users) if self.side == "item" else (users, items)
        distinct, place = np.unique(nodes, return_inverse=True)
        diagonals = diagonal(self.model.graph, distinct, self.model.settings.text_layers)
        return [
            Response(self, int(node), self.anchors[other], diagonals[at], self._reviews_of(int(node)))
            for node, other, at in zip(nodes, others, place, strict=True)
        ]

    def _reviews_of(self, node: int) -> np.ndarray:
        own = node - self.corpus.num_users if self.side == "item" else node
        found = self.reviews(own)
        if not len(found):
            name = (self.corpus.item_ids if self.side == "item" else self.corpus.user_ids)[own].as_py()
            raise UserError(
                f"The {self.side} {name!r} has no training review with text: there are no words to explain it by. "
                f"Explain the other side (--side {'user' if self.side == 'item' else 'item'}), or another pair."
            )
        return found


def _one_space(model: Recommender) -> bool:
    return model.settings.features == "both" and model.settings.fusion != "concat"


def _entries_by_item(corpus: Corpus) -> tuple[np.ndarray, np.ndarray]:
    """Entries of the training matrix item by item, and where each item's begin: int64 [I + 1], int64 [n_train]."""
    offsets = np.concatenate([[0], np.cumsum(corpus.item_popularity)])
    return offsets, np.argsort(np.asarray(corpus.train.indices), kind="stable")

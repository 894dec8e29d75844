"""The recommender: a graph view and a text view of every node, fused into what is scored.

Notation of the method: users and items are nodes 0..U-1 and U..U+I-1 of one bipartite graph, ``Â`` its symmetrically
normalised adjacency, ``E`` the trainable node embeddings, ``X`` the frozen text profiles.

    graph view  G = mean_{l=0..L} Â^l E                      (LightGCN, arXiv 2002.02126)
    text view   T = tower(mean_{l=0..L'} Â^l X)              (a linear tower needs no graph in a training step)
    scored      Z = ν(fuse(G, T)),   score(u, i) = <Z_u, Z_i> + w·τ·b_i
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symcere.config import Model
from symcere.model.own import OwnFree
from symcere.model.product import Linear
from symcere.model.propagation import Graph, Noise
from symcere.model.scorer import FactorScorer
from symcere.model.table import Table
from symcere.model.unit import unit
from symcere.model.workers import Needs, Workers

Side = Literal["user", "item"]


@dataclass
class Pair:
    """One view of some users and some items: float [n_u, d] and [n_i, d]."""

    users: Tensor
    items: Tensor


@dataclass
class Views:
    """The rows of one step. A view that the model does not have is None."""

    graph: Pair | None
    text: Pair | None
    scored: Pair
    kept: Pair | None = None
    """One layer of the graph view, where it was asked for (XSimGCL)."""


def normalise(z: Tensor, kind: str, side: Side) -> Tensor:
    """ν: rows of ``z`` [n, d] as they are scored.

    ``l2`` projects on the unit sphere (magnitude as noise); ``l2-user`` and ``l2-item`` do so on one side alone
    (arXiv 2602.09229); ``layer`` is (z - mean) / std over the d coordinates, without an affine map.
    """
    if kind == "l2" or kind == f"l2-{side}":
        return unit(z)
    if kind == "layer":
        return F.layer_norm(z, z.shape[-1:])
    return z


def fuse(
    settings: Model,
    graph: Tensor | None,
    text: Tensor | None,
    side: Side,
    kind: str = "",
    gate: nn.Module | None = None,
) -> Tensor:
    """Z: the views of some nodes fused and normalised, float [n, d] ([n, 2d] for ``concat``).

    ``concat`` joins two separately normalised blocks, the graph's weighted by sqrt(w), so that one inner product is
    w times the graph's cosine plus the text's.

    Args:
        kind: the normalisation, by default that of training.
        gate: what weighs the two views, for ``fusion: gate``.
    """
    s = settings
    kind = kind or s.normalise
    if s.features != "both":
        z = graph if s.features == "id" else text
        assert z is not None
        return normalise(z, kind, side)
    assert graph is not None
    assert text is not None
    if s.fusion == "concat":
        weighted = s.fusion_weight**0.5 * normalise(graph, kind, side)
        return torch.cat([weighted, normalise(text, kind, side)], dim=-1)
    if s.fusion == "gate":
        assert gate is not None
        g = torch.sigmoid(gate(torch.cat([graph, text], dim=-1)))
        return normalise(g * graph + (1 - g) * text, kind, side)
    return normalise(graph + text, kind, side)


def marked(profiles: np.ndarray, has_text: np.ndarray, num_users: int) -> Tensor:
    """Profiles with two more columns, which mark users and items without any training review.

    The tower's weights for the marks are the one learned vector that such a user, or item, has.

    Args:
        profiles: float32 [N, t], zero where ``has_text`` is False.
        has_text: bool [N].

    Returns:
        float32 [N, t + 2].
    """
    missing = np.zeros((len(profiles), 2), dtype=np.float32)
    missing[:num_users, 0] = ~has_text[:num_users]
    missing[num_users:, 1] = ~has_text[num_users:]
    return torch.from_numpy(np.concatenate([profiles, missing], axis=1))


def text_input(settings: Model, graph: Graph, x: Tensor) -> Tensor:
    """The frozen input of the text tower, computed once from the marked profiles ``x`` [N, t].

    Returns:
        float32 [N, t]: propagated for ``linear`` and ``post-mlp``; for ``sign`` [N, (L'+1)·t], every hop side by side
        (arXiv 2004.11198); as it is for ``mlp``, which propagates after the tower.
    """
    if settings.text_tower == "mlp":
        return x
    hops = graph.hops(x, settings.text_layers)
    if settings.text_tower == "sign":
        return torch.cat(hops, dim=1)
    return sum(hops[1:], hops[0]) / len(hops)


class Recommender(nn.Module):
    """Graph view, text view, fusion, normalisation and the popularity term.

    Args:
        graph: the training graph.
        counts: training interactions of each item, int [I].
        text: frozen input of the tower, see :func:`text_input`; needed where a text view takes part.
        has_text: bool [N], nodes with a training review; given together with ``text``.
        own: what leaves a pair's own review or edge out of its profiles (``settings.drop_own``).
        workers: who trains it together. Of E each holds its own block; initial numbers are those of a lone worker.
    """

    graph: Graph
    text: Tensor
    has_text: Tensor
    temperature: Tensor
    bias: Tensor | None

    def __init__(
        self,
        settings: Model,
        graph: Graph,
        counts: np.ndarray,
        text: Tensor | None = None,
        has_text: np.ndarray | None = None,
        own: OwnFree | None = None,
        workers: Workers | None = None,
    ):
        super().__init__()
        self.settings, self.graph, self.own = settings, graph, own
        self.workers = workers or Workers()
        self.num_users, self.num_items = graph.num_users, graph.num_items
        d = settings.dim
        self.table = Table(self.workers, self.num_users, self.num_items, d)
        if settings.features != "text":
            E = torch.empty(self.num_users + self.num_items, d).normal_(std=0.1)
            self.embedding = nn.Parameter(self.table.own(E))
        if text is not None:
            self.register_buffer("text", text, persistent=False)
            self.register_buffer("has_text", torch.as_tensor(has_text), persistent=False)
            self.tower: nn.Module = Linear(text.shape[1], d, bias=False)
            if settings.text_tower != "linear":
                self.tower = nn.Sequential(
                    Linear(text.shape[1], settings.hidden), nn.LeakyReLU(), Linear(settings.hidden, d)
                )
        if settings.features == "both" and settings.fusion == "gate":
            self.gate = Linear(2 * d, d)
        # A learned bias starts from the log-count, which alone is already a good popularity term.
        bias = torch.log1p(torch.as_tensor(counts, dtype=torch.float32))
        if settings.popularity == "learned":
            self.bias = nn.Parameter(bias)
        elif settings.popularity == "log-count":
            self.register_buffer("bias", bias)
        else:
            self.bias = None
        # τ that training used: the score needs it to weigh b; the objective keeps it up to date when it is learned.
        self.register_buffer("temperature", torch.ones(()))

    def hold_all(self, weights: dict[str, Tensor]) -> None:
        """Takes whole weights and works alone from here on."""
        if self.table.divided and "embedding" in weights:
            self.embedding = nn.Parameter(torch.empty_like(weights["embedding"], device=self.embedding.device))
        self.workers = Workers()
        self.table = Table(self.workers, self.num_users, self.num_items, self.settings.dim)
        self.load_state_dict(weights)

    # ------------------------------------------------------------ views

    def graph_view(
        self,
        rows: Tensor | None = None,
        *,
        features: Tensor | None = None,
        graph: Graph | None = None,
        noise: Noise | None = None,
        keep: int = 0,
        needs: Needs = None,
    ) -> tuple[Tensor, Tensor | None]:
        """G, and layer ``keep`` of it where one is asked for: float [N, d], or [len(rows), d] for nodes ``rows``.

        Args:
            features: instead of E, [N, d]; this worker's block of them.
            graph: instead of the whole training graph.
            noise: added after each layer, see :meth:`Graph.propagate`; to this worker's part of it.
            needs: rows of the result that each worker works on; others are zero.
        """
        s, part = self.settings, self.table.mine.part
        features = self.embedding if features is None else features
        view, kept = (graph or self.graph).propagate_keep(features, s.layers, keep, s.skip_input, noise, rows, part)
        return self.table.to_rows(view, needs), None if kept is None else self.table.to_rows(kept)

    def text_view(self, rows: Tensor | None = None, needs: Needs = None) -> Tensor:
        """T: float [N, d], or [len(rows), d] for node numbers ``rows``; ``needs`` as in :meth:`graph_view`."""
        s, workers, n = self.settings, self.workers, self.graph.num_nodes
        if s.text_tower == "mlp":
            mine = self.text[workers.share(n)] if self.table.divided else self.text
            nodes, part = self.table.to_block(self.tower(mine)), self.table.mine.part
            return self.table.to_rows(
                self.graph.propagate_keep(nodes, s.text_layers, 0, rows=rows, part=part)[0], needs
            )
        if rows is None:
            return workers.gather(self.tower(self.text[workers.share(n)]), n)
        if needs is None:
            return workers.gather(self.tower(self.text.index_select(0, rows[workers.share(len(rows))])), len(rows))
        return workers.spread(self.tower(self.text.index_select(0, rows[needs[workers.rank]])), needs, len(rows))

    def scored(self, graph: Tensor | None, text: Tensor | None, side: Side, kind: str = "") -> Tensor:
        """Z of some nodes, see :func:`fuse`."""
        return fuse(self.settings, graph, text, side, kind, getattr(self, "gate", None))

    def forward(
        self,
        users: Tensor,
        items: Tensor,
        *,
        need_text: bool = False,
        features: Tensor | None = None,
        noise: Noise | None = None,
        keep: int = 0,
        needs: Needs = None,
    ) -> Views:
        """The views of some users and some items.

        Args:
            users: int64 [n_u], without repetition.
            items: int64 [n_i], without repetition.
            need_text: the text view takes part in the loss although it is not scored.
            features, noise, keep: see :meth:`graph_view`.
            needs: for each worker the rows, of users and then items, that it works on; others are zero.
        """
        rows = torch.cat([users, items + self.num_users])
        graph = text = kept = None
        if self.settings.features != "text":
            graph, kept = self.graph_view(rows, features=features, noise=noise, keep=keep, needs=needs)
        if self.settings.features != "id" or need_text:
            text = self.text_view(rows, needs)
        return Views(
            graph=self._pair(graph, len(users)),
            text=self._pair(text, len(users)),
            scored=self._scored_pair(graph, text, len(users)),
            kept=self._pair(kept, len(users)),
        )

    @staticmethod
    def _pair(rows: Tensor | None, num_users: int) -> Pair | None:
        return None if rows is None else Pair(rows[:num_users], rows[num_users:])

    def _scored_pair(self, graph: Tensor | None, text: Tensor | None, num_users: int, kind: str = "") -> Pair:
        """Z of rows of users, then items."""
        g = (None, None) if graph is None else (graph[:num_users], graph[num_users:])
        t = (None, None) if text is None else (text[:num_users], text[num_users:])
        return Pair(self.scored(g[0], t[0], "user", kind), self.scored(g[1], t[1], "item", kind))

    def own_free(self, edges: Tensor, graph: Pair | None, users: Tensor, items: Tensor) -> Pair | None:
        """Z of each training pair without what the pair itself put into its text views, both [B, d].

        None where nothing is left out (``model.drop_own``).

        Args:
            edges: int64 [B], places in the training matrix.
            graph: the graph view of the step's rows.
            users, items: int64 [B], each pair's positions in it.
        """
        if self.own is None:
            return None
        x_u, x_i, _, _ = self.own(edges)
        g = (None, None) if graph is None else (graph.users.index_select(0, users), graph.items.index_select(0, items))
        return Pair(self.scored(g[0], self.tower(x_u), "user"), self.scored(g[1], self.tower(x_i), "item"))

    def has_text_of(self, nodes: Tensor, items: bool) -> Tensor:
        """bool [n]: which of these users, or items, have a training review."""
        return self.has_text[nodes + self.num_users if items else nodes]

    # ------------------------------------------------------------ scoring

    @torch.no_grad()
    def vectors(self) -> Pair:
        """Z of every user and item, as scoring normalises them."""
        s = self.settings
        kind = s.normalise if s.normalise_scores == "same" else s.normalise_scores
        graph = self.graph_view()[0] if s.features != "text" else None
        text = self.text_view() if s.features != "id" else None
        return self._scored_pair(graph, text, self.num_users, kind)

    @torch.no_grad()
    def scorer(self, popularity_weight: float = 1.0) -> FactorScorer:
        """``score(u, i) = <Z_u, Z_i> + w·τ·b_i`` with w = ``popularity_weight``."""
        z = self.vectors()
        bias = None if self.bias is None else popularity_weight * self.temperature * self.bias.detach()
        return FactorScorer(z.users, z.items, bias)

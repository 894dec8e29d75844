"""Vectors of users whom training never saw: from their own words, from items they liked, or from both.

A newcomer v is a node added to the trained graph, which itself stays as it is: x_v is the embedding of their text,
and an edge leads to each item of S, those they liked. Propagation is linear, so with the degrees d_i of training

    Â_v = Σ_{i ∈ S} e_i / sqrt(|S| d_i)         (Â^l H)_v = Σ_{i ∈ S} (Â^{l-1} H)_i / sqrt(|S| d_i)      l ≥ 1
    (mean_{l=0..L} Â^l H)_v = (h_v + Σ_{i ∈ S} A_i / sqrt(|S| d_i)) / (L + 1)        A = Σ_{l<L} Â^l H

and A, once for every item, is all that is needed of the graph. What v would send back to its items is left out, and
so is v's own share of their degrees: a newcomer with the text and the items of a user of training gets exactly that
user's vector. Without items v is an isolated node, whose hops are zero. A newcomer has no id embedding: E_v = 0.
"""

import copy
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from symcere.config import Model
from symcere.model.recommender import Recommender, fuse, normalise


@dataclass
class Newcomers:
    """Everything of a trained model that the vector of a new node needs, d columns a view, t of a text embedding."""

    settings: Model
    degrees: Tensor
    """Training interactions of each item, float32 [I]."""
    graph_sums: Tensor | None = None
    """A of the id embeddings, [I, d]; None where the model scores no graph view."""
    text_sums: Tensor | None = None
    """A of the text, [I, m]: after the tower where that stands before the propagation or is linear, else before it.
    For ``sign`` the L hops side by side instead of their sum. None where nothing of text is scored."""
    item_profiles: Tensor | None = None
    """Marked profiles of the items, [I, t + 2], where a user's profile is the mean of those of their items."""
    tower: nn.Module | None = None
    gate: nn.Module | None = None

    @classmethod
    @torch.no_grad()
    def of(cls, model: Recommender, profiles: Tensor | None) -> "Newcomers":
        """Taken from a trained model, on the CPU in float32.

        Args:
            profiles: [N, t + 2], marked, before any propagation; None for a model without a text tower.
        """
        s, U = model.settings, model.num_users
        graph = copy.deepcopy(model.graph).cpu()  # the model stays where it is
        degrees = graph.offsets.diff()[U:].float()
        made = cls(s, degrees, tower=_copy(getattr(model, "tower", None)), gate=_copy(getattr(model, "gate", None)))
        if s.features != "text":
            hops = graph.hops(model.embedding.detach().float().cpu(), s.layers)
            made.graph_sums = _sum([hop[U:] for hop in hops[:-1]], hops[0][U:])
        if s.features != "id":
            assert made.tower is not None
            assert profiles is not None
            inside = s.text_tower in ("linear", "mlp")
            hops = [h[U:] for h in graph.hops(made.tower(profiles) if inside else profiles, s.text_layers)]
            if s.text_tower != "sign":
                made.text_sums = _sum(hops[:-1], hops[0])
            elif s.text_layers:
                made.text_sums = torch.cat(hops[:-1], dim=1)
            if s.user_profile == "items":
                made.item_profiles = profiles[U:].clone()
        return made

    @property
    def reads_text(self) -> bool:
        """Whether words alone can describe a newcomer."""
        return self.settings.features != "id"

    @property
    def uses_items(self) -> bool:
        """Whether liked items alone can describe a newcomer: through propagation, or as the mean of their profiles."""
        s = self.settings
        through_text = s.features != "id" and (s.text_layers > 0 or s.user_profile == "items")
        return through_text or (s.features != "text" and s.layers > 0)

    @property
    def explains(self) -> bool:
        """Whether a text has a vector beside those of users: as part of the score, or aligned with it in training."""
        return self.tower is not None

    @torch.inference_mode()
    def text(self, X: np.ndarray) -> Tensor:
        """Text view of nodes that have a text and no edge: float32 [n, d] of embeddings [n, t]."""
        return self._text_view(X, np.ones(len(X), dtype=bool), None)

    @torch.inference_mode()
    def users(self, X: np.ndarray | None, has_text: np.ndarray, liked: sp.csr_array) -> Tensor:
        """Z of new users, float32 [B, dim of Z].

        Args:
            X: [B, t] embeddings of their texts, any value where there is none; None where nobody has any.
            has_text: bool [B].
            liked: [B, I], an entry for each item they liked.
        """
        s = self.settings
        weights = self._weights(liked)
        graph = text = None
        if self.graph_sums is not None:
            graph = _product(weights, self.graph_sums) / (s.layers + (not s.skip_input))
        if s.features != "id":
            text = self._text_view(X, has_text, weights)
        return fuse(s, graph, text, "user", self._kind, self.gate)

    @torch.inference_mode()
    def items(self, X: np.ndarray) -> Tensor:
        """Z of new items that have a text and no edge, float32 [n, dim of Z], of embeddings [n, t]."""
        s = self.settings
        graph = None if self.graph_sums is None else torch.zeros(len(X), self.graph_sums.shape[1], dtype=torch.float32)
        return fuse(s, graph, self.text(X) if s.features != "id" else None, "item", self._kind, self.gate)

    def compared(self, Z: Tensor) -> Tensor:
        """The part of scored vectors [n, dim of Z] that a text is compared with, rows of length one, [n, d]."""
        concat = self.settings.features == "both" and self.settings.fusion == "concat"
        return normalise(Z[:, -self.settings.dim :] if concat else Z, "l2", "user")

    @property
    def _kind(self) -> str:
        return "" if self.settings.normalise_scores == "same" else self.settings.normalise_scores

    def _weights(self, liked: sp.csr_array) -> sp.csr_array:
        """Â_v of each newcomer, [B, I]."""
        degrees = np.maximum(self.degrees.numpy(), 1)
        rows = np.repeat(np.arange(liked.shape[0]), np.diff(liked.indptr))
        data = 1 / np.sqrt(np.diff(liked.indptr)[rows] * degrees[liked.indices])
        return sp.csr_array((data.astype(np.float32), liked.indices, liked.indptr), shape=liked.shape)

    def _text_view(self, X: np.ndarray | None, has_text: np.ndarray, weights: sp.csr_array | None) -> Tensor:
        """T of newcomers, [B, d]; without ``weights`` they have no edges."""
        s, tower = self.settings, self.tower
        assert tower is not None
        inside = s.text_tower in ("linear", "mlp")
        own = self._marked(X, has_text)
        if weights is not None and s.user_profile == "items":
            own = self._of_items(own, weights)
        if inside:
            own = tower(own)
        L = s.text_layers
        if s.text_tower == "sign":
            if L:
                below = own.new_zeros(len(own), L * own.shape[1])
                if weights is not None:
                    assert self.text_sums is not None
                    below = _product(weights, self.text_sums)
                own = torch.cat([own, below], dim=1)
            return tower(own)
        if weights is not None and L:
            assert self.text_sums is not None
            own = own + _product(weights, self.text_sums)
        own = own / (L + 1)
        return own if inside else tower(own)

    def _marked(self, X: np.ndarray | None, has_text: np.ndarray) -> Tensor:
        """The tower's input [B, t + 2]; see :func:`symcere.model.recommender.marked`."""
        marked = torch.zeros(len(has_text), self._width, dtype=torch.float32)
        there = torch.from_numpy(np.asarray(has_text, dtype=bool))
        if X is not None:
            marked[there, :-2] = torch.from_numpy(np.ascontiguousarray(X[has_text], dtype=np.float32))
        marked[~there, -2] = 1
        return marked

    @property
    def _width(self) -> int:
        assert self.tower is not None
        hops = self.settings.text_layers + 1 if self.settings.text_tower == "sign" else 1
        return next(self.tower.parameters()).shape[1] // hops

    def _of_items(self, own: Tensor, weights: sp.csr_array) -> Tensor:
        """``own`` [B, t + 2], replaced by the mean of the profiles of their items for those who have any."""
        assert self.item_profiles is not None
        described = self.item_profiles[:, -1:] == 0
        ones = sp.csr_array((np.ones_like(weights.data), weights.indices, weights.indptr), shape=weights.shape)
        count = _product(ones, described.float())
        return torch.where(count > 0, _product(ones, self.item_profiles * described) / count.clamp(min=1), own)


def _sum(layers: list[Tensor], like: Tensor) -> Tensor:
    return sum(layers[1:], layers[0].clone()) if layers else torch.zeros_like(like)


def _copy(module: nn.Module | None) -> nn.Module | None:
    return None if module is None else copy.deepcopy(module).float().cpu().requires_grad_(False)


def _product(matrix: sp.csr_array, rows: Tensor) -> Tensor:
    return torch.from_numpy(np.asarray(matrix @ rows.numpy(), dtype=np.float32))
